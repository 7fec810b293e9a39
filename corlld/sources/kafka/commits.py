"""Commits offsets: in the background, one commit at a time, or where a partition begins."""

import itertools
import time
from collections.abc import Mapping

import structlog
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import AuthorizationError, CommitFailedError, KafkaError, RebalanceInProgressError

from corlld.records import Tenure
from corlld.sources.kafka.rights import READING_REFUSED
from corlld.sources.kafka.tenures import Tenures

log = structlog.get_logger("corlld.kafka")

FIRST_COMMIT_SECONDS = 5.0
RETRY_SECONDS = 1.0
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
        self._failing = False
        self._first_commit_error: str | None = None  # the type of the last one, until a first commit succeeds

    def commit_starts(self, starts: Mapping[TopicPartition, int]) -> float | None:
        """Commit where partitions without a commit begin, and wait for the answer.

        Returns None once it is committed; if that failed, the seconds after which to try again. Raises what is in
        READING_REFUSED.
        """
        try:
            self._consumer.commit(with_metadata(starts), timeout_ms=round(FIRST_COMMIT_SECONDS * 1000))
        except READING_REFUSED:
            raise
        except KafkaError as error:  # the group is rebalancing again, or the coordinator is away
            problem, before = type(error).__name__, self._first_commit_error
            self._first_commit_error = problem
            # A rebalance is over soon. What comes twice may stay: it is neither logged nor tried at every poll.
            if problem == before:
                return RETRY_SECONDS
            log.warning("first_commit_failed", error=problem)
            return 0.0
        self._first_commit_error = None
        return None

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
            if isinstance(result, Exception):
                self._note_failure(result)
                return
            self._failing = False
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

    def _note_failure(self, error: Exception) -> None:
        # After a rebalance the tenures have ended. Other failures may stay, and are logged once.
        if isinstance(error, READING_REFUSED):
            self._refusal = error
        elif not self._failing and not isinstance(error, CommitFailedError | RebalanceInProgressError):
            self._failing = True
            log.warning("commit_failed", error=type(error).__name__)


def with_metadata(offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return offsets as kafka-python commits them."""
    return {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
