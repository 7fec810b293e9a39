"""The loop keeps I1 to I3, I5 and I6 whatever fails, in whatever order: in memory, with random faults and kills."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corlld.durable import UserState
from corlld.errors import RetriableError
from corlld.loop.transitions import REPAIR_HEADER
from corlld.records import Polled, Record, SourcePartition, Tenure
from tests.support.daemon_parts import PSEUDONYMS, Parts, begun, records, value
from tests.support.fakes import ListingLearner, MemoryPublisher, MemoryStore, ScriptedSource


class Killed(BaseException):
    """kill -9, as far as one process can play it."""


# Event ids remembered: a replay goes back further than that, a duplicate does not. There are no hashes of older ids,
# which would hide a fault in `applied`.
WINDOW = 6


class MemoryTopic:
    """Partitions and the group's commits, which outlive any daemon."""

    def __init__(self, partitions: list[list[tuple[bytes, bytes]]]) -> None:
        self.partitions = partitions
        self.committed = [0] * len(partitions)


class TopicSource(ScriptedSource):
    """Delivers a topic's records a few at a time. Now and then it ends every tenure and begins new tenures."""

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
            state={"recent_event_ids": WINDOW, "older_event_ids": 0, "host_memory_bytes": host_memory_bytes},
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
        """Let another daemon take everything over and finish it, while this daemon is about to write."""
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


@pytest.mark.parametrize("max_events", [1, 8])
def test_i8_what_a_repair_sends_after_an_erasure_brings_nobody_back_and_what_it_sends_with_one_is_learnt(
    max_events: int,
) -> None:
    """A state was restored without e1 and e2; e3 and an erasure before it had become dead letters."""

    def sent_again(*values: bytes, first: int) -> list[Record]:
        return [replace(each, headers=((REPAIR_HEADER, b"ab12"),)) for each in records(*values, first=first)]

    restored = UserState(PSEUDONYMS.uid("ann"), repair="ab12")
    live, late = value("live", type="erase"), value("late", type="erase")
    for erasures, wanted in (([], ("e3", "new")), ([live], ("new",))):
        parts = Parts(batching={"max_events": max_events})
        parts.store.states[restored.uid] = (restored, 1)
        parts.run(
            begun(
                *records(*erasures, first=10),
                *sent_again(value("e1"), value("e2"), late, value("e3"), first=20),
                *records(value("new"), first=30),
            )
        )
        assert parts.applied_ids() == wanted
        assert parts.state().statistics.events == len(wanted)
