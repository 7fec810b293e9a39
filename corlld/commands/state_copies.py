"""Copies of a state store: `corlld state export` to a folder, `corlld state import` from one.

A copy is itself a state store in a folder, whatever kind of store it was made from. So it can be looked into, verified
and used like any other.

The journal of attempts is not copied: it belongs to a group's offsets at one time. Of dead letters that were sent and
not committed there may be copies, and crashes are counted anew.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable

from corlld.commands.copied_state import Copied, CopiedStore, copy_state
from corlld.commands.out_of_reach import OutOfReach
from corlld.durable import OutboxNote
from corlld.errors import ExitCode, FatalError, RetriableError, StateUnreadable
from corlld.publishing.outbox import Outbox
from corlld.state.keys import is_repair_name
from corlld.system.progress import Advance

UNFINISHED = frozenset(Copied) - {Copied.COPIED, Copied.ERASED_AGAIN, Copied.ALREADY_THERE}
_STILL_OUT = (
    ". The user's published versions are withdrawn by a daemon that publishes: at the user's next event, or when it "
    "comes to the user as it looks through all versions. Until then `corlld state verify` names what is still published"
)


def open_copy(source: CopiedStore, destination: CopiedStore, *, where: str) -> None:
    """Make the destination a store of the same owner as the source, or check that it is one.

    Args:
        source: must be a store.
        destination: a store of the same owner, or none yet.
        where: names the source in messages.

    Raises FatalError if the source is no store, ConfigurationError if the destination belongs to other settings.
    """
    owner = source.identity()
    if owner is None:
        raise FatalError(f"{where} is not a state store: store.json is not there", ExitCode.DATA)
    destination.open(owner, must_exist=False)


def copy_states(
    source: CopiedStore,
    destination: CopiedStore,
    uids: Iterable[str],
    advance: Advance,
    *,
    replace_others: bool,
    hashed: Callable[[str, str], bytes] | None,
    from_backup: bool = False,
) -> tuple[Counter[Copied], list[str]]:
    """Copy users' states one by one. Returns counts, and a line for each user who was not copied, or erased again.

    A state from before an erasure at the destination is never copied, also if the user came back. A state at the
    destination is replaced only if `replace_others`, and by one whose version is no lower: versions never go back.

    Args:
        hashed: as for `EventIds`; None without the secret. Then an erasure of a user without a version is not seen once
            the user came back.
        from_backup: say who had a state at the destination and is erased by the source. A backup that is brought up to
            date takes over an erasure, and nothing is said.

    Raises ConfigurationError if a daemon works on the destination meanwhile, RetriableError if a store is away.
    """
    counts: Counter[Copied] = Counter()
    left: list[str] = []
    out_of_reach = OutOfReach()
    for uid in uids:
        try:
            outcome = copy_state(source, destination, uid, replace_others=replace_others, hashed=hashed)
        except RetriableError as error:
            outcome = Copied.OUT_OF_REACH
            left.append(out_of_reach.note(uid, error))
        else:
            out_of_reach.served()
            if outcome is Copied.ERASED_AGAIN and not from_backup:
                outcome = Copied.COPIED
            if outcome in UNFINISHED:
                left.append(f"{uid}: {outcome}")
            elif outcome is Copied.ERASED_AGAIN:
                left.append(f"{uid}: {outcome}{_STILL_OUT}")
        counts[outcome] += 1
        advance(1)
    out_of_reach.finish()
    return counts, left


def copy_positions(source: CopiedStore, destination: CopiedStore) -> None:
    """Copy how far file sources have read, and the names of topics without ids. What is there already stays.

    Notes of repairs are left out: they belong to the states of the source.
    """
    for name in itertools.filterfalse(is_repair_name, source.position_names()):
        position = source.load_position(name)
        if position is not None and destination.load_position(name) is None:
            destination.save_position(name, position)


def copy_notes(source: CopiedStore, destination: CopiedStore) -> list[str]:
    """Copy the notes on users who are still to be announced. Returns a sentence for each note that can't be read.

    A note that comes too late does no harm: the newest version that is out is announced once more.

    Raises RetriableError if a note can't be written.
    """
    there, _ = _notes(destination.outbox)
    notes, left = _notes(source.outbox)
    for note in notes:
        if note not in there:
            destination.outbox.add(note)
    return [f"not copied: {problem}" for problem in left]


def _notes(outbox: Outbox) -> tuple[list[OutboxNote], list[str]]:
    """Return the notes that can be read, and why others can't."""
    notes: list[OutboxNote] = []
    problems: list[str] = []
    for name in outbox.names():
        try:
            note = outbox.read(name)
        except (StateUnreadable, RetriableError) as error:
            problems.append(str(error))
            continue
        if note is not None:
            notes.append(note)
    return notes, problems
