"""The loop's reports reach every observer, in time, also while it stops."""

import inspect
import itertools
import threading
from typing import Any

import pytest

from corlld.errors import RetriableError
from corlld.observer import Observer, Observers
from corlld.records import LoopStatus, Stage
from tests.support.daemon_parts import Parts, begun, records, value
from tests.support.fakes import ListingLearner, ScriptedSource

CALLS = [name for name, _ in inspect.getmembers(Observer, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_passed_on_to_all_with_its_arguments(call: str) -> None:
    heard: list[tuple[str, tuple[object, ...]]] = []

    class Listener(Observer):
        def __init__(self, name: str) -> None:
            self.name = name

    def hear(self: Listener, *arguments: object) -> None:
        heard.append((self.name, arguments))

    setattr(Listener, call, hear)
    arguments = tuple(object() for _ in list(inspect.signature(getattr(Observer, call)).parameters)[1:])
    getattr(Observers(Listener("first"), Listener("second")), call)(*arguments)
    assert heard == [("first", arguments), ("second", arguments)]


class Statuses(Observer):
    def __init__(self) -> None:
        self.all: list[LoopStatus] = []

    def turned(self, status: LoopStatus) -> None:
        self.all.append(status)


def test_the_status_is_told_at_the_first_turn_once_a_second_and_when_the_stop_begins() -> None:
    parts = Parts()
    now = itertools.count(0.0, 0.01)  # a hundredth of a second between looks
    parts.clock = lambda: next(now)
    told = parts.observer = Statuses()
    turns = 300
    parts.run(begun(*records(value("a"))), *(lambda: type(begun())() for _ in range(turns)))
    times = [status.now for status in told.all if not status.stopping]
    assert len(times) >= 3
    assert times[0] < 1
    assert all(1.0 <= later - earlier < 1.2 for earlier, later in itertools.pairwise(times))
    assert [status.stopping for status in told.all[-1:]] == [True]


def test_that_it_stops_is_told_at_once() -> None:
    parts = Parts()
    parts.clock = lambda: 5.0  # no second passes
    told = parts.observer = Statuses()
    parts.run(begun(*records(value("a"))))
    assert [status.stopping for status in told.all] == [False, True]


def test_a_long_drain_goes_on_telling() -> None:
    parts = Parts(operations={"shutdown_timeout_seconds": 1e6})
    now = itertools.count(0.0, 0.6)
    parts.clock = lambda: next(now)
    enough = threading.Event()

    class Told(Statuses):
        def turned(self, status: LoopStatus) -> None:
            super().turned(status)
            if sum(each.stopping for each in self.all) == 5:
                enough.set()

    told = parts.observer = Told()
    source = ScriptedSource([begun(*records(value("a")))], finite=False)
    parts.learner = ListingLearner(lambda batches: (daemon.request_stop(), enough.wait(30)))
    daemon = parts.daemon(source)
    daemon.run()
    assert enough.is_set()
    draining = [status for status in told.all if status.stopping]
    assert all(status.training for status in draining[:5])


def test_the_status_says_what_the_trainer_and_the_failing_stages_do() -> None:
    parts = Parts(batching={"max_events": 1})
    now = itertools.count(0.0, 2.0)
    parts.clock = lambda: next(now)
    told = parts.observer = Statuses()
    seen_training = threading.Event()

    class Source(ScriptedSource):
        def poll(self, timeout_seconds: float) -> Any:
            if any(status.training for status in told.all):
                seen_training.set()
            return super().poll(timeout_seconds)

    parts.store.faults = [RetriableError("full")] * 3
    parts.learner = ListingLearner(lambda batches: seen_training.wait(30))
    parts.daemon(Source([begun(*records(value("a")))])).run()
    assert seen_training.is_set()
    assert any(status.waiting_for == (Stage.STATE,) for status in told.all)
    assert told.all[0].trainer_progress == 0
    assert told.all[-1].trainer_progress == 1
    assert not told.all[-1].training
