"""States in host memory never pass their capacity, and the least recently used go first."""

from hypothesis import given
from hypothesis import strategies as st

from corlld.loop.memory.stored import Residency, Resident, state_nbytes
from tests.support.states import UID, released_state, tombstone

STATE = released_state()
SIZE = state_nbytes(STATE)


def test_a_state_counts_with_its_tensors_and_its_event_ids() -> None:
    assert STATE.adapter is not None
    ids = sum(len(event_id) for event_id in STATE.recent_event_ids)
    assert SIZE - state_nbytes(tombstone()) > STATE.adapter.nbytes + ids


def test_a_state_is_kept_with_its_token() -> None:
    residency = Residency(SIZE)
    residency.put(UID, STATE, "7")
    assert residency.get(UID) == Resident(STATE, "7")
    assert residency.get("someone else") is None


def test_the_least_recently_used_goes_first() -> None:
    residency = Residency(2 * SIZE)
    residency.put("a", STATE, "1")
    residency.put("b", STATE, "1")
    residency.get("a")
    residency.put("c", STATE, "1")
    assert [uid for uid in "abc" if residency.get(uid)] == ["a", "c"]


def test_a_newer_state_takes_the_place_of_the_older_one() -> None:
    residency = Residency(2 * SIZE)
    residency.put("a", STATE, "1")
    residency.put("a", tombstone(), "2")
    assert residency.nbytes == state_nbytes(tombstone())
    assert residency.get("a") == Resident(tombstone(), "2")


def test_a_state_larger_than_the_capacity_is_not_kept() -> None:
    residency = Residency(SIZE - 1)
    residency.put("a", STATE, "1")
    assert (len(residency), residency.nbytes) == (0, 0)


def test_what_is_reserved_is_not_there_for_stored_states() -> None:
    residency = Residency(3 * SIZE)
    for uid in ("a", "b", "c"):
        residency.put(uid, STATE, "1")
    residency.reserve(2 * SIZE - 1)
    assert [uid for uid in "abc" if uid in residency] == ["c"]
    residency.put("d", STATE, "1")
    assert [uid for uid in "abcd" if uid in residency] == ["d"]
    residency.reserve(9 * SIZE)
    assert (len(residency), residency.nbytes, residency.room_bytes) == (0, 0, 0)


def test_that_nothing_is_stored_of_a_user_is_kept_too() -> None:
    residency = Residency(SIZE)
    residency.put("new", None, "0")
    assert residency.get("new") == Resident(None, "0")
    assert residency.nbytes > 0
    residency.drop_partition("t/0")
    assert residency.get("new") is None, "any owner may have made it meanwhile"


def test_states_of_a_partition_are_dropped() -> None:
    residency = Residency(2 * SIZE)
    residency.put("a", released_state(applied={"t/0": 1}), "1")
    residency.put("b", released_state(applied={"t/1": 1}), "1")
    residency.drop_partition("t/0")
    assert residency.get("a") is None
    assert residency.get("b") is not None


@given(st.lists(st.tuples(st.sampled_from(["put", "get", "drop"]), st.sampled_from("abcdef")), max_size=60))
def test_memory_stays_within_the_capacity(steps: list[tuple[str, str]]) -> None:
    residency = Residency(3 * SIZE)
    for step, uid in steps:
        match step:
            case "put":
                residency.put(uid, STATE, "1")
            case "get":
                residency.get(uid)
            case "drop":
                residency.drop(uid)
        assert residency.nbytes == len(residency) * SIZE <= 3 * SIZE
