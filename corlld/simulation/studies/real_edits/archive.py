"""An archive of real edits: whose they are, and which of them were made together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corlld.errors import ExitCode, FatalError, InvalidEvent
from corlld.events.decoder import EventDecoder
from corlld.events.strict_json import parse_object
from corlld.records import EditEvent, EraseEvent
from corlld.settings.sections import EventSettings

MAX_EDITS_A_COMMIT = 3
MAX_CHARS = 800  # of an edit's three texts: longer ones would cost the budget, and are left out


@dataclass(frozen=True, slots=True)
class Edit:
    """commit: edits of one commit are alike, and are drawn again together."""

    event: EditEvent
    commit: str


@dataclass(frozen=True, slots=True)
class Editor:
    """name: a made-up one, since user ids may be names. edits: in the archive's order, as many as are used."""

    name: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Editors whose edits are reported, and others on whose edits rules were compared before."""

    reported: tuple[Editor, ...]
    validation: tuple[Editor, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Editors, and edits of each of them, at equal numbers: who edits more than others does not count for more."""

    editors: int
    edits: int
    validation_editors: int
    validation_edits: int


def read_edits(archive: Path) -> dict[str, list[Edit]]:
    """Each user's edits in the archive's order: those that change something, and are not too long.

    Raises FatalError for a file that can't be read, or with a line that is no event with a `prompt` or has no `commit`.
    """
    try:
        lines = archive.read_bytes().splitlines()
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
        if isinstance(event, EraseEvent) or event.is_acceptance or event.chars > MAX_CHARS:
            continue
        if not isinstance(commit, str) or not commit:
            raise FatalError(
                f"--edits: {archive}: line {number} has no `commit`: a text that is the same for edits made together, "
                "without which no interval can be told",
                ExitCode.DATA,
            )
        if of_commit[event.user_id, commit] < MAX_EDITS_A_COMMIT:
            of_commit[event.user_id, commit] += 1
            found.setdefault(event.user_id, []).append(Edit(event, commit))
    return found


def split(edits: dict[str, list[Edit]], sizes: Sizes) -> Split:
    """Those who edited most are reported, the next ones are for validation; of each the first edits count.

    Raises FatalError where there are too few of them.
    """
    ranked = sorted(edits, key=lambda user: (-len(edits[user]), user))
    reported, others = ranked[: sizes.editors], ranked[sizes.editors :]
    validation = [user for user in others if len(edits[user]) >= sizes.validation_edits][: sizes.validation_editors]
    enough = [user for user in reported if len(edits[user]) >= sizes.edits]
    if len(enough) < sizes.editors:
        raise FatalError(
            f"--edits: {sizes.editors} editors with {sizes.edits} edits of at most {MAX_CHARS} characters are needed, "
            f"and it has {len(enough)}; of a commit at most {MAX_EDITS_A_COMMIT} edits count",
            ExitCode.DATA,
        )
    if len(validation) < sizes.validation_editors:
        raise FatalError(
            f"--edits: besides those who edited most, {sizes.validation_editors} editors with {sizes.validation_edits} "
            f"edits are needed, for validation, and it has {len(validation)}",
            ExitCode.DATA,
        )
    return Split(
        _named("editor", reported, edits, sizes.edits),
        _named("validation editor", validation, edits, sizes.validation_edits),
    )


def _named(kind: str, users: Sequence[str], edits: dict[str, list[Edit]], number: int) -> tuple[Editor, ...]:
    return tuple(Editor(f"{kind} {place}", tuple(edits[user][:number])) for place, user in enumerate(users, 1))
