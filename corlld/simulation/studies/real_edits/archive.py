"""An archive of real edits: its editors, and which edits were made together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from corlld.errors import ExitCode, FatalError, InvalidEvent
from corlld.events.decoder import EventDecoder
from corlld.events.strict_json import parse_object
from corlld.records import EditEvent, EraseEvent
from corlld.settings.sections import EventSettings
from corlld.system.formats import refuse_other_formats
from corlld.system.lines import texts

MAX_EDITS_A_COMMIT = 3
MAX_CHARS = 220  # of the proposed and of the edited text: longer edits would cost the budget, and are left out
CONTEXT_CHARS = 120  # of a prompt: its last ones are given to the model


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit. commit: edits of one commit are alike, so the bootstrap draws them together."""

    event: EditEvent
    commit: str


@dataclass(frozen=True, slots=True)
class Editor:
    """One editor. name: made up, since user ids may be names. edits: those that are used, in the archive's order."""

    name: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """The editors that are reported, and the others, on whom rules are compared."""

    reported: tuple[Editor, ...]
    validation: tuple[Editor, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of editors, and of edits per editor: `least` are needed, at most `most` are used."""

    editors: int
    validation_editors: int
    least: int
    most: int


def read_edits(archive: Path, max_chars: int = MAX_CHARS) -> dict[str, list[Edit]]:
    """Return each user's edits in the archive's order. Acceptances, and edits of longer texts, are left out.

    Raises FatalError if the file can't be read, or if a line is no event with a `prompt`, or has no `commit`.
    """
    try:
        with archive.open("rb") as file:
            refuse_other_formats(file, f"--edits: {archive}")
            lines = list(texts(file))
    except OSError as error:
        raise FatalError(f"--edits: {archive}: {error.strerror}", ExitCode.USAGE) from None
    decoder = EventDecoder(EventSettings(), supports_messages=False, key_required=False)
    found: dict[str, list[Edit]] = {}
    of_commit: Counter[tuple[str, str]] = Counter()
    for number, line in enumerate(lines, 1):
        try:
            event = decoder.decode(None, line, ())
            commit = parse_object(line).get("commit")
        except InvalidEvent as error:
            raise FatalError(f"--edits: {archive}: line {number}: {error}", ExitCode.DATA) from None
        if isinstance(event, EraseEvent) or event.is_acceptance or _longest(event) > max_chars:
            continue
        if not isinstance(commit, str) or not commit:
            raise FatalError(
                f"--edits: {archive}: line {number} has no `commit`: a text that is the same for edits made together, "
                "without which no interval can be computed",
                ExitCode.DATA,
            )
        if of_commit[event.user_id, commit] < MAX_EDITS_A_COMMIT:
            of_commit[event.user_id, commit] += 1
            short = replace(event, prompt=(event.prompt or "")[-CONTEXT_CHARS:])
            found.setdefault(event.user_id, []).append(Edit(short, commit))
    return found


def split(edits: dict[str, list[Edit]], sizes: Sizes) -> Split:
    """Split the users: those with the most edits are reported, the next are for validation.

    Only the first edits of each count. Raises FatalError if there are too few editors with enough edits.
    """
    ranked = sorted(edits, key=lambda user: (-len(edits[user]), user))
    enough = [user for user in ranked if len(edits[user]) >= sizes.least]
    needed = sizes.editors + sizes.validation_editors
    if len(enough) < needed:
        raise FatalError(
            f"--edits: {needed} editors with {sizes.least} edits of texts of at most {MAX_CHARS} characters are needed "
            f"({sizes.editors} to report, {sizes.validation_editors} for validation), and it has {len(enough)}; of a "
            f"commit at most {MAX_EDITS_A_COMMIT} edits count",
            ExitCode.DATA,
        )
    return Split(
        _named("editor", enough[: sizes.editors], edits, sizes.most),
        _named("validation editor", enough[sizes.editors : needed], edits, sizes.most),
    )


def _longest(event: EditEvent) -> int:
    return max(len(event.proposed), len(event.edited))


def _named(kind: str, users: Sequence[str], edits: dict[str, list[Edit]], number: int) -> tuple[Editor, ...]:
    return tuple(Editor(f"{kind} {place}", tuple(edits[user][:number])) for place, user in enumerate(users, 1))
