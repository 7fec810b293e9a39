"""What was erased stays erased, whatever is delivered again, in whatever order and topic; what is new is learnt."""

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from corlld.durable import UserState
from corlld.loop.event_ids import HASH_BYTES, EventIds
from corlld.loop.transitions import after_erasure, after_update, place, select
from corlld.records import Arrival, EraseEvent, PairOutcome, PairStatus, SourcePartition, Tenure, UpdateOutcome
from tests.support.daemon_parts import PSEUDONYMS
from tests.support.event_ids import event_ids, hashes
from tests.support.fakes import NOON, Applied, arrival, edit_event

PLACES = tuple(
    Tenure(SourcePartition(topic, f"{topic}-id", partition), 1, 0)
    for topic in ("edits", "copy")
    for partition in (0, 1)
)


def deliver(ids: EventIds, state: UserState | None, batch: list[Arrival]) -> UserState | None:
    """Take a micro-batch through the transitions, as the stages do: an erasure covers what came before it."""
    selection = select(ids, state, batch)
    erasures = [a for a in selection.fresh if isinstance(a.event, EraseEvent)]
    if erasures:
        last = max(map(place, erasures))
        state = after_erasure(ids, "u1", state, [a for a in batch if place(a) <= last])
        return deliver(ids, state, [a for a in batch if place(a) > last])
    if not selection.fresh and not selection.duplicates:
        return state
    new = tuple(a.event.event_id for a in selection.fresh)
    adapter = state.adapter if state else None
    before = adapter.event_ids if isinstance(adapter, Applied) else ()
    outcome = UpdateOutcome(
        "u1",
        Applied(before + new) if new else adapter,
        trained=bool(new),
        pairs=tuple(PairOutcome(PairStatus.APPLIED) for _ in new),
    )
    return after_update(ids, "u1", state, selection, outcome)


def learnt(state: UserState | None) -> tuple[str, ...]:
    adapter = state.adapter if state else None
    return adapter.event_ids if isinstance(adapter, Applied) else ()


def surviving(deliveries: list[str]) -> tuple[str, ...]:
    """The edits whose first delivery came after the first delivery of the last new erasure, in that order."""
    kept: list[str] = []
    for event_id in dict.fromkeys(deliveries):
        if event_id.startswith("erase"):
            kept.clear()
        else:
            kept.append(event_id)
    return tuple(kept)


def arrivals(deliveries: list[tuple[str, Tenure]]) -> list[Arrival]:
    offsets = dict.fromkeys(PLACES, 0)
    made = []
    for at, (event_id, of) in enumerate(deliveries):
        event = EraseEvent(event_id, "ann", NOON) if event_id.startswith("erase") else edit_event(event_id)
        made.append(arrival(offsets[of], event, at=float(at), of=of))
        offsets[of] += 1
    return made


def run(ids: EventIds, deliveries: list[tuple[str, Tenure]], sizes: list[int]) -> UserState | None:
    """Deliver in micro-batches of these sizes; the last one takes the rest."""
    waiting = arrivals(deliveries)
    state: UserState | None = None
    for size in (*sizes, len(waiting)):
        state = deliver(ids, state, waiting[:size])
        waiting = waiting[size:]
    return state


HISTORIES = st.lists(st.sampled_from(["edit", "edit", "erase"]), max_size=20).map(
    lambda kinds: [f"{kind}{number}" for number, kind in enumerate(kinds)]
)


@st.composite
def delivered_again(draw: st.DrawFn) -> list[str]:
    """A history in order, with any part of it delivered again anywhere later: repeated, in any order."""
    deliveries: list[str] = []
    for event_id in draw(HISTORIES):
        if deliveries:
            deliveries += draw(st.lists(st.sampled_from(deliveries), max_size=3))
        deliveries.append(event_id)
    if deliveries:
        deliveries += draw(st.lists(st.sampled_from(deliveries), max_size=30))
    return deliveries


@example(["edit0", "erase1", "edit0", "erase1"], 2, 0, [])
@example(["erase0", "edit1", "erase2", "edit3", "erase0"], 2, 1, [])
@given(delivered_again(), st.integers(1, 25), st.integers(0, 3), st.lists(st.integers(1, 6), max_size=8))
def test_i8_the_state_holds_the_edits_after_the_last_new_erasure_whatever_is_delivered_again(
    deliveries: list[str], recent: int, elsewhere: int, sizes: list[int]
) -> None:
    """Of the first deliveries, all come from one topic. The others come from anywhere."""
    seen: set[str] = set()
    places = []
    for at, event_id in enumerate(deliveries):
        places.append((event_id, PLACES[(at * elsewhere) % len(PLACES) if event_id in seen else 0]))
        seen.add(event_id)
    state = run(event_ids(recent), places, sizes)
    assert learnt(state) == surviving(deliveries)
    if state is not None:
        assert state.erased == (not surviving(deliveries))
        assert len(state.recent_event_ids) <= recent


def test_beyond_the_bound_the_oldest_ids_are_forgotten_first_and_the_state_stays_small() -> None:
    ids = event_ids(3, older=4)
    state = run(ids, [(f"edit{i}", PLACES[0]) for i in range(20)], [1] * 20)
    assert state is not None
    assert state.recent_event_ids == ("edit17", "edit18", "edit19")
    assert state.older_event_ids == hashes("edit13", "edit14", "edit15", "edit16")
    assert [ids.known(state)(f"edit{i}") for i in range(20)] == [False] * 13 + [True] * 7


def test_without_hashes_only_the_window_is_known() -> None:
    state = run(event_ids(2, older=0), [(f"edit{i}", PLACES[0]) for i in range(5)], [1] * 5)
    assert state is not None
    assert (state.recent_event_ids, state.older_event_ids) == (("edit3", "edit4"), b"")


def test_an_erased_id_stands_in_no_tombstone_as_it_is() -> None:
    state = run(event_ids(9), [("edit-of-ann", PLACES[0]), ("erase1", PLACES[0])], [1])
    assert state is not None
    assert state.recent_event_ids == ("erase1",)
    assert b"edit-of-ann" not in state.older_event_ids
    assert len(state.older_event_ids) == HASH_BYTES


def test_a_hash_that_shows_between_two_others_is_not_known() -> None:
    wanted = PSEUDONYMS.event_id_hash("u1", "edit")
    between = UserState("u1", older_event_ids=b"abc" + wanted + b"defgh")
    assert not event_ids(1).known(between)("edit")
    assert event_ids(1).known(replace(between, older_event_ids=between.older_event_ids + wanted))("edit")
