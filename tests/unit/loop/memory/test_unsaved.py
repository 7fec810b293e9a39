"""Unsaved updates are due by count, by age, or if there are too many; stored states make room for them."""

from hypothesis import given
from hypothesis import strategies as st

from corlld.durable import UserState
from corlld.loop.memory.cache import StoredState, StoredStates, state_nbytes
from corlld.loop.memory.host_memory import HostMemory
from corlld.loop.memory.unsaved import BUFFER_SHARE, Unsaved, UnsavedStates
from corlld.loop.transitions import Selection
from corlld.records import Arrival
from corlld.settings.sections import Settings, SnapshotSettings
from tests.support.fakes import Applied, arrival, edit_event

NEVER = 1e6
SIZE = state_nbytes(UserState("a", adapter=Applied()))
CHARS = edit_event("e").chars


def states(
    *, every_updates: int = 100, every_seconds: float = NEVER, capacity: int = 100 * SIZE, max_events: int = 1_000
) -> tuple[UnsavedStates, StoredStates]:
    stored = StoredStates(capacity)
    settings = SnapshotSettings(every_updates=every_updates, every_seconds=every_seconds)
    return UnsavedStates(settings, stored, max_events, max_events * CHARS), stored


def unsaved(uid: str, *, updates: int = 1, since: float = 0.0, applied: str = "t/0", events: int = 1) -> Unsaved:
    state = UserState(uid, adapter=Applied(), applied={applied: 1})
    fresh: tuple[Arrival, ...] = tuple(arrival(offset, uid=uid) for offset in range(events))
    return Unsaved(state, "1", since, Selection(fresh=fresh), updates)


def test_updates_gather_and_count_from_the_first() -> None:
    first, second = Selection(fresh=(arrival(0),)), Selection(duplicates=(arrival(1),))
    one = Unsaved(UserState("a"), "1", since=3.0).and_then(UserState("a"), first, trained=True)
    two = one.and_then(UserState("a", applied={"t/0": 2}), second, trained=False)
    assert (one.updates, one.trained) == (1, True)
    assert two == Unsaved(UserState("a", applied={"t/0": 2}), "1", 3.0, first + second, 2, trained=True)
    assert two.selection == Selection(duplicates=second.duplicates, fresh=first.fresh)


def test_a_user_is_due_after_so_many_updates_or_so_long() -> None:
    kept, _ = states(every_updates=3, every_seconds=10)
    kept.put(unsaved("few", updates=2, since=5.0))
    kept.put(unsaved("many", updates=3, since=5.0))
    assert list(kept.due(14.9)) == ["many"]
    assert list(kept.due(15.0)) == ["few", "many"]
    assert kept.oldest_since() == 5.0


def test_where_states_take_more_than_host_memory_those_trained_longest_ago_are_due() -> None:
    kept, _ = states(capacity=2 * SIZE)
    for uid in ("a", "b", "c", "d"):
        kept.put(unsaved(uid))
    assert list(kept.due(0.0)) == ["a", "b"]
    again = kept.take("a")
    assert again is not None
    kept.put(again)
    assert list(kept.due(0.0)) == ["b", "c"]


def test_their_arrivals_leave_a_part_of_the_buffer_to_others() -> None:
    kept, _ = states(max_events=20)
    kept.put(unsaved("a", events=4))
    kept.put(unsaved("b", events=6))
    assert BUFFER_SHARE * 20 == 10
    assert list(kept.due(0.0)) == []
    kept.put(unsaved("c", events=1))
    assert list(kept.due(0.0)) == ["a"]


def test_stored_states_give_way_and_have_the_room_again_afterwards() -> None:
    kept, stored = states(capacity=2 * SIZE)
    for uid in ("x", "y"):
        stored.put(uid, UserState(uid, adapter=Applied()), "1")
    kept.put(unsaved("a"))
    assert ["x" in stored, "y" in stored] == [False, True]
    kept.take("a")
    stored.put("z", UserState("z", adapter=Applied()), "1")
    assert ["y" in stored, "z" in stored] == [True, True]


def test_a_user_is_in_host_memory_once() -> None:
    memory = HostMemory(Settings())
    memory.put_stored("a", UserState("a", adapter=Applied()), "1")
    assert isinstance(memory.begin("a"), StoredState)
    memory.put_unsaved(unsaved("a"))
    assert (memory.users, memory.nbytes) == (1, SIZE)
    assert memory.begin("a") == unsaved("a")
    assert (memory.begin("a"), memory.users, memory.nbytes) == (None, 0, 0), "what was stored before is of no use"


def test_a_partitions_updates_are_given_up_and_others_stay() -> None:
    kept, _ = states()
    kept.put(unsaved("a", applied="t/0"))
    kept.put(unsaved("b", applied="t/1"))
    assert [one.state.uid for one in kept.take_partition("t/0")] == ["a"]
    assert list(kept) == ["b"]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 4)), max_size=40))
def test_whoever_is_not_due_fits(steps: list[tuple[str, int]]) -> None:
    kept, stored = states(capacity=3 * SIZE, max_events=12)
    for uid, events in steps:
        kept.take(uid)
        kept.put(unsaved(uid, events=events))
        for due in list(kept.due(0.0)):
            assert kept.take(due) is not None
        held = [one for uid in list(kept) if (one := kept.take(uid)) is not None]
        assert sum(state_nbytes(one.state) for one in held) <= 3 * SIZE
        assert sum(one.events for one in held) <= 6
        assert (kept.nbytes, stored.room_bytes) == (0, 3 * SIZE)
        for one in held:
            kept.put(one)
