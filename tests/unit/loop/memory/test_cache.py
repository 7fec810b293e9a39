"""States in host memory never pass their capacity, and the least recently used go first."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from corlld.loop.memory.cache import StoredState, StoredStates, state_nbytes
from tests.support.states import UID, released_state, tombstone

STATE = released_state()
SIZE = state_nbytes(STATE)


def test_a_state_counts_with_its_tensors_and_its_event_ids() -> None:
    assert STATE.adapter is not None
    ids = sum(len(event_id) for event_id in STATE.recent_event_ids)
    assert SIZE - state_nbytes(tombstone()) > STATE.adapter.nbytes + ids
    assert state_nbytes(replace(tombstone(), older_event_ids=bytes(800))) == state_nbytes(tombstone()) + 800


def test_a_state_is_kept_with_its_token() -> None:
    stored = StoredStates(SIZE)
    stored.put(UID, STATE, "7")
    assert stored.get(UID) == StoredState(STATE, "7")
    assert stored.get("someone else") is None


def test_the_least_recently_used_goes_first() -> None:
    stored = StoredStates(2 * SIZE)
    stored.put("a", STATE, "1")
    stored.put("b", STATE, "1")
    stored.get("a")
    stored.put("c", STATE, "1")
    assert [uid for uid in "abc" if stored.get(uid)] == ["a", "c"]


def test_a_newer_state_takes_the_place_of_the_older_one() -> None:
    stored = StoredStates(2 * SIZE)
    stored.put("a", STATE, "1")
    stored.put("a", tombstone(), "2")
    assert stored.nbytes == state_nbytes(tombstone())
    assert stored.get("a") == StoredState(tombstone(), "2")


def test_a_state_larger_than_the_capacity_is_not_kept() -> None:
    stored = StoredStates(SIZE - 1)
    stored.put("a", STATE, "1")
    assert (len(stored), stored.nbytes) == (0, 0)


def test_what_is_reserved_is_not_there_for_stored_states() -> None:
    stored = StoredStates(3 * SIZE)
    for uid in ("a", "b", "c"):
        stored.put(uid, STATE, "1")
    stored.reserve(2 * SIZE - 1)
    assert [uid for uid in "abc" if uid in stored] == ["c"]
    stored.put("d", STATE, "1")
    assert [uid for uid in "abcd" if uid in stored] == ["d"]
    stored.reserve(9 * SIZE)
    assert (len(stored), stored.nbytes, stored.room_bytes) == (0, 0, 0)


def test_that_nothing_is_stored_of_a_user_is_kept_too() -> None:
    stored = StoredStates(SIZE)
    stored.put("new", None, "0")
    assert stored.get("new") == StoredState(None, "0")
    assert stored.nbytes > 0
    stored.drop_partition("t/0")
    assert stored.get("new") is None, "any owner may have made it meanwhile"


def test_states_of_a_partition_are_dropped() -> None:
    stored = StoredStates(2 * SIZE)
    stored.put("a", released_state(applied={"t/0": 1}), "1")
    stored.put("b", released_state(applied={"t/1": 1}), "1")
    stored.drop_partition("t/0")
    assert stored.get("a") is None
    assert stored.get("b") is not None


@given(st.lists(st.tuples(st.sampled_from(["put", "get", "drop"]), st.sampled_from("abcdef")), max_size=60))
def test_memory_stays_within_the_capacity(steps: list[tuple[str, str]]) -> None:
    stored = StoredStates(3 * SIZE)
    for step, uid in steps:
        match step:
            case "put":
                stored.put(uid, STATE, "1")
            case "get":
                stored.get(uid)
            case "drop":
                stored.drop(uid)
        assert stored.nbytes == len(stored) * SIZE <= 3 * SIZE
