"""The loop applies, publishes and commits in order; it pauses when it is full, and stops with nothing half done."""

import threading

import pytest

from corlld.errors import ExitCode, FatalError, RetriableError
from corlld.observer import Observer
from corlld.records import LoopStatus, Polled, Stage
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, begun, records, value
from tests.support.fakes import ListingLearner, ScriptedSource, tenure


def test_events_are_applied_in_order_published_and_committed() -> None:
    parts = Parts()
    source = parts.run(begun(*records(*(value(f"e{i}") for i in range(5)))))
    assert parts.applied_ids() == ("e0", "e1", "e2", "e3", "e4")
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1, 2, 3]  # 2 + 2 + 1 events
    assert source.final == {T0: 5}


def test_a_loop_that_fails_tells_that_it_stops_before_it_waits_for_the_running_step() -> None:
    told_to_stop, training = threading.Event(), threading.Event()

    class Told(Observer):
        def turned(self, status: LoopStatus) -> None:
            if status.stopping:
                told_to_stop.set()

    def hold(batches: object) -> None:
        training.set()
        assert told_to_stop.wait(10), "a watchdog would end it now"

    def fail_while_it_trains() -> None:
        if training.wait(0.001):
            raise FatalError("the topic was recreated", ExitCode.DATA)

    parts = Parts()
    parts.learner, parts.observer = ListingLearner(hold), Told()
    source = ScriptedSource([begun(*records(value("a")))], finite=False)
    source.idle = fail_while_it_trains
    with pytest.raises(FatalError, match="recreated"):
        parts.daemon(source).run()
    assert told_to_stop.is_set()


def test_a_full_buffer_pauses_reading_and_reads_on_when_there_is_room() -> None:
    parts = Parts(batching={"max_buffered_events": 4, "flush_after_seconds": 1e6, "max_events": 4})
    source = ScriptedSource(
        [begun(*records(*(value(f"e{i}") for i in range(4)))), Polled(records(value("e4"), first=4))]
    )
    paused: list[bool] = []
    source.idle = lambda: paused.append(source.paused)
    parts.daemon(source).run()
    assert True in paused
    assert len(parts.applied_ids()) == 5


def test_a_stop_finishes_what_has_begun_and_leaves_the_rest_to_a_replay() -> None:
    parts = Parts(batching={"max_events": 1, "max_users_per_step": 1})
    source = ScriptedSource([begun(*records(*(value(f"e{i}") for i in range(5))))], finite=False)
    daemon = parts.daemon(source)
    parts.learner = ListingLearner(lambda batches: daemon.request_stop())
    daemon = parts.daemon(source)
    daemon.run()
    assert parts.applied_ids() == ("e0",)
    assert source.final == {T0: 1}
    assert parts.publisher.closed


def test_i9_a_store_that_is_away_does_not_fill_the_memory_with_trained_states() -> None:
    users = [f"user-{number}" for number in range(50)]
    parts = Parts(
        batching={"max_events": 1, "max_users_per_step": 2},
        operations={"shutdown_timeout_seconds": 0.1, "retry_max_seconds": 0.01},
    )
    parts.store.faults = [RetriableError("away")] * 100_000
    trained: list[str] = []
    parts.learner = ListingLearner(lambda batches: trained.extend(batch.uid for batch in batches))
    delivered = [records(value("e", user), user=user, first=first)[0] for first, user in enumerate(users)]
    source = ScriptedSource([begun(*delivered)], finite=False)
    daemon = parts.daemon(source)
    turns = iter(range(500))

    def idle() -> None:
        threading.Event().wait(0.001)  # as a poll does; the trainer has its turn
        if next(turns, None) is None:
            daemon.request_stop()

    source.idle = idle
    daemon.run()
    assert 0 < len(trained) <= 4 * 2, "four steps' worth of users at most"


def test_a_stop_that_runs_out_of_time_commits_nothing_that_is_not_durable() -> None:
    parts = Parts(operations={"shutdown_timeout_seconds": 0.2, "retry_max_seconds": 0.01})
    parts.store.faults = [RetriableError("disk full")] * 1000
    source = ScriptedSource([begun(*records(value("a")))], finite=False)
    daemon = parts.daemon(source)
    source.idle = lambda: daemon.request_stop() if daemon.waiting_for else None
    daemon.run()
    assert daemon.abandoned
    assert source.final == {T0: 0}


def test_waiting_edits_of_an_ended_tenure_are_not_trained_here() -> None:
    parts = Parts(batching={"flush_after_seconds": 1e6})
    trained: list[str] = []
    parts.learner = ListingLearner(lambda batches: trained.extend(e.event_id for b in batches for e in b.events))
    again = tenure(number=2)
    source = parts.run(begun(*records(value("a"))), Polled(records(value("b"), of=again), ended=(T0,), begun=(again,)))
    assert trained == ["b"]
    assert source.final == {again: 1}


def test_a_daemon_is_not_ready_while_letters_or_announcements_are_refused() -> None:
    parts = Parts()
    daemon = parts.daemon(ScriptedSource([]))
    assert daemon.waiting_for == []
    parts.dead_letters.problem = "no right to write"
    assert daemon.waiting_for == [Stage.DEAD_LETTERS]
    parts.publisher.problem = "no right to write"
    assert daemon.waiting_for == [Stage.PUBLISHING, Stage.DEAD_LETTERS]
    parts.dead_letters.problem = parts.publisher.problem = None
    assert daemon.waiting_for == []
