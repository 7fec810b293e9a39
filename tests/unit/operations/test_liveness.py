"""Stuck is distinguished from slow by the loop's turns and by the trainer's progress in a call of the learner."""

from corlld.operations.liveness import Liveness
from tests.support.fakes import loop_status


def test_before_the_loop_begins_nothing_is_judged() -> None:
    assert Liveness(10).problem(1e9) is None


def test_a_first_turn_that_never_ends_is_stuck_after_the_limit() -> None:
    liveness = Liveness(10)
    liveness.begins(100)
    assert liveness.problem(110) is None
    assert liveness.problem(111) == "the loop has not turned for 11 s"
    liveness.turned(loop_status(now=112))
    assert liveness.problem(113) is None


def test_a_call_of_store_or_publisher_that_never_returns_is_stuck_though_the_loop_turns() -> None:
    liveness = Liveness(10)
    liveness.turned(loop_status(now=20, longest_call_seconds=10))
    assert liveness.problem(20) is None
    liveness.turned(loop_status(now=21, longest_call_seconds=11))
    assert liveness.problem(21) == "a call of the state store or the publisher has not returned for 11 s"
    liveness.turned(loop_status(now=22))
    assert liveness.problem(22) is None


def test_a_loop_that_turns_is_alive_and_one_that_does_not_is_stuck_after_the_limit() -> None:
    liveness = Liveness(10)
    liveness.turned(loop_status(now=100))
    assert liveness.problem(110) is None
    assert liveness.problem(111) == "the loop has not turned for 11 s"
    liveness.turned(loop_status(now=112))
    assert liveness.problem(113) is None


def test_a_long_call_of_the_learner_is_alive_as_long_as_its_progress_changes() -> None:
    liveness = Liveness(10)
    for now in range(100):
        liveness.turned(loop_status(now=now, training=True, trainer_progress=now // 9))
        assert liveness.problem(now) is None


def test_a_trainer_without_progress_is_stuck_though_the_loop_turns() -> None:
    liveness = Liveness(10)
    for now in range(12):
        liveness.turned(loop_status(now=now, training=True, trainer_progress=5))
    assert liveness.problem(10) is None
    assert liveness.problem(11) == "the trainer has made no progress for 11 s"
    liveness.turned(loop_status(now=12, training=True, trainer_progress=6))
    assert liveness.problem(12) is None


def test_a_trainer_with_nothing_to_do_is_not_stuck_and_its_next_call_has_the_whole_limit() -> None:
    liveness = Liveness(10)
    for now in range(50):
        liveness.turned(loop_status(now=now))
    assert liveness.problem(50) is None
    for now in range(50, 60):
        liveness.turned(loop_status(now=now, training=True))
        assert liveness.problem(now) is None
