"""Makes Kafka the input: a topic that a consumer group reads, and a topic of dead letters.

kafka-python is imported by the methods that need it: settings are checked without it.
"""

import math
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import structlog

from corlld.errors import ConfigurationError
from corlld.protocols import DeadLetters, PositionStore, Source
from corlld.records import CommittedRecords, LetterStream, Record
from corlld.settings.sections import Settings

if TYPE_CHECKING:
    from corlld.sources.kafka.producers import KafkaDeadLetters

log = structlog.get_logger("corlld.kafka")


class KafkaInput:
    """Implements `corlld.protocols.Input`. The group keeps the commits.

    What the topic is called is stored beside the states, and where the group began to read it.
    """

    kind = "kafka"
    has_keys = True
    grows = True
    can_be_sent_to = True

    def __init__(self, settings: Settings, problem_seconds: float = math.inf) -> None:
        self._problem_seconds = problem_seconds
        self._kafka = settings.kafka
        self._dead_letters = settings.dead_letters
        self._kind_was_written = "kind" in settings.source.model_fields_set
        self._settings_of_a_file = {
            "source.path": settings.source.path is not None,
            "source.follow": settings.source.follow,
            "dead_letters.path": settings.dead_letters.path is not None,
        }
        self._max_record_bytes = settings.events.max_record_bytes

    @property
    def group(self) -> str:
        return self._kafka.group_id

    @property
    def servers(self) -> tuple[str, ...]:
        return self._kafka.bootstrap_servers

    def problems(self) -> Mapping[str, str]:
        problems = {}
        if not self._kafka.bootstrap_servers:
            problems["kafka.bootstrap_servers"] = (
                "not set, needed for source.kind kafka: `host:port` of one or more brokers"
            )
        # Whoever forgets the kind would learn from a topic in place of the file. Who writes it knows.
        for setting, is_set in self._settings_of_a_file.items():
            if is_set and not self._kind_was_written:
                problems[setting] = "set, allowed: only with source.kind jsonl (it is kafka)"
        return problems

    def source(self, positions: PositionStore) -> Source:
        from corlld.sources.kafka.source import KafkaSource

        return KafkaSource(self._kafka, positions, self._problem_seconds)

    def describe(self, source: Source) -> str:
        from corlld.sources.kafka.source import KafkaSource

        known = "has committed before" if source.has_commits() else "is new"
        if isinstance(source, KafkaSource) and source.commits_expired:
            known = "has read it before, but its commits have expired: it reads again, and learns what is new"
        found = f"topic {self._kafka.topic} of cluster {source.cluster_id}{self._codec()}; group {self.group} {known}"
        if not isinstance(source, KafkaSource):
            return found
        if source.unknown_rights is not None:
            found += f"\n{source.unknown_rights}"
        if not source.topic_has_id:
            found += (
                "\nThe cluster gives topics no ids (Kafka has them since 2.8). A topic that is deleted and made again"
                "\nis noticed only if it ends before an offset that it had: never use this topic's name again."
            )
        return found

    def _codec(self) -> str:
        """Return what is known of the topic's own codec. Empty if its producers choose. Raises ConfigurationError."""
        from corlld.sources.kafka.client import topic_compression
        from corlld.sources.kafka.unpacking import CODECS, missing_packages

        if (codec := topic_compression(self._kafka)) not in CODECS:
            return ""
        if (package := missing_packages().get(codec)) is not None:
            raise ConfigurationError(
                f"topic {self._kafka.topic} is compressed with {codec}: install the Python package {package}"
            )
        return f", compressed with {codec}"

    def dead_letters(self, timeout_seconds: float) -> DeadLetters:
        letters = self._start_letters(timeout_seconds)
        if (cut := self._letters_cut(letters)) is not None:
            log.warning("dead_letters_cut", problem=cut)
        return letters

    def check_dead_letters(self, timeout_seconds: float) -> str:
        letters = self._start_letters(timeout_seconds)
        try:
            return "\n".join(filter(None, (letters.describe(), self._letters_cut(letters))))
        finally:
            letters.close(timeout_seconds)

    def _start_letters(self, timeout_seconds: float) -> "KafkaDeadLetters":
        from corlld.sources.kafka.producers import KafkaDeadLetters

        letters = KafkaDeadLetters(self._kafka, self._dead_letters, self._problem_seconds)
        letters.start(timeout_seconds)
        return letters

    def _letters_cut(self, letters: "KafkaDeadLetters") -> str | None:
        from corlld.sources.kafka.topic_limits import letters_cut

        if not self._dead_letters.payload:
            return None
        return letters_cut(self._dead_letters.topic, self._max_record_bytes, letters.limits)

    def stored_letters(
        self, since_seconds: float | None, timeout_seconds: float
    ) -> AbstractContextManager[LetterStream]:
        from corlld.sources.kafka.letter_topic import letters_of_topic

        topic = self._dead_letters.topic
        return letters_of_topic(self._kafka, topic, since_seconds, timeout_seconds, self._problem_seconds)

    def newest_records(
        self, limit: int, timeout_seconds: float, partition: int | None = None
    ) -> Generator[Record, None, None]:
        from corlld.sources.kafka.newest_records import newest_records

        return newest_records(self._kafka, limit, timeout_seconds, partition)

    def committed_records(
        self, starts: Mapping[str, int], positions: PositionStore, timeout_seconds: float
    ) -> AbstractContextManager[CommittedRecords]:
        from corlld.sources.kafka.committed_records import committed_records

        return committed_records(self._kafka, starts, positions, timeout_seconds, self._problem_seconds)
