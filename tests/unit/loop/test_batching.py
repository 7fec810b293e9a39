"""Micro-batches are due by size or age, fair, bounded, and in order."""

from hypothesis import given
from hypothesis import strategies as st

from corlld.loop.batching import Batcher
from corlld.records import Arrival, EraseEvent
from corlld.settings.sections import BatchingSettings
from tests.support.fakes import NOON, arrival, tenure


def batcher(**settings: float) -> Batcher:
    return Batcher(BatchingSettings.model_validate({"max_events": 3, "flush_after_seconds": 10.0, **settings}))


def erase(offset: int, uid: str = "u1") -> Arrival:
    return arrival(offset, EraseEvent(f"e{offset}", "ann", NOON), uid=uid)


def test_a_user_is_due_at_the_batch_size() -> None:
    b = batcher()
    for offset in range(2):
        b.add(arrival(offset))
    assert list(b.ready(now=0.0)) == []
    b.add(arrival(2))
    assert list(b.ready(now=0.0)) == ["u1"]


def test_a_user_is_due_when_the_oldest_event_is_old_enough() -> None:
    b = batcher()
    b.add(arrival(0, at=5.0))
    b.add(arrival(1, at=14.0))
    assert list(b.ready(now=14.9)) == []
    assert list(b.ready(now=15.0)) == ["u1"]
    assert b.next_due_seconds(now=14.0) == 1.0


def test_batches_keep_the_order_and_the_limit() -> None:
    b = batcher()
    arrivals = [arrival(offset) for offset in range(5)]
    for a in arrivals:
        b.add(a)
    assert b.take("u1", 3).arrivals == tuple(arrivals[:3])
    assert b.take("u1", 3).arrivals == tuple(arrivals[3:])
    assert b.take("u1", 3).arrivals == ()


def test_it_tells_for_whom_arrivals_wait_and_for_whom_an_erasure() -> None:
    b = batcher()
    b.add(arrival(0, uid="edits"))
    b.add(erase(1, uid="erased"))
    asked = ("edits", "erased", "nobody")
    assert [uid in b for uid in asked] == [True, True, False]
    assert [b.erases(uid) for uid in asked] == [False, True, False]
    b.take("edits", 1)
    b.take("erased", 1)
    assert not any(uid in b or b.erases(uid) for uid in asked)


def test_users_take_turns_so_that_a_busy_one_does_not_starve_the_others() -> None:
    b = batcher(max_events=1)
    for offset in range(10):
        b.add(arrival(offset, uid="busy"))
    b.add(arrival(10, uid="calm"))
    assert next(iter(b.ready(now=0.0))) == "busy"
    b.take("busy", 1)
    assert next(iter(b.ready(now=0.0))) == "calm"


def test_what_was_put_back_comes_first_and_in_order() -> None:
    b = batcher()
    arrivals = [arrival(offset) for offset in range(4)]
    for a in arrivals[:3]:
        b.add(a)
    taken = b.take("u1", 3).arrivals
    b.add(arrivals[3])
    b.put_back(taken)
    assert b.take("u1", 9).arrivals == tuple(arrivals)


def test_what_was_taken_counts_until_it_is_released() -> None:
    b = batcher(max_buffered_events=3)
    arrivals = [arrival(offset) for offset in range(3)]
    for a in arrivals:
        b.add(a)
    b.take("u1", 3)
    assert b.full
    b.release(arrivals)
    assert (b.full, b.has_room, b.events, b.chars) == (False, True, 0, 0)


def test_characters_are_bounded_as_well() -> None:
    b = batcher(max_buffered_chars=10)  # an event of the tests has 1 + 5 + 4 characters
    b.add(arrival(0))
    assert b.full


def test_a_full_buffer_makes_everyone_due_so_that_reading_can_go_on() -> None:
    b = batcher(max_buffered_events=2, max_events=2, flush_after_seconds=1e9)
    b.add(arrival(0, uid="u1"))
    b.add(arrival(1, uid="u2"))
    assert list(b.ready(now=0.0)) == ["u1", "u2"]


def test_between_the_marks_everyone_is_still_due_or_reading_would_never_go_on() -> None:
    b = batcher(max_buffered_events=10, max_events=5, flush_after_seconds=1e9)
    arrivals = [arrival(offset, uid=f"u{offset}") for offset in range(10)]
    for a in arrivals:
        b.add(a)
    b.release(b.take("u0", 5).arrivals)
    assert not b.full
    assert not b.has_room
    assert len(list(b.ready(now=0.0))) == 9


def test_users_that_are_being_worked_on_are_left_out() -> None:
    b = batcher(max_events=1)
    b.add(arrival(0, uid="u1"))
    b.add(arrival(1, uid="u2"))
    assert list(b.ready(now=0.0, exclude={"u1"})) == ["u2"]


def test_an_erasure_is_due_at_once_and_takes_everything_before_it() -> None:
    b = batcher(max_events=2, flush_after_seconds=1e9)
    arrivals = [arrival(0), arrival(1), arrival(2), erase(3)]
    for a in arrivals:
        b.add(a)
    b.add(arrival(4))
    assert list(b.ready(now=0.0)) == ["u1"]
    batch = b.take("u1", 2)
    assert batch.arrivals == tuple(arrivals)
    assert [a.record.offset for a in b.take("u1", 9).arrivals] == [4]


def test_an_ended_tenure_takes_its_waiting_arrivals_along() -> None:
    ended, kept = tenure(0, 1), tenure(1, 2)
    b = batcher()
    b.add(arrival(0, of=ended))
    b.add(arrival(0, of=kept))
    b.add(arrival(1, uid="u2", of=ended))
    b.drop(ended)
    assert b.events == 1
    assert [a.record.tenure for a in b.take("u1", 9).arrivals] == [kept]
    assert b.take("u2", 9).arrivals == ()


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "take", "put_back", "release"])), max_size=60)
)
def test_nothing_is_lost_doubled_or_reordered_and_the_counts_hold(steps: list[tuple[str, str]]) -> None:
    b = batcher(max_events=2)
    added: dict[str, list[Arrival]] = {uid: [] for uid in "abc"}
    taken: dict[str, list[Arrival]] = {uid: [] for uid in "abc"}
    done: dict[str, list[Arrival]] = {uid: [] for uid in "abc"}
    for offset, (uid, verb) in enumerate(steps):
        if verb == "add":
            added[uid].append(arrival(offset, uid=uid))
            b.add(added[uid][-1])
        elif verb == "take" and not taken[uid]:
            taken[uid] = list(b.take(uid, 2).arrivals)
        elif verb == "put_back":
            b.put_back(taken[uid])
            taken[uid] = []
        elif verb == "release":
            b.release(taken[uid])
            done[uid] += taken[uid]
            taken[uid] = []
        in_memory = sum(len(added[u]) - len(done[u]) for u in "abc")
        assert b.events == in_memory
        assert b.chars == sum(a.chars for u in "abc" for a in added[u][len(done[u]) :])
    for uid in "abc":
        assert done[uid] + taken[uid] + list(b.take(uid, 999).arrivals) == added[uid]


def test_held_events_take_no_room_up_to_the_limit_of_the_buffer_and_count_above_it() -> None:
    b, held = batcher(max_buffered_events=3), tenure(1, 2)
    for offset in range(3):
        b.add(arrival(offset, uid="held", of=held))
    assert b.full
    b.held = [held]
    assert (b.full, b.has_room) == (False, True)
    assert list(b.users_held()) == ["held"]
    b.add(arrival(3, uid="held", of=held))
    b.add(arrival(0))
    assert not b.full
    b.add(arrival(1))
    assert b.full, "memory is bounded by twice the limit"
    b.drop(held)
    assert (b.events, b.full, b.has_room) == (2, False, True)
