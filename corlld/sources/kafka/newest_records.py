"""Reads the newest records of a topic. Joins no group, and commits nothing."""

import time
from collections.abc import Generator, Mapping

from kafka import TopicPartition

from corlld.records import Record
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.whole_reads import reading


def newest_records(
    settings: KafkaSettings, limit: int, timeout_seconds: float, partition: int | None = None
) -> Generator[Record, None, None]:
    """Yield the last records of every partition: `limit` in all, or fewer if there are fewer. Ends after the timeout.

    partition: the number of the only partition to read; None for all.

    Raises UnavailableError if broker or topic are not there, ConfigurationError if the broker refuses access, and
    FatalError if a batch can't be unpacked.
    """
    deadline = time.monotonic() + timeout_seconds
    with reading(settings, settings.topic, timeout_seconds) as reader:
        beginnings, ends = reader.range(max(100, round(1000 * (deadline - time.monotonic()))))
        wanted = [place for place in ends if partition in (None, place.partition)]
        shares = share_out(limit, {place: ends[place] - beginnings[place] for place in wanted})
        for records in reader.read({place: ends[place] - share for place, share in shares.items()}, ends):
            yield from records
            if time.monotonic() >= deadline:
                return


def share_out(limit: int, available: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Return how many records to read per partition: as even as possible, and `limit` (or all there are) in all."""
    shares: dict[TopicPartition, int] = {}
    left = limit
    for index, place in enumerate(sorted(available, key=lambda place: (available[place], place))):
        shares[place] = min(available[place], left // (len(available) - index))
        left -= shares[place]
    return shares
