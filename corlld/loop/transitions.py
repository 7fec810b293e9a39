"""Derives a user's next state from the present state: the exactly-once rules, as pure functions.

An arrival is covered if the state's `applied` has passed its offset. It is a duplicate if the state knows its event id:
`event_ids` has the table of what is learnt and what erases. Both are judged when the step starts, against the very
state that is trained.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from corlld.durable import ModuleNames, Release, Statistics, UserState
from corlld.loop.event_ids import EventIds
from corlld.records import Arrival, EditEvent, EraseEvent, UpdateOutcome
from corlld.statistics import fold

REPAIR_HEADER = "corlld.repair"  # of a record that a repair has sent again: the id of the repair


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """An arrival's place among the arrivals of a user: by time, then tenure, then offset."""

    arrived_at: float
    tenure: int
    offset: int


@dataclass(frozen=True, slots=True)
class Selection:
    """A user's arrivals, sorted by what the state knows of them. Each part is in order.

    covered: the stored state has them already, so nothing is left to do.
    duplicates: the event id was seen at another offset, or the event was sent again for another state: see `select`.
        `applied` must pass them durably: once the state has forgotten the id, a replay would count them again.
    fresh: new.
    """

    covered: tuple[Arrival, ...] = ()
    duplicates: tuple[Arrival, ...] = ()
    fresh: tuple[Arrival, ...] = ()

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        return (*self.covered, *self.duplicates, *self.fresh)

    def __add__(self, later: "Selection") -> "Selection":
        return Selection(self.covered + later.covered, self.duplicates + later.duplicates, self.fresh + later.fresh)

    def through(self, last: Place) -> "Selection":
        """Return the arrivals whose `place` is at most `last`."""
        parts = (self.covered, self.duplicates, self.fresh)
        return Selection(*(tuple(arrival for arrival in part if place(arrival) <= last) for part in parts))


def place(arrival: Arrival) -> Place:
    """Return the arrival's place in the order in which arrivals came."""
    return Place(arrival.arrived_at, arrival.record.tenure.number, arrival.record.offset)


def repair_in(headers: Iterable[tuple[str, bytes]]) -> str | None:
    """Return the id of the repair that has sent the record with these headers again; None if none has."""
    # Kafka has headers without a value, whatever the type says.
    return next(((value or b"").decode(errors="replace") for name, value in headers if name == REPAIR_HEADER), None)


def is_for(repairs: str | None, sent_by: str | None) -> bool:
    """Return whether what this repair has sent is for a state that came of these repairs. None: sent by none."""
    return repairs is None or sent_by is None or sent_by in repairs.split()


def select(
    ids: EventIds, state: UserState | None, arrivals: Iterable[Arrival], already: Selection | None = None
) -> Selection:
    """Sort `arrivals` by what the state knows of them, and add them to those `already` selected for the same step.

    What a repair has sent again is for the generation that it put in place, and for what came of that. An erasure may
    have come since: its tombstone does not know the ids of edits that the generation lacked.
    """
    already = already or Selection()
    covered, duplicates, fresh = list(already.covered), list(already.duplicates), list(already.fresh)
    applied = state.applied if state else {}
    known = ids.known(state)
    seen = {arrival.event.event_id for arrival in fresh}
    for arrival in arrivals:
        event_id = arrival.event.event_id
        if arrival.record.offset < applied.get(arrival.record.tenure.partition.key, 0):
            covered.append(arrival)
        elif event_id and (event_id in seen or known(event_id)):
            duplicates.append(arrival)  # a Kafka tombstone has no id
        elif state and state.repair is not None and not is_for(state.repair, repair_in(arrival.record.headers)):
            duplicates.append(arrival)
        else:
            seen.add(event_id)
            fresh.append(arrival)
    return Selection(tuple(covered), tuple(duplicates), tuple(fresh))


def after_update(
    ids: EventIds, uid: str, state: UserState | None, selection: Selection, outcome: UpdateOutcome
) -> UserState:
    """Return the state with the micro-batch in it. Its version stays that of the stored state; see `next_version`.

    Args:
        ids: remembers the events' ids.
        uid: the user's pseudonym.
        state: the state that was trained; None for a new user.
        selection: the arrivals that the step started from. Every fresh event is an edit.
        outcome: the learner's outcome for the fresh events.
    """
    before = state or UserState(uid)
    events = [a.event for a in selection.fresh if isinstance(a.event, EditEvent)]
    applied = _passed(before, (*selection.duplicates, *selection.fresh))
    statistics = fold(before.statistics, events, outcome.pairs, trained=outcome.trained, head=before.version)
    return replace(
        ids.remember(before, (event.event_id for event in events)),
        adapter=outcome.adapter,
        applied=applied,
        statistics=statistics,
        erased=before.erased and not events,
    )


def next_version(state: UserState, module_names: ModuleNames | None) -> UserState:
    """Return the state under the next version, as it is stored if tensors were trained since the last version.

    module_names: the model's. The release keeps them, so that its bytes stay the same if the model gets other names.
    """
    parent = state.release.version if state.release else None
    release = Release(state.version + 1, parent, state.applied, state.statistics, module_names)
    return replace(state, version=release.version, release=release)


def after_erasure(ids: EventIds, uid: str, state: UserState | None, arrivals: Sequence[Arrival]) -> UserState:
    """Return the tombstone: it keeps nothing of the user but what stops a replay from bringing the user back.

    The user's arm goes too: it would be drawn again from the uid, as for anybody who is new. The new erasures' own
    event ids stay as they are: an older corlld knows no hashes, and must not erase once more what comes in from now on.
    A repair that has not sent all records has nothing more to send, unless it has sent the erasures itself.

    Args:
        ids: keeps hashes of all the ids of before.
        uid: the user's pseudonym.
        state: the state before; None for a new user.
        arrivals: all arrivals that the last erasure covers, erasures included.
    """
    before = state or UserState(uid)
    erased = ids.erase(before, (a.event.event_id for a in arrivals if isinstance(a.event, EditEvent)))
    known = ids.known(erased)
    erasures = dict.fromkeys(a.event.event_id for a in arrivals if isinstance(a.event, EraseEvent))
    erased_by = [repair_in(a.record.headers) for a in arrivals if isinstance(a.event, EraseEvent)]
    sent_again = all(map(before.came_of, erased_by))
    return replace(
        ids.remember(erased, (event_id for event_id in erasures if event_id and not known(event_id))),
        adapter=None,
        applied=_passed(before, arrivals),
        statistics=Statistics(),
        release=None,
        erased=True,
        erased_through=before.version,
        participation=None,
        repair=before.repair if before.repair is None or sent_again else "",
    )


def _passed(state: UserState, arrivals: Iterable[Arrival]) -> dict[str, int]:
    applied = dict(state.applied)
    for arrival in arrivals:
        key = arrival.record.tenure.partition.key
        applied[key] = max(applied.get(key, 0), arrival.record.next_offset)
    return applied
