"""A task is tried until it is done, with pauses; only a retriable error leads to another try."""

from collections.abc import Callable
from concurrent.futures import Future

import pytest
from structlog.testing import capture_logs

from corlld.errors import FatalError, LostSwap, RetriableError
from corlld.loop.jobs import FIRST_RETRY_SECONDS, Jobs, Task, Unless
from corlld.observer import Observer
from corlld.records import Stage

ANNS_STATE, BOBS_VERSION = Task(Stage.STATE, "ann"), Task(Stage.PUBLISHING, "bob")
LATER = 10 * FIRST_RETRY_SECONDS


class Retries(Observer):
    def __init__(self) -> None:
        self.stages: list[Stage] = []

    def will_retry(self, stage: Stage) -> None:
        self.stages.append(stage)


def tries(*outcomes: str | Exception) -> "Callable[[], Future[str]]":
    """Return a `begin` whose tries end, in turn, with these results and errors."""
    rest = iter(outcomes)

    def begin() -> "Future[str]":
        future: Future[str] = Future()
        outcome = next(rest)
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return future

    return begin


def test_a_task_that_fails_for_now_is_tried_again_after_a_pause_and_ends_once() -> None:
    observer, done = Retries(), list[str]()
    jobs = Jobs(LATER, lambda: 0.0, observer)
    with capture_logs() as lines:
        jobs.until_done(ANNS_STATE, tries(RetriableError("away"), RetriableError("away"), "stored"), done.append)
        jobs.handle_completions()
        jobs.run_due_retries(0.0)
        jobs.handle_completions()
        assert (done, jobs.failing_stages, len(observer.stages)) == ([], [Stage.STATE], 1), "it pauses"
        for _ in range(2):
            jobs.run_due_retries(LATER)
            jobs.handle_completions()
    assert (done, jobs.failing_stages) == (["stored"], [])
    assert observer.stages == [Stage.STATE, Stage.STATE]
    assert [(line["event"], line.get("failures")) for line in lines] == [
        ("will_try_again", 1),
        ("will_try_again", 2),
        ("works_again", None),
    ]
    jobs.run_due_retries(1e9)
    jobs.handle_completions()
    assert done == ["stored"]


def test_a_task_that_is_not_needed_any_more_ends_and_nobody_says_that_it_works_again() -> None:
    done, needed = list[str](), True
    begin = tries(RetriableError("away"))
    jobs = Jobs(LATER, lambda: 0.0, Observer())
    with capture_logs() as lines:
        jobs.until_done(ANNS_STATE, lambda: begin() if needed else None, done.append)
        jobs.handle_completions()
        needed = False
        jobs.run_due_retries(LATER)
        jobs.handle_completions()
    assert (done, jobs.failing_stages) == ([], [])
    assert [line["event"] for line in lines] == ["will_try_again"]


def test_the_error_that_a_task_names_ends_it_and_it_fails_no_longer() -> None:
    jobs = Jobs(LATER, lambda: 0.0, Observer())
    done: list[str] = []
    lost: list[LostSwap] = []
    error = LostSwap("newer")
    with capture_logs() as lines:
        jobs.until_done(ANNS_STATE, tries(RetriableError("away"), error), done.append, Unless(LostSwap, lost.append))
        jobs.handle_completions()
        jobs.run_due_retries(LATER)
        jobs.handle_completions()
    assert (done, lost, jobs.failing_stages) == ([], [error], [])
    assert [line["event"] for line in lines] == ["will_try_again"], "it did not work again"


def test_any_other_error_is_raised_in_the_loop() -> None:
    jobs = Jobs(LATER, lambda: 0.0, Observer())
    error = FatalError("other content")
    jobs.until_done(ANNS_STATE, tries(error), pytest.fail, Unless(LostSwap, pytest.fail))
    with pytest.raises(FatalError) as raised:
        jobs.handle_completions()
    assert raised.value is error


def test_tasks_are_counted_each_by_itself() -> None:
    jobs = Jobs(LATER, lambda: 0.0, Observer())
    done: list[str] = []
    jobs.until_done(ANNS_STATE, tries(RetriableError("away")), done.append)
    jobs.until_done(BOBS_VERSION, tries(RetriableError("away"), "out"), done.append)
    jobs.handle_completions()
    assert jobs.failing_stages == [Stage.PUBLISHING, Stage.STATE]
    jobs.until_done(Task(Stage.STATE, "bob"), tries("stored"), done.append)
    jobs.handle_completions()
    assert (done, jobs.failing_stages) == (["stored"], [Stage.PUBLISHING, Stage.STATE])


def test_the_pause_doubles_up_to_its_limit() -> None:
    limit = 3 * FIRST_RETRY_SECONDS
    jobs = Jobs(limit, lambda: 0.0, Observer())
    with capture_logs() as lines:
        jobs.until_done(ANNS_STATE, tries(*[RetriableError("away")] * 5), pytest.fail)
        jobs.handle_completions()
        for _ in range(4):
            jobs.run_due_retries(limit)
            jobs.handle_completions()
    pauses = [line["pause_seconds"] for line in lines]
    for pause, most in zip(pauses, [1, 2, 3, 3, 3], strict=True):
        assert 0.5 * most * FIRST_RETRY_SECONDS <= pause <= most * FIRST_RETRY_SECONDS * (1 + 1e-9)
