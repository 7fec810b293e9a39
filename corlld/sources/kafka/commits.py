"""Commits offsets in the background, one commit at a time."""

import itertools
import time
from collections.abc import Mapping

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import AuthorizationError, KafkaError

from corlld.records import Tenure
from corlld.sources.kafka.tenures import Tenures

GRACE_SECONDS = 5.0  # a commit without an answer is given up so long after its request timed out


class Commits:
    """Commits for live tenures. Called from the source's thread.

    Args:
        consumer: the member of the group.
        tenures: learns what is committed.
        request_timeout_seconds: the consumer's.
    """

    def __init__(self, consumer: KafkaConsumer, tenures: Tenures, request_timeout_seconds: float) -> None:
        self._consumer = consumer
        self._tenures = tenures
        self._patience_seconds = request_timeout_seconds + GRACE_SECONDS
        self._numbers = itertools.count(1)
        self._outstanding: tuple[int, float] | None = None  # the commit under way, and when it is given up
        self._refusal: AuthorizationError | None = None

    def begin(self, next_offsets: Mapping[Tenure, int]) -> bool:
        """Begin a commit. See `Source.commit`."""
        now = time.monotonic()
        if self._outstanding is not None and now < self._outstanding[1]:
            return False
        offsets = self._tenures.offsets(next_offsets)
        if not offsets:
            return False
        live = {tenure: next_offsets[tenure] for tenure in self._tenures.live.values() if tenure in next_offsets}
        number = next(self._numbers)
        self._outstanding = (number, now + self._patience_seconds)

        def answered(_: object, result: object) -> None:
            if self._outstanding is not None and self._outstanding[0] == number:
                self._outstanding = None
            if isinstance(result, AuthorizationError):
                self._refusal = result
            if isinstance(result, Exception):
                return
            for tenure, next_offset in live.items():
                if self._tenures.is_live(tenure):
                    self._tenures.committed[tenure] = next_offset

        try:
            self._consumer.commit_async(with_metadata(offsets), callback=answered)
        except KafkaError:  # the next poll raises it too, and knows what to do
            self._outstanding = None
            return False
        return True

    def take_refusal(self) -> AuthorizationError | None:
        """Return the error of a commit that the access rules refused since the last call; None if there was none."""
        refusal, self._refusal = self._refusal, None
        return refusal


def with_metadata(offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return offsets as kafka-python commits them."""
    return {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
