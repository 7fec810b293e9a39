"""The loop keeps I1 to I3, I5 and I6 whatever fails, in whatever order: in memory, with injected faults."""

import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from corlld.errors import ExitCode, FatalError, InvalidReason, RejectReason, RetriableError, StateUnreadable
from corlld.observer import Observer
from corlld.records import (
    LoopStatus,
    PairOutcome,
    PairStatus,
    Polled,
    Record,
    SourcePartition,
    Tenure,
    TrainingBatch,
    UpdateOutcome,
    UserState,
)
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, begun, records, value
from tests.support.fakes import ListingLearner, MemoryPublisher, MemoryStore, ScriptedSource, tenure


def test_events_are_applied_in_order_published_and_committed() -> None:
    parts = Parts()
    source = parts.run(begun(*records(*(value(f"e{i}") for i in range(5)))))
    assert parts.applied_ids() == ("e0", "e1", "e2", "e3", "e4")
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1, 2, 3]  # 2 + 2 + 1 events
    assert source.final == {T0: 5}


def test_a_duplicate_is_filtered_and_the_batch_is_refilled_from_the_buffer() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"), value("a"), value("b"), value("c"))))
    assert parts.applied_ids() == ("a", "b", "c")
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1, 2]  # [a b] with the duplicate refilled, then [c]


def test_a_duplicate_alone_moves_applied_durably_and_makes_no_version() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"))))
    parts.run(begun(*records(value("a"), first=7)))
    assert parts.applied_ids() == ("a",)
    assert parts.state().applied == {T0.partition.key: 8}
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1]


def test_an_acceptance_that_is_learnt_from_makes_a_version_and_counts_once() -> None:
    parts = Parts()
    parts.learner = ListingLearner(learns_acceptances=True)
    accepted = value("a", edited="draft")
    parts.run(begun(*records(accepted)))  # a batch of nothing else
    source = parts.run(begun(*records(accepted, accepted, value("b"))))  # read again, sent again, and an edit
    assert parts.applied_ids() == ("a", "b")
    figures = parts.state().statistics
    assert (figures.acceptances, figures.pairs_applied, figures.updates, parts.state().version) == (1, 1, 2, 2)
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1, 2]
    assert source.final == {T0: 3}


def test_an_acceptance_that_is_not_learnt_from_is_counted_and_makes_no_version() -> None:
    parts = Parts()
    source = parts.run(begun(*records(value("a", edited="draft"))))
    assert (parts.state().statistics.acceptances, parts.state().version) == (1, 0)
    assert parts.publisher.out == {}
    assert source.final == {T0: 1}


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        ((RejectReason.DRIFT, None, RejectReason.DRIFT, RejectReason.TOO_LONG), [(3, {"drift": 2, "too_long": 1})]),
        ((None, None, None, None), []),
    ],
)
def test_rejected_edits_are_logged_by_their_number_and_reasons(
    reasons: tuple[RejectReason | None, ...], told: list[tuple[int, dict[str, int]]]
) -> None:
    class Rejecting(ListingLearner):
        def update(self, batches: Sequence[TrainingBatch]) -> list[UpdateOutcome]:
            (outcome,) = super().update(batches)
            pairs = [
                PairOutcome(PairStatus.REJECTED, reason) if reason else pair
                for reason, pair in zip(reasons, outcome.pairs, strict=True)
            ]
            return [replace(outcome, pairs=tuple(pairs))]

    parts = Parts(batching={"max_events": 4})
    parts.learner = Rejecting()
    with capture_logs() as entries:
        parts.run(begun(*records(*(value(f"e{i}") for i in range(4)))))
    lines = [entry for entry in entries if entry["event"] == "rejected"]
    assert [(line["edits"], line["reasons"]) for line in lines] == told
    assert all(line["uid"] == PSEUDONYMS.uid("ann") for line in lines)


def test_a_malformed_record_is_a_dead_letter_and_holds_the_commit_until_it_is_acknowledged() -> None:
    parts = Parts()
    parts.dead_letters.faults = [RetriableError("no leader")] * 3
    source = parts.run(begun(*records(b"{", value("b"))))
    assert [letter.error.reason for letter in parts.dead_letters.letters] == [InvalidReason.NOT_JSON]
    assert parts.dead_letters.letters[0].uid == PSEUDONYMS.uid("ann")
    assert source.final == {T0: 2}


def test_too_large_a_share_of_dead_letters_stops_the_daemon() -> None:
    parts = Parts(dead_letters={"max_share": 0.2})
    with pytest.raises(FatalError, match=r"max_share = 20%") as stopped:
        parts.run(begun(*records(*([b"{"] * 100))))
    assert stopped.value.exit_code is ExitCode.DATA


def test_i1_a_loop_that_ends_in_the_middle_of_a_poll_commits_none_of_the_rest() -> None:
    other = tenure(1, 2)
    parts = Parts(dead_letters={"max_share": 0.5, "share_window": 10})
    bad, good = records(*([b"{"] * 12)), records(*(value(f"x{i}", "bob") for i in range(5)), of=other, user="bob")
    source = ScriptedSource([Polled((*bad, *good), begun=(T0, other))])
    with pytest.raises(FatalError):
        parts.daemon(source).run()
    assert source.final is not None
    assert source.final[other] == 0


def test_a_loop_that_fails_tells_that_it_stops_before_it_waits_for_the_running_step() -> None:
    told_to_stop, training = threading.Event(), threading.Event()

    class Told(Observer):
        def turned(self, status: LoopStatus) -> None:
            if status.stopping:
                told_to_stop.set()

    def hold(batches: object) -> None:
        training.set()
        assert told_to_stop.wait(10), "a watchdog would end it now"

    def fail() -> Polled:
        assert training.wait(10)
        raise FatalError("the topic was recreated", ExitCode.DATA)

    parts = Parts()
    parts.learner, parts.observer = ListingLearner(hold), Told()
    with pytest.raises(FatalError, match="recreated"):
        parts.run(begun(*records(value("a"))), Polled(), fail)
    assert told_to_stop.is_set()


def test_what_failed_and_then_ended_otherwise_is_not_waited_for() -> None:
    parts = Parts()
    parts.store.load_faults = [RetriableError("away"), StateUnreadable("torn")]
    source = ScriptedSource([begun(*records(value("a")))])
    daemon = parts.daemon(source)
    daemon.run()
    assert daemon.waiting_for == []
    parts = Parts()
    parts.store.faults = [RetriableError("time-out")]
    parts.store.faults_take_effect = True
    daemon = parts.daemon(ScriptedSource([begun(*records(value("a")))]))
    daemon.run()
    assert daemon.waiting_for == []


def test_i5_versions_go_on_from_what_is_out_where_a_state_was_restored() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"), value("b"), value("c"))))
    uid = PSEUDONYMS.uid("ann")
    assert parts.publisher.out[uid] == [1, 2]
    older = parts.store.states[uid][0]
    parts.run(begun(*records(value("d"), value("e"), first=3)))
    assert parts.publisher.out[uid] == [1, 2, 3]
    parts.store.states[uid] = (older, 9)  # the generation before, back in place
    parts.run(begun(*records(value("f"), first=5)))
    assert parts.publisher.out[uid] == [1, 2, 3, 4]
    release = parts.state().release
    assert release is not None
    assert (release.version, release.parent) == (4, 2)


def test_a_store_that_fails_for_now_is_tried_again_and_nothing_is_committed_meanwhile() -> None:
    parts = Parts()
    parts.store.faults = [RetriableError("disk full")] * 3
    source = ScriptedSource([begun(*records(value("a")))])
    daemon = parts.daemon(source)
    seen: list[tuple[list[str], bool]] = []
    source.idle = lambda: seen.append((daemon.waiting_for, any(n > 0 for c in source.commits for n in c.values())))
    daemon.run()
    assert (["state"], False) in seen
    assert not any(committed for waits, committed in seen if waits)
    assert parts.applied_ids() == ("a",)
    assert daemon.waiting_for == []


def test_a_write_that_succeeded_although_it_reported_a_failure_is_not_applied_twice() -> None:
    parts = Parts()
    parts.store.faults = [RetriableError("time-out")]
    parts.store.faults_take_effect = True
    source = parts.run(begun(*records(value("a"), value("b"))))
    assert parts.applied_ids() == ("a", "b")
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1], "the load after the lost swap made it visible"
    assert source.final == {T0: 2}


def test_a_publication_that_fails_holds_the_commit_until_it_is_out() -> None:
    parts = Parts()
    parts.publisher.faults = [RetriableError("no space")] * 2
    source = parts.run(begun(*records(value("a"))))
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1]
    assert source.final == {T0: 1}


def test_a_kill_between_state_and_publication_is_made_good_when_the_user_is_loaded() -> None:
    parts = Parts()
    parts.publisher.faults = [FatalError("killed here")]
    with pytest.raises(FatalError):
        parts.run(begun(*records(value("a"))))
    assert (parts.applied_ids(), parts.publisher.out) == (("a",), {})
    parts.run(begun(*records(value("a"))))
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1]
    assert parts.applied_ids() == ("a",)


def test_publishing_can_be_off_while_learning_goes_on() -> None:
    parts = Parts(publishing={"enabled": False})
    parts.run(begun(*records(value("a"))))
    assert (parts.applied_ids(), parts.publisher.out) == (("a",), {})


def test_an_erasure_leaves_a_tombstone_withdraws_and_trains_nothing_before_it() -> None:
    parts = Parts(batching={"max_events": 8})
    parts.run(begun(*records(value("a"))))
    trained: list[str] = []
    parts.learner = ListingLearner(lambda batches: trained.extend(e.event_id for b in batches for e in b.events))
    source = parts.run(begun(*records(value("b"), value("c", type="erase"), first=1)))
    assert trained == []
    assert parts.state() == UserState(
        PSEUDONYMS.uid("ann"),
        version=1,
        applied={T0.partition.key: 3},
        recent_event_ids=("c",),  # the erasure's own
        erased=True,
        erased_through=1,
    )
    assert parts.publisher.out == {}
    assert source.final == {T0: 3}
    parts.run(begun(*records(value("a"), value("b"), value("c", type="erase"), value("d"))))
    assert parts.applied_ids() == ("d",), "a replay can't bring back what came before the erasure"
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [2]


def test_an_erasure_that_is_delivered_twice_erases_once() -> None:
    parts = Parts(batching={"max_events": 8})
    parts.run(begun(*records(value("a"), value("x", type="erase"))))
    parts.run(begun(*records(value("b"), value("x", type="erase"), value("c"), first=2)))
    assert parts.applied_ids() == ("b", "c")
    assert parts.state().applied == {T0.partition.key: 5}


def test_two_tombstones_erase_twice() -> None:
    parts = Parts(batching={"max_events": 8}, events={"tombstones_erase": True})
    parts.run(begun(*records(value("a"), None, value("b"), None, value("c"))))
    assert parts.applied_ids() == ("c",)


def test_a_kill_between_tombstone_and_withdrawal_is_made_good_by_the_replay() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"))))
    parts.publisher.faults = [RetriableError("busy"), FatalError("killed here")]
    with pytest.raises(FatalError):
        parts.run(begun(*records(value("c", type="erase"), first=1)))
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1]
    parts.run(begun(*records(value("c", type="erase"), first=1)))
    assert parts.publisher.out == {}


def test_an_unreadable_state_sends_that_users_records_to_the_dead_letters_and_others_go_on() -> None:
    class Torn(MemoryStore):
        def load(self, uid: str) -> tuple[UserState | None, str]:
            if uid == PSEUDONYMS.uid("ann"):
                raise StateUnreadable("torn")
            return super().load(uid)

    parts = Parts()
    parts.store = Torn()
    bob = records(value("b", user="bob"), user="bob", first=3)
    source = parts.run(begun(*records(value("a"), value("c"), value("d")), *bob))
    assert [letter.error.reason for letter in parts.dead_letters.letters] == [InvalidReason.STATE_UNREADABLE] * 3
    assert parts.applied_ids("bob") == ("b",)
    assert source.final == {T0: 4}


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


class Killed(BaseException):
    """kill -9, as far as one process can play it."""


WINDOW = 6  # event ids remembered: a replay goes back further than that, a duplicate does not


class MemoryTopic:
    """Partitions and the group's commits, which outlive any daemon."""

    def __init__(self, partitions: list[list[tuple[bytes, bytes]]]) -> None:
        self.partitions = partitions
        self.committed = [0] * len(partitions)


class TopicSource(ScriptedSource):
    """Delivers a topic's records a few at a time, and now and then ends every tenure and begins new ones."""

    numbers = 0

    def __init__(self, topic: MemoryTopic, rng: random.Random, rebalances: int) -> None:
        super().__init__([])
        self._topic = topic
        self._rng = rng
        self._rebalances = rebalances
        self._live: dict[Tenure, int] = {}
        self._held = False
        self.dead = False

    @property
    def exhausted(self) -> bool:
        at_end = all(p == len(self._topic.partitions[t.partition.partition]) for t, p in self._live.items())
        return bool(self._live) and at_end and self._rebalances == 0

    def poll(self, timeout_seconds: float) -> Polled:
        ended: tuple[Tenure, ...] = ()
        new: tuple[Tenure, ...] = ()
        if not self._live or (self._rebalances and self._rng.random() < 0.3):
            self._rebalances -= bool(self._live)
            ended = tuple(self._live)
            self._live = {}
            for number, start in enumerate(self._topic.committed):
                TopicSource.numbers += 1
                self._live[Tenure(SourcePartition("edits", "id", number), TopicSource.numbers, start)] = start
            new = tuple(self._live)
        delivered: list[Record] = []
        for live, position in self._live.items():
            if self.paused:
                break
            log = self._topic.partitions[live.partition.partition]
            end = min(len(log), position + self._rng.randrange(4))
            delivered += [Record(live, offset, offset + 1, *log[offset]) for offset in range(position, end)]
            self._live[live] = end
        return Polled(tuple(delivered), ended, new)

    def positions(self) -> dict[Tenure, int]:
        return dict(self._live)

    def committed(self) -> dict[Tenure, int]:
        return {t: self._topic.committed[t.partition.partition] for t in self._live}

    def commit(self, next_offsets: Any) -> bool:
        if not self.dead:
            for live, offset in next_offsets.items():
                if live in self._live:
                    assert offset <= self._live[live]
                    self._topic.committed[live.partition.partition] = offset
        return True

    def close(self, next_offsets: Any, timeout_seconds: float) -> None:
        self.commit(next_offsets)


class FaultyParts(Parts):
    """Fails, stalls and dies at random in every part that the daemon touches."""

    def __init__(self, rng: random.Random, topic: MemoryTopic, every_updates: int) -> None:
        host_memory_bytes = rng.choice([2_000_000_000, 10_000, 100])  # all states, two of them, none
        super().__init__(
            dead_letters={"max_share": 1.0},
            batching={"max_users_per_step": 2, "flush_after_seconds": rng.choice([0.0, 0.005])},
            state={"recent_event_ids": WINDOW, "host_memory_bytes": host_memory_bytes},
            snapshot={"every_updates": every_updates, "every_seconds": rng.choice([0.01, 1e6])},
        )
        self.rng = rng
        self.topic = topic
        self.calm = False
        self.intruders = 2
        self.source: TopicSource | None = None
        parts = self

        class Store(MemoryStore):
            def load(self, uid: str) -> tuple[UserState | None, str]:
                parts.fault()
                return super().load(uid)

            def save(self, uid: str, state: UserState, token: str) -> str:
                parts.fault()
                parts.intrude()
                if not parts.calm and uid in self.states and parts.rng.random() < 0.1:
                    held, number = self.states[uid]
                    self.states[uid] = (held, number + 1)  # another owner wrote, and none of these events
                token = super().save(uid, state, token)
                parts.fault()
                return token

        class Publisher(MemoryPublisher):
            def publish(self, state: UserState) -> Any:
                parts.fault()
                out = super().publish(state)
                parts.fault()
                return out

            def withdraw(self, state: UserState) -> None:
                parts.fault()
                super().withdraw(state)

        self.store = Store()
        self.publisher = Publisher()
        self.learner = ListingLearner(lambda batches: self.die())

    def die(self) -> None:
        if not self.calm and self.rng.random() < 0.04:
            assert self.source is not None
            self.source.dead = True
            raise Killed

    def fault(self) -> None:
        self.die()
        if not self.calm and self.rng.random() < 0.1:
            raise RetriableError("for now")

    def intrude(self) -> None:
        """Another daemon takes everything over and finishes it, while this one is about to write."""
        if self.calm or not self.intruders or self.rng.random() > 0.2:
            return
        self.intruders -= 1
        self.calm = True
        self.daemon(TopicSource(self.topic, self.rng, rebalances=0)).run()
        self.calm = False


@pytest.mark.parametrize("every_updates", [1, 4])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_event_is_applied_exactly_once_and_in_order_through_faults_kills_and_rebalances(
    every_updates: int, seed: int
) -> None:
    rng = random.Random(seed)
    users = ["ann", "bob", "cat"]
    partitions: list[list[tuple[bytes, bytes]]] = [[], []]
    expected: dict[str, list[str]] = {user: [] for user in users}
    erased: set[str] = set()
    for number in range(40):
        user = rng.choice(users)
        home = partitions[users.index(user) % 2]
        kind = rng.random()
        event_id = f"e{number}"
        if kind < 0.1:
            home.append((user.encode(), b"{"))
        elif kind < 0.2 and expected[user]:
            home.append((user.encode(), value(rng.choice(expected[user][-3:]), user)))  # a duplicate
        elif kind < 0.25:
            expected[user].clear()
            erased.add(user)
            home.append((user.encode(), value(event_id, user, type="erase")))
        else:
            expected[user].append(event_id)
            home.append((user.encode(), value(event_id, user)))
    topic = MemoryTopic(partitions)
    parts = FaultyParts(rng, topic, every_updates)
    kills = 0
    while True:
        parts.source = TopicSource(topic, rng, rebalances=rng.randrange(3))
        try:
            parts.daemon(parts.source).run()
            break
        except Killed:
            kills += 1
            parts.calm = kills > 15
    assert topic.committed == [len(partition) for partition in partitions]
    for user in users:
        if expected[user]:
            assert parts.applied_ids(user) == tuple(expected[user])
            assert parts.state(user).statistics.events == len(expected[user])
            out = parts.publisher.out[PSEUDONYMS.uid(user)]
            assert out == sorted(out), "versions only ever increase"
            assert out[-1] == parts.state(user).version
        elif user in erased:
            assert (parts.state(user).erased, parts.state(user).adapter) == (True, None)
            assert PSEUDONYMS.uid(user) not in parts.publisher.out
    malformed = sum(v == b"{" for partition in partitions for _, v in partition)
    positions = {(x.record.tenure.partition.partition, x.record.offset) for x in parts.dead_letters.letters}
    assert len(positions) == malformed
