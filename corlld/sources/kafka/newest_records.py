"""Reads the newest records of a topic. Joins no group, and commits nothing."""

import time
from collections.abc import Generator, Iterator, Mapping

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


def newest_records(settings: KafkaSettings, limit: int, timeout_seconds: float) -> Generator[Record, None, None]:
    """Yield the last records of every partition: `limit` in all, or fewer if there are fewer. Ends after the timeout.

    Raises UnavailableError if broker or topic are not there, ConfigurationError if the broker refuses access, and
    FatalError if a batch can't be unpacked.
    """
    deadline = time.monotonic() + timeout_seconds
    lookup = TopicLookup(settings, settings.topic)
    try:
        view = lookup.wait_for_topic(timeout_seconds)
        refuse_missing(view.granted, settings)
    finally:
        lookup.close()
    options = consumer_options(settings) | {"group_id": None, "group_instance_id": None}
    options["auto_offset_reset"] = "earliest"  # records may expire meanwhile
    consumer = connect(make_consumer, options, max(0.1, deadline - time.monotonic()))
    topic_id = view.topic_id or ""  # no state is looked at
    tenures = {
        TopicPartition(settings.topic, number): Tenure(SourcePartition(settings.topic, topic_id, number), 0, 0)
        for number in sorted(view.partitions)
    }
    try:
        with answers_understood(", ".join(settings.bootstrap_servers)):
            yield from _read(consumer, tenures, limit, deadline)
    except KafkaError as error:
        if (fatal := unreadable(error, settings)) is not None:
            raise fatal from None
        servers = ", ".join(settings.bootstrap_servers)
        if (refusal := explain_refusal(error)) is not None:
            raise ConfigurationError(f"{servers}: {refusal}") from None
        raise UnavailableError(f"topic {settings.topic} can't be read ({type(error).__name__})") from None
    finally:
        consumer.close(autocommit=False)


def _read(
    consumer: KafkaConsumer, tenures: Mapping[TopicPartition, Tenure], limit: int, deadline: float
) -> Iterator[Record]:
    ends: dict[TopicPartition, int] = consumer.end_offsets(list(tenures), timeout_ms=_ms_to(deadline))
    beginnings: dict[TopicPartition, int] = consumer.beginning_offsets(list(tenures), timeout_ms=_ms_to(deadline))
    shares = share_out(limit, {place: ends[place] - beginnings[place] for place in tenures})
    unread = {place for place, share in shares.items() if share}
    consumer.assign(sorted(unread))
    for place in unread:
        consumer.seek(place, ends[place] - shares[place])
    while unread and time.monotonic() < deadline:
        for place, batch in consumer.poll(timeout_ms=round(1000 * POLL_SECONDS)).items():
            yield from (as_record(tenures[place], record) for record in batch if record.offset < ends[place])
        # The position decides: markers of transactions and compacted records take offsets too.
        positions = {place: consumer.position(place, timeout_ms=_ms_to(deadline)) for place in unread}
        read = {place for place, position in positions.items() if position is not None and position >= ends[place]}
        consumer.pause(*read)
        unread -= read


def share_out(limit: int, available: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Return how many records to read per partition: as even as possible, and `limit` (or all there are) in all."""
    shares: dict[TopicPartition, int] = {}
    left = limit
    for index, place in enumerate(sorted(available, key=lambda place: (available[place], place))):
        shares[place] = min(available[place], left // (len(available) - index))
        left -= shares[place]
    return shares


def _ms_to(deadline: float) -> int:
    return max(100, round(1000 * (deadline - time.monotonic())))
