"""Chooses dead letters by reason, user, place and time, and yields each of them once, however many copies there are."""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console

from corlld.commands.chosen_user import ambiguous, beginning
from corlld.commands.shared import REACH_SECONDS, read_user
from corlld.errors import ConfigurationError, InvalidReason
from corlld.events.strict_json import parse_time
from corlld.records import LetterStream, StoredLetter
from corlld.settings.sections import Settings
from corlld.system.progress import Advance, shown

REMEMBERED_LETTERS = 500_000  # about 50 MB
SHOWN_STEPS = 10_000  # fewer records are read before anybody looks


@dataclass(frozen=True, slots=True)
class Wanted:
    """The letters that a command line asks for.

    Args:
        reasons: empty for all.
        uid: the user's pseudonym, or its first digits; None for all.
        place: a letter's key, or TOPIC-PARTITION-OFFSET of its record; None for all.
        first_offset: letters of records before this offset are left out.
        since_seconds: letters that were stored before this time are left out; in seconds since 1970.
    """

    reasons: frozenset[str] = frozenset()
    uid: str | None = None
    place: str | None = None
    first_offset: int = 0
    since_seconds: float | None = None

    def includes(self, letter: StoredLetter) -> bool:
        """Return whether the letter is asked for. The stream itself has left out what is before `since_seconds`."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (self.uid is None or (letter.uid or "").startswith(self.uid))
            and self.place in (None, letter.key, place_of(letter))
            and letter.offset >= self.first_offset
        )


def place_of(letter: StoredLetter) -> str:
    """Return the place of the letter's record: TOPIC-PARTITION-OFFSET."""
    return letter.partition.place(letter.offset)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that `wanted_by` reads."""
    parser.add_argument(
        "--reason",
        action="append",
        default=[],
        metavar="REASON",
        choices=[reason.value for reason in InvalidReason],
        help="only letters of this reason; may be repeated",
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--user", metavar="USER", help="only letters of this user, by user_id; `-` reads it from standard input"
    )
    who.add_argument("--uid", type=beginning, help="only letters of this user, by pseudonym or by its first digits")
    parser.add_argument(
        "--since",
        type=_since,
        metavar="OFFSET|TIME",
        help="only letters of records from this offset on, or those stored since this time (2026-01-31T12:00:00Z; "
        "letters in a file have no time)",
    )


def wanted_by(arguments: argparse.Namespace, settings: Settings) -> Wanted:
    """Return what the options ask for. Raises FatalError for a USER that no event can have."""
    from corlld.assembly import pseudonyms

    since = arguments.since
    uid = arguments.uid if arguments.user is None else pseudonyms(settings).uid(read_user(arguments.user))
    return Wanted(
        reasons=frozenset(arguments.reason),
        uid=uid,
        place=getattr(arguments, "letter", None),
        first_offset=since if isinstance(since, int) else 0,
        since_seconds=since.timestamp() if isinstance(since, datetime) else None,
    )


def _since(text: str) -> int | datetime:
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        return parse_time(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be an offset, or a time as 2026-01-31T12:00:00Z, not {text!r}"
        ) from None


class Reading:
    """Reads the letters that are wanted, each once, in the order of topic or file.

    Compaction removes older copies of a letter, but not at once. Copies lie close together: a daemon that is killed
    sets the same records aside again. So the last `REMEMBERED_LETTERS` are remembered, and memory is bounded.
    """

    def __init__(self, stream: LetterStream, wanted: Wanted, console: Console) -> None:
        self._stream = stream
        self._wanted = wanted
        self._console = console if stream.steps >= SHOWN_STEPS else Console(quiet=True)
        self.place = stream.place
        self.copies = 0  # of wanted letters, beyond the first of each
        self.foreign = 0  # records or lines that are no letters of corlld
        self._uid: str | None = None  # of the first letter, if those of one user are wanted

    def __iter__(self) -> Iterator[StoredLetter]:
        with Advance(self._console, self._stream.steps, self._stream.unit) as advance:
            yield from self._once(self._letters(advance))

    def _letters(self, advance: Advance) -> Iterator[StoredLetter]:
        for steps, letter in self._stream.letters:
            advance(steps)
            if letter is None:
                self.foreign += 1
            elif self._wanted.includes(letter):
                self._refuse_another_user(letter)
                yield letter

    def _refuse_another_user(self, letter: StoredLetter) -> None:
        """Raise FatalError if letters of one user are wanted, and those of two begin with the digits given."""
        if self._wanted.uid is None or letter.uid is None:
            return
        self._uid = self._uid or letter.uid
        if letter.uid != self._uid:
            raise ambiguous(self._wanted.uid, [self._uid, letter.uid])

    def _once(self, letters: Iterable[StoredLetter]) -> Iterator[StoredLetter]:
        seen: dict[int, None] = {}  # hashes of keys, oldest first
        for letter in letters:
            if (known := hash(letter.key)) in seen:
                self.copies += 1
                continue
            seen[known] = None
            if len(seen) > REMEMBERED_LETTERS:
                del seen[next(iter(seen))]
            yield letter


@contextmanager
def reading(settings: Settings, wanted: Wanted, console: Console) -> Iterator[Reading]:
    """Open the letters that the settings name and that are wanted.

    Raises ConfigurationError if the settings name no input, and what `Input.stored_letters` raises.
    """
    from corlld.assembly import build_input

    the_input = build_input(settings, REACH_SECONDS)
    if problems := the_input.problems():
        raise ConfigurationError("\n".join(f"{name}: {problem}" for name, problem in problems.items()))
    letters = the_input.stored_letters(wanted.since_seconds, settings.operations.startup_timeout_seconds)
    with ExitStack() as opened:
        with shown(console, "reaching the dead letters"):
            stream = opened.enter_context(letters)
        yield Reading(stream, wanted, console)
