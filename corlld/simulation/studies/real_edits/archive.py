"""An archive of real edits: its editors, and which edits were made together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corlld.errors import ExitCode, FatalError, InvalidEvent
from corlld.events.decoder import EventDecoder
from corlld.events.strict_json import parse_object
from corlld.records import EditEvent, EraseEvent
from corlld.settings.sections import EventSettings
from corlld.system.formats import refuse_other_formats
from corlld.system.lines import texts

MAX_EDITS_A_COMMIT = 3
MAX_CHARS = 800  # of an edit's three texts together: longer edits would cost the budget, and are left out


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
    """Numbers of editors and of edits per editor. All have equally many: a busy editor does not count for more."""

    editors: int
    edits: int
    validation_editors: int
    validation_edits: int


def read_edits(archive: Path) -> dict[str, list[Edit]]:
    """Return each user's edits in the archive's order. Acceptances and too long edits are left out.

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
        if isinstance(event, EraseEvent) or event.is_acceptance or event.chars > MAX_CHARS:
            continue
        if not isinstance(commit, str) or not commit:
            raise FatalError(
                f"--edits: {archive}: line {number} has no `commit`: a text that is the same for edits made together, "
                "without which no interval can be computed",
                ExitCode.DATA,
            )
        if of_commit[event.user_id, commit] < MAX_EDITS_A_COMMIT:
            of_commit[event.user_id, commit] += 1
            found.setdefault(event.user_id, []).append(Edit(event, commit))
    return found


def split(edits: dict[str, list[Edit]], sizes: Sizes) -> Split:
    """Split the users: those with the most edits are reported, the next are for validation.

    Only the first edits of each count. Raises FatalError if there are too few editors or edits.
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
            f"--edits: besides the editors with the most edits, {sizes.validation_editors} editors with "
            f"{sizes.validation_edits} edits are needed, for validation, and it has {len(validation)}",
            ExitCode.DATA,
        )
    return Split(
        _named("editor", reported, edits, sizes.edits),
        _named("validation editor", validation, edits, sizes.validation_edits),
    )


def _named(kind: str, users: Sequence[str], edits: dict[str, list[Edit]], number: int) -> tuple[Editor, ...]:
    return tuple(Editor(f"{kind} {place}", tuple(edits[user][:number])) for place, user in enumerate(users, 1))
