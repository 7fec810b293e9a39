"""States are loaded ahead: each once per micro-batch, a few at a time, and never more than fit."""

from corlld.loop.memory.cache import StoredStates, state_nbytes
from corlld.loop.memory.prefetch import LOADS_AT_A_TIME, MEMORY_SHARE, Prefetch
from tests.support.states import released_state

STATE = released_state()
SIZE = state_nbytes(STATE)


def load(prefetch: Prefetch, stored: StoredStates) -> str | None:
    if (uid := prefetch.next()) is not None:
        prefetch.loaded(uid, STATE)
        stored.put(uid, STATE, "1")
    return uid


def test_users_are_loaded_in_the_order_their_edits_came_in_and_once() -> None:
    stored = StoredStates(1_000 * SIZE)
    prefetch = Prefetch(stored)
    for uid in ("a", "b", "a"):
        prefetch.expect(uid)
    assert [load(prefetch, stored) for _ in range(3)] == ["a", "b", None]
    stored.drop("a")  # pushed out: it would only be pushed out again
    prefetch.expect("a")
    assert load(prefetch, stored) is None
    prefetch.forget("a")  # its micro-batch began
    prefetch.expect("a")
    assert load(prefetch, stored) == "a"


def test_who_is_in_host_memory_is_not_loaded() -> None:
    stored = StoredStates(1_000 * SIZE)
    stored.put("a", STATE, "1")
    prefetch = Prefetch(stored)
    prefetch.expect("a")
    assert prefetch.next() is None


def test_a_few_loads_are_under_way_at_a_time() -> None:
    prefetch = Prefetch(StoredStates(1_000 * SIZE))
    for uid in "abcdef":
        prefetch.expect(uid)
    begun = [prefetch.next() for _ in range(LOADS_AT_A_TIME + 1)]
    assert begun == [*"abcdef"[:LOADS_AT_A_TIME], None]
    prefetch.loaded("a", STATE)
    assert prefetch.next() == "abcdef"[LOADS_AT_A_TIME]


def test_no_more_are_loaded_ahead_than_fit_beside_what_is_reserved() -> None:
    assert MEMORY_SHARE == 0.5
    stored = StoredStates(9 * SIZE)
    prefetch = Prefetch(stored)
    for uid in "abcdef":
        prefetch.expect(uid)
    assert [load(prefetch, stored) for _ in range(5)] == ["a", "b", "c", "d", None]
    prefetch.forget("a")
    stored.reserve(2 * SIZE)
    assert load(prefetch, stored) is None, "room for three and a half, and three wait"
    stored.reserve(0)
    assert load(prefetch, stored) == "e"


def test_where_edits_were_dropped_nobody_is_expected_any_more() -> None:
    stored = StoredStates(1_000 * SIZE)
    prefetch = Prefetch(stored)
    prefetch.expect("a")
    assert load(prefetch, stored) == "a"
    stored.drop("a")
    prefetch.expect("b")
    prefetch.clear()
    assert prefetch.next() is None
    prefetch.expect("a")
    assert load(prefetch, stored) == "a"
