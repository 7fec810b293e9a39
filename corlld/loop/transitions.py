"""Derives a user's next state from the present state: the exactly-once rules, as pure functions.

An arrival is covered if the state's `applied` has passed its offset. It is a duplicate if its event id is among the
recent ids. Both are judged when the step starts, against the very state that is trained.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from corlld.durable import ModuleNames, Release, Statistics, UserState
from corlld.records import Arrival, EditEvent, EraseEvent, UpdateOutcome
from corlld.statistics import fold


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
    duplicates: the event id was seen at another offset. `applied` must pass them durably: once the window of recent ids
        has moved on, a replay would count them again.
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


def select(state: UserState | None, arrivals: Iterable[Arrival], already: Selection | None = None) -> Selection:
    """Sort `arrivals` by what the state knows of them, and add them to those `already` selected for the same step."""
    already = already or Selection()
    covered, duplicates, fresh = list(already.covered), list(already.duplicates), list(already.fresh)
    applied = state.applied if state else {}
    seen = set(state.recent_event_ids if state else ()) | {arrival.event.event_id for arrival in fresh}
    for arrival in arrivals:
        if arrival.record.offset < applied.get(arrival.record.tenure.partition.key, 0):
            covered.append(arrival)
        elif arrival.event.event_id in seen and arrival.event.event_id:  # a Kafka tombstone has none
            duplicates.append(arrival)
        else:
            seen.add(arrival.event.event_id)
            fresh.append(arrival)
    return Selection(tuple(covered), tuple(duplicates), tuple(fresh))


def after_update(
    uid: str, state: UserState | None, selection: Selection, outcome: UpdateOutcome, recent_event_ids: int
) -> UserState:
    """Return the state with the micro-batch in it. Its version stays that of the stored state; see `next_version`.

    Args:
        uid: the user's pseudonym.
        state: the state that was trained; None for a new user.
        selection: the arrivals that the step started from. Every fresh event is an edit.
        outcome: the learner's outcome for the fresh events.
        recent_event_ids: how many event ids are remembered.
    """
    before = state or UserState(uid)
    events = [a.event for a in selection.fresh if isinstance(a.event, EditEvent)]
    applied = _passed(before, (*selection.duplicates, *selection.fresh))
    statistics = fold(before.statistics, events, outcome.pairs, trained=outcome.trained, head=before.version)
    return replace(
        before,
        adapter=outcome.adapter,
        applied=applied,
        recent_event_ids=(before.recent_event_ids + tuple(e.event_id for e in events))[-recent_event_ids:],
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


def after_erasure(uid: str, state: UserState | None, arrivals: Sequence[Arrival]) -> UserState:
    """Return the tombstone: it keeps nothing of the user but what stops a replay from bringing the user back.

    The user's arm goes too: it would be drawn again from the uid, as for anybody who is new.
    The erasures' own event ids stay: an erasure that is delivered twice must not erase what came in between.

    Args:
        uid: the user's pseudonym.
        state: the state before; None for a new user.
        arrivals: all arrivals that the last erasure covers, erasures included.
    """
    before = state or UserState(uid)
    return replace(
        before,
        adapter=None,
        applied=_passed(before, arrivals),
        recent_event_ids=tuple(
            a.event.event_id for a in arrivals if isinstance(a.event, EraseEvent) and a.event.event_id
        ),
        statistics=Statistics(),
        release=None,
        erased=True,
        erased_through=before.version,
        participation=None,
    )


def _passed(state: UserState, arrivals: Iterable[Arrival]) -> dict[str, int]:
    applied = dict(state.applied)
    for arrival in arrivals:
        key = arrival.record.tenure.partition.key
        applied[key] = max(applied.get(key, 0), arrival.record.next_offset)
    return applied
