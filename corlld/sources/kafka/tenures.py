"""Tenures of a consumer's partitions, and the records of a tenure.

A partition is parked when it is assigned, its tenure begins once its start is known, and ends when it is revoked.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition

from corlld.records import Record, SourcePartition, Tenure
from corlld.sources.kafka.client import TopicView


class RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Notes changes of assignment for the polling thread, on kafka-python's thread, while the former waits in a poll.

    An assigned partition is parked: it is paused, and set to a made-up position. So the poll that brought it delivers
    nothing of it, even if the consumer kept it at its old position through an eager rebalance; and kafka-python neither
    looks its position up nor raises if it has no commit.
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
        """Return the changes since the last call, in order."""
        return [self._changes.popleft() for _ in range(len(self._changes))]


class _NotYetSeen:
    """Wraps a finished join of the group. It looks unfinished until it is waited for."""

    is_done = False

    def __init__(self, join: Any) -> None:
        self.add_callback = join.add_callback
        self.add_errback = join.add_errback


def keep_joining(consumer: KafkaConsumer) -> None:
    """Call this before each poll. Without it a consumer with short polls may never join the group, or drop out of it.

    A join goes on between polls, and kafka-python 3.0 loses it there in two ways (both seen):

    - It throws a join away that finishes between polls, and joins again, which makes every member join again. A loop
      that is busy between short polls never gets out of this.
    - A leader that joins because of new partitions takes itself for settled before its own join is over. It neither
      asks for the result nor sends heartbeats any more.
    """
    coordinator = consumer._coordinator
    join = coordinator._join_task
    if join is not None and join.is_done:
        coordinator._join_task = _NotYetSeen(join)
    if coordinator.rejoining:
        coordinator.request_rejoin()


class Tenures:
    """Keeps the live tenures of one topic, and the parked partitions, whose tenures have not begun.

    Args:
        topic: its name.
        known_as: the name under which states know it.
        start_at: where a new group starts.
        first_view: the topic at the start. A new group is new for the partitions of then, even if another member
            commits before this member looks again.
        is_new: the group has never read the topic.
    """

    def __init__(
        self,
        topic: str,
        known_as: str,
        start_at: Literal["earliest", "latest"],
        first_view: TopicView,
        *,
        is_new: bool,
    ) -> None:
        self._topic = topic
        self._known_as = known_as
        self._start_at = start_at
        self._new_partitions = first_view.partitions if is_new else frozenset()
        self._numbers = itertools.count(1)
        self._parked: dict[TopicPartition, int] = {}  # with the number of the assignment
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
        """Return the number of the newest assignment. A view that is asked for now serves all up to it."""
        return self._assignment

    def apply(self, changes: Iterable[tuple[str, frozenset[TopicPartition]]]) -> list[Tenure]:
        """Park what was assigned; end what was revoked or lost. Return the tenures that ended."""
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

    def starts(
        self, view: TopicView, assignment: int, first_offsets: Mapping[int, int]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Return where parked partitions begin. `assignment` was the newest one when the view was asked for.

        A partition that was assigned later is left out. The offsets are in two mappings: of partitions with a commit,
        and of those without, whose start must be committed before they begin.

        first_offsets: where the group began to read, by partition. A partition whose commit expired begins there
            again, if the topic still has that offset.
        """
        known: dict[TopicPartition, int] = {}
        chosen: dict[TopicPartition, int] = {}
        for partition, number in self._parked.items():
            index = partition.partition
            if number > assignment or index not in view.partitions:
                continue
            if index in view.committed:
                known[partition] = view.committed[index]
            elif view.beginnings[index] <= first_offsets.get(index, -1) <= view.ends[index]:
                chosen[partition] = first_offsets[index]
            elif index in self._new_partitions and self._start_at == "latest":
                chosen[partition] = view.ends[index]
            else:
                chosen[partition] = view.beginnings[index]
        return known, chosen

    def begin(self, starts: Mapping[TopicPartition, int]) -> list[Tenure]:
        """Begin tenures of parked partitions at their committed offsets. Return them."""
        begun: list[Tenure] = []
        for partition, offset in starts.items():
            del self._parked[partition]
            place = SourcePartition(self._topic, self._known_as, partition.partition)
            tenure = Tenure(place, next(self._numbers), offset)
            self.live[partition] = tenure
            self.positions[tenure] = self.committed[tenure] = offset
            begun.append(tenure)
        return begun

    def is_live(self, tenure: Tenure) -> bool:
        return tenure in self.positions

    def offsets(self, next_offsets: Mapping[Tenure, int]) -> dict[Any, int]:
        """Return, by partition, those of the offsets that belong to live tenures."""
        return {partition: next_offsets[t] for partition, t in self.live.items() if t in next_offsets}


def as_record(tenure: Tenure, record: Any) -> Record:
    """Return kafka-python's record as one of the tenure."""
    return Record(
        tenure,
        record.offset,
        next_offset=record.offset + 1,
        key=record.key,
        value=record.value,
        headers=tuple((name, value or b"") for name, value in record.headers),
        timestamp_seconds=record.timestamp / 1000 if record.timestamp is not None and record.timestamp >= 0 else None,
    )
