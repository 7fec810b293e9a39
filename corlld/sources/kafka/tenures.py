"""Tenures of a consumer's partitions: parked at assignment, begun once their start is known, ended at revocation."""

import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition

from corlld.records import SourcePartition, Tenure
from corlld.sources.kafka.client import TopicView


class RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Notes what happened, for the thread that polls; runs on kafka-python's thread while that one waits in a poll.

    Assigned partitions are parked: paused, and with a position of our own making. So the poll that brought them
    delivers nothing of them, not even of one that the consumer kept at its old position through an eager rebalance,
    and kafka-python neither looks a position up nor raises for a partition without a commit.
    """

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer
        self._changes: deque[tuple[Literal["assigned", "ended"], frozenset[TopicPartition]]] = deque()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        parked = frozenset(assigned)
        self._consumer.pause(*parked)
        for partition in parked:
            self._consumer.seek(partition, 0)
        self._changes.append(("assigned", parked))

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._changes.append(("ended", frozenset(revoked)))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._changes.append(("ended", frozenset(lost)))

    def take_changes(self) -> list[tuple[Literal["assigned", "ended"], frozenset[TopicPartition]]]:
        """What happened since the last call, in order."""
        return [self._changes.popleft() for _ in range(len(self._changes))]


class _NotYetSeen:
    """A finished join of the group, looking unfinished until it is waited for."""

    is_done = False

    def __init__(self, join: Any) -> None:
        self.add_callback = join.add_callback
        self.add_errback = join.add_errback


def keep_joining(consumer: KafkaConsumer) -> None:
    """To be called before each poll. Without it short polls may never get into the group, or fall out of it for good.

    A join goes on between polls, and kafka-python 3.0 loses it there in two ways (both seen). One that finishes between
    polls is thrown away, and joined once more, which makes every member join once more: for ever, in a loop that is
    busy between short polls. And a leader that joins because of new partitions takes itself for settled before its own
    join is over: it neither asks for the result nor sends heartbeats any more.
    """
    coordinator = consumer._coordinator
    join = coordinator._join_task
    if join is not None and join.is_done:
        coordinator._join_task = _NotYetSeen(join)
    if coordinator.rejoining:
        coordinator.request_rejoin()


class Tenures:
    """The live tenures of one topic, and the partitions that wait for theirs.

    Args:
        topic, topic_id: as seen at the start.
        start_at: where a new group starts.
        first_view: the topic at the start. A group that had no commit then is new, for the partitions of then: it
            stays so when another member commits its first ones before ours are looked up.
    """

    def __init__(self, topic: str, start_at: Literal["earliest", "latest"], first_view: TopicView) -> None:
        self._topic = topic
        self._topic_id = first_view.topic_id
        self._start_at = start_at
        self._new_partitions = frozenset() if first_view.committed else first_view.partitions
        self._numbers = itertools.count(1)
        self._parked: dict[TopicPartition, int] = {}  # to the number of its assignment
        self._assignments = itertools.count(1)
        self._assignment = 0
        self.live: dict[TopicPartition, Tenure] = {}
        self.positions: dict[Tenure, int] = {}
        self.committed: dict[Tenure, int] = {}

    @property
    def waiting(self) -> bool:
        return bool(self._parked)

    @property
    def newest_assignment(self) -> int:
        """A view of the topic that was asked for now serves the assignments up to this number."""
        return self._assignment

    def apply(self, changes: Iterable[tuple[str, frozenset[TopicPartition]]]) -> list[Tenure]:
        """Park the assigned, end the revoked and the lost. Returns the tenures that ended."""
        ended: list[Tenure] = []
        for change, partitions in changes:
            if change == "assigned":
                self._assignment = next(self._assignments)
            for partition in sorted(partitions):
                self._parked.pop(partition, None)
                if (tenure := self.live.pop(partition, None)) is not None:
                    ended.append(tenure)
                    self.positions.pop(tenure, None)
                    self.committed.pop(tenure, None)
                if change == "assigned":
                    self._parked[partition] = self._assignment
        return ended

    def starts(self, view: TopicView, assignment: int) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Where parked partitions begin, as far as the view (asked for at `assignment`) is young enough to tell.

        Returns those with a commit, and those without one, whose start has to be committed before they begin.
        """
        known: dict[TopicPartition, int] = {}
        chosen: dict[TopicPartition, int] = {}
        for partition, number in self._parked.items():
            index = partition.partition
            if number > assignment or index not in view.partitions:
                continue
            if index in view.committed:
                known[partition] = view.committed[index]
            elif index in self._new_partitions and self._start_at == "latest":
                chosen[partition] = view.ends[index]
            else:
                chosen[partition] = view.beginnings[index]
        return known, chosen

    def begin(self, starts: Mapping[TopicPartition, int]) -> list[Tenure]:
        """New tenures for parked partitions, at their committed offsets."""
        begun: list[Tenure] = []
        for partition, offset in starts.items():
            del self._parked[partition]
            place = SourcePartition(self._topic, self._topic_id, partition.partition)
            tenure = Tenure(place, next(self._numbers), offset)
            self.live[partition] = tenure
            self.positions[tenure] = self.committed[tenure] = offset
            begun.append(tenure)
        return begun

    def is_live(self, tenure: Tenure) -> bool:
        return tenure in self.positions

    def offsets(self, next_offsets: Mapping[Tenure, int]) -> dict[Any, int]:
        """Of what is to be committed, what belongs to live tenures."""
        return {partition: next_offsets[t] for partition, t in self.live.items() if t in next_offsets}
