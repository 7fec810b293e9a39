"""Unpacks the batches that a consumer fetched, and names the packages that compressed batches need.

Knows no settings: what to do about a batch that can't be unpacked is said in `refusals`.
"""

from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer, TopicPartition, codec
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError

# By codec, the package that unpacks it. gzip comes with Python.
CODECS = {"gzip": None, "lz4": "lz4", "snappy": "python-snappy", "zstd": "zstandard"}


def missing_packages() -> dict[str, str]:
    """Return the packages that are not installed, by the codec that needs them."""
    return {name: package for name, package in CODECS.items() if package and not getattr(codec, f"has_{name}")()}


class UnreadableBatch(KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """A fetched batch can't be unpacked. Its `__cause__` says why, and may quote texts of users: never print it.

    Args:
        partition: where the batch is.
        offset: the first offset that was not read.
    """

    def __init__(self, partition: TopicPartition, offset: int) -> None:
        self.partition = partition
        self.offset = offset
        super().__init__()


class Batches(Fetcher.PartitionRecords):  # type: ignore[misc]  # kafka-python has no types
    """Unpacks what a fetch brought of one partition. Raises UnreadableBatch, and then again at each call.

    kafka-python's own has no more records after an error, but does not count as drained. The fetcher drops the error
    if the partition is paused by then. Either way a later poll asks it for records for ever.
    """

    _error: UnreadableBatch | None = None

    def take(self, n: int | None = None) -> list[Any]:
        """Return up to `n` records."""
        if self._error is not None:
            raise self._error
        return list(super().take(n))

    def _unpack_records(self, tp: TopicPartition, *arguments: Any) -> Iterator[Any]:
        try:
            yield from super()._unpack_records(tp, *arguments)
        except Exception as error:  # each codec's package raises errors of its own
            self._error = UnreadableBatch(tp, self.next_fetch_offset)
            raise self._error from error


def make_consumer(**options: Any) -> KafkaConsumer:
    """Return a consumer that unpacks with `Batches`. Takes the options of KafkaConsumer, and raises as it does."""
    consumer = KafkaConsumer(**options)
    consumer._fetcher.PartitionRecords = Batches
    return consumer
