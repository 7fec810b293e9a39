"""Reads a range of a topic, from known offsets to known ends. Joins no group, and commits nothing."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from corlld.errors import ConfigurationError, UnavailableError
from corlld.records import Record, SourcePartition, Tenure
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.client import TopicLookup
from corlld.sources.kafka.connecting import connect
from corlld.sources.kafka.features import answers_understood
from corlld.sources.kafka.options import consumer_options
from corlld.sources.kafka.refusals import explain_refusal, unreadable
from corlld.sources.kafka.rights import refuse_missing
from corlld.sources.kafka.tenures import as_record
from corlld.sources.kafka.unpacking import make_consumer

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class TopicReader:
    """A consumer without a group, and the partitions of the topic. Every method may raise KafkaError.

    Raises ConfigurationError for an answer that kafka-python can't read.

    Args:
        consumer: knows how to reach the cluster.
        servers: of the cluster, for messages.
        tenures: by partition; made up, since nobody is assigned anything.
    """

    consumer: KafkaConsumer
    servers: str
    tenures: Mapping[TopicPartition, Tenure]

    def range(self, timeout_ms: int) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Return the first offsets, and the offsets where readers stop now."""
        with answers_understood(self.servers):
            ends = self.consumer.end_offsets(list(self.tenures), timeout_ms=timeout_ms)
            return self.consumer.beginning_offsets(list(self.tenures), timeout_ms=timeout_ms), ends

    def since(self, seconds: float, timeout_ms: int) -> dict[TopicPartition, int | None]:
        """Return the first offset of this time or later, in seconds since 1970; None if there is none."""
        asked = dict.fromkeys(self.tenures, round(1000 * seconds))
        with answers_understood(self.servers):
            answer = self.consumer.offsets_for_times(asked, timeout_ms=timeout_ms)
        return {place: found and found.offset for place, found in answer.items()}

    def read(self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> Iterator[list[Record]]:
        """Yield the records of each poll, until every end is reached. A poll may bring none.

        Args:
            starts: first offsets, by partition. Partitions that are not in it are not read.
            ends: the offsets to stop before.
        """
        unread = {place for place, start in starts.items() if start < ends[place]}
        self.consumer.assign(sorted(unread))
        for place in unread:
            self.consumer.seek(place, starts[place])
        poll_ms = round(1000 * POLL_SECONDS)
        while unread:
            with answers_understood(self.servers):
                polled = self.consumer.poll(timeout_ms=poll_ms)
            yield [
                as_record(self.tenures[place], record)
                for place, batch in polled.items()
                for record in batch
                if record.offset < ends[place]
            ]
            # The position decides: markers of transactions and compacted records take offsets too.
            with answers_understood(self.servers):
                positions = {place: self.consumer.position(place, timeout_ms=poll_ms) for place in unread}
            read = {place for place, position in positions.items() if position is not None and position >= ends[place]}
            self.consumer.pause(*read)
            unread -= read


@contextmanager
def reading(
    settings: KafkaSettings, topic: str, timeout_seconds: float, problem_seconds: float = math.inf
) -> Iterator[TopicReader]:
    """Reach the topic for reading. Kafka's errors in the block become sentences.

    problem_seconds: how long it waits if it is known what is in the way.

    Raises UnavailableError if broker or topic are not there within the timeout or go away, ConfigurationError if the
    broker refuses access, and FatalError if a batch can't be unpacked.
    """
    deadline = time.monotonic() + timeout_seconds
    lookup = TopicLookup(settings, topic, problem_seconds=problem_seconds)
    try:
        view = lookup.wait_for_topic(timeout_seconds)
        refuse_missing(view.granted, settings)
    finally:
        lookup.close()
    options = consumer_options(settings) | {"group_id": None, "group_instance_id": None}
    options["auto_offset_reset"] = "earliest"  # records may expire meanwhile
    left = max(0.1, deadline - time.monotonic())
    consumer = connect(make_consumer, options, left, problem_seconds=problem_seconds)
    topic_id = view.topic_id or ""  # no state is looked at
    tenures = {
        TopicPartition(topic, number): Tenure(SourcePartition(topic, topic_id, number), 0, 0)
        for number in sorted(view.partitions)
    }
    try:
        yield TopicReader(consumer, ", ".join(settings.bootstrap_servers), tenures)
    except KafkaError as error:
        if (fatal := unreadable(error, settings.model_copy(update={"topic": topic}))) is not None:
            raise fatal from None
        servers = ", ".join(settings.bootstrap_servers)
        if (refusal := explain_refusal(error)) is not None:
            raise ConfigurationError(f"{servers}: {refusal}") from None
        raise UnavailableError(f"topic {topic} can't be read ({type(error).__name__})") from None
    finally:
        consumer.close(autocommit=False)
