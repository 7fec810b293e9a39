"""Reaches a cluster, and asks it about a topic and a group."""

import math
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kafka import IsolationLevel, KafkaAdminClient, OffsetSpec, TopicPartition
from kafka.admin import ConfigResource
from kafka.errors import (
    AuthorizationError,
    BrokerResponseError,
    CoordinatorNotAvailableError,
    KafkaError,
    RequestTimedOutError,
    for_code,
)

from corlld.errors import ConfigurationError, MissingTopicError, UnavailableError
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.connecting import FIRST_TRY_SECONDS, SETUP_SECONDS, connect, waited_since
from corlld.sources.kafka.diagnosis import Diagnosis
from corlld.sources.kafka.features import (
    READING,
    REPLICAS_CAPPED,
    STATIC_MEMBERS,
    Feature,
    answers_understood,
    has,
    refuse_lacking,
)
from corlld.sources.kafka.options import LOOKUP_SECONDS, admin_options
from corlld.sources.kafka.refusals import explain_refusal
from corlld.sources.kafka.rights import Granted, Right, ask_rights, reading

RETRY_SECONDS = 0.2
# Rights that have to be tried are asked for so often, and oftener while one is missing: brokers count it as errors.
TRY_RIGHTS_SECONDS = 60.0
PROBE_SECONDS = 5.0  # brokers are probed at most so often: there may be a hundred of them
UNKNOWN_TOPIC_OR_PARTITION = 3  # Kafka's error codes
TOPIC_AUTHORIZATION_FAILED = 29


@dataclass(frozen=True, slots=True)
class TopicView:
    """Holds what the cluster says of a topic, and of the group's commits in it. The mappings are by partition.

    topic_id: 32 hex digits. None if the cluster gives topics no ids: before Kafka 2.8, or before its metadata version.
    committed: offsets that the group committed.
    beginnings: first offsets of the partitions without a commit.
    ends: where read_committed readers stop. Partitions without a commit are always in it, others if they are known.
    granted: the rights that are missing. If there are any, nothing is known of commits, beginnings and ends.
    replicas: of the partition that has the fewest; 0 if the topic is hidden.
    """

    topic_id: str | None
    partitions: frozenset[int]
    committed: Mapping[int, int] = field(default_factory=dict)
    beginnings: Mapping[int, int] = field(default_factory=dict)
    ends: Mapping[int, int] = field(default_factory=dict)
    granted: Granted = field(default_factory=Granted)
    replicas: int = 0


class TopicLookup:
    """Asks about one topic, and about one group's commits, over a connection of its own. One call at a time.

    A connection that failed is closed: kafka-python would remember a coordinator that moved away, or a refused login.

    Args:
        settings: how to reach the cluster.
        topic: the topic to ask about.
        group: the group to ask about; None for none.
        needs: features that the broker must have beside those for reading.
        rights: those that the broker is asked for; None for those that it takes to read the topic in the group.
        problem_seconds: how long `wait_for_topic` waits if it is known what is in the way, or the topic is missing.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        group: str | None = None,
        needs: Sequence[Feature] = (),
        rights: Sequence[Right] | None = None,
        problem_seconds: float = math.inf,
    ) -> None:
        self._options = admin_options(settings)
        self._servers = ", ".join(settings.bootstrap_servers)
        self._topic = topic
        self._group = group
        self._needs = (*READING, *needs, *(STATIC_MEMBERS if group and settings.group_instance_id else ()))
        self._rights = reading(topic, group) if rights is None else rights
        self.doubts_rights = False  # one was refused: all are asked for at the next question
        self._try_rights_at = 0.0  # monotonic
        self._problem_seconds = problem_seconds
        self._cluster_id: str | None = None
        self.configs_refused = False  # the access rules forbid what `configs` asked for
        self.replicas_capped = False  # the broker has REPLICAS_CAPPED; after `look`
        self._admin: KafkaAdminClient | None = None
        self._diagnosis = Diagnosis(self._options)
        self._advertised: frozenset[str] = frozenset()  # addresses of brokers, as known when a question failed

    def wait_for_topic(self, timeout_seconds: float) -> TopicView:
        """Wait for the topic, and return what the cluster says of it. Log what is in the way, as `connect`.

        Raises MissingTopicError after the timeout, UnavailableError if the cluster gave no answer, ConfigurationError
        if it refuses access.
        """
        began = time.monotonic()
        until = deadline = began + timeout_seconds
        problem_deadline = min(deadline, began + self._problem_seconds)
        this_try = FIRST_TRY_SECONDS
        next_probe = began
        while True:
            left, known = (max(0.1, moment - time.monotonic()) for moment in (until, problem_deadline))
            failed: KafkaError | None = None  # if it stays so, the topic is missing
            try:
                tried = min(this_try, left)
                if (view := self.look(left, setup_seconds=tried, problem_seconds=known, since=began)) is not None:
                    return view
            except KafkaError as error:
                failed = error
                is_due = next_probe <= time.monotonic() and (time.monotonic() < until or not self._diagnosis.problem)
                if is_due and not _answered(error):
                    self._diagnosis.look_at_brokers(self._advertised)
                    next_probe = time.monotonic() + PROBE_SECONDS
                if (refusal := explain_refusal(error)) is not None:
                    raise ConfigurationError(f"{self._servers}: {refusal}") from None
                this_try = min(2 * this_try, SETUP_SECONDS)
            is_known = failed is None or _answered(failed) or self._diagnosis.problem is not None
            until = problem_deadline if is_known else deadline
            if time.monotonic() >= until:
                break
            threading.Event().wait(RETRY_SECONDS)
        waited = waited_since(began)
        if failed is None:
            raise MissingTopicError(f"topic {self._topic} does not exist at {self._servers}: create it {waited}")
        raise UnavailableError(f"{self._unanswered(failed)} {waited}")

    def _unanswered(self, error: KafkaError) -> str:
        """Return the sentence on why the last question got no good answer."""
        if isinstance(error, CoordinatorNotAvailableError):
            return (
                f"{self._servers} answers, but has no coordinator for group {self._group}: check "
                "offsets.topic.replication.factor, and that all brokers run"
            )
        if _answered(error):
            return f"{self._servers} answers about topic {self._topic} with {type(error).__name__}"
        if self._diagnosis.problem is not None:
            return self._diagnosis.problem
        return f"{self._servers} gave no answer about topic {self._topic} ({type(error).__name__})"

    def look(
        self,
        connect_seconds: float = LOOKUP_SECONDS,
        *,
        setup_seconds: float = SETUP_SECONDS,
        problem_seconds: float = math.inf,
        since: float | None = None,
    ) -> TopicView | None:
        """Return the topic as it is now; None if it does not exist. The arguments are those of `connect`.

        Raises KafkaError, UnavailableError, ConfigurationError.
        """
        is_new = self._admin is None
        if self._admin is None:
            how_long = (connect_seconds, self._diagnosis, setup_seconds, problem_seconds, since)
            self._admin = connect(KafkaAdminClient, self._options, *how_long)
        try:
            with answers_understood(self._servers):
                if is_new:
                    versions = self._admin._manager.broker_version_data.api_versions
                    refuse_lacking(versions, self._needs, self._servers)
                    self.replicas_capped = has(versions, REPLICAS_CAPPED)
                view = self._ask(self._admin)
        except KafkaError as error:
            self.doubts_rights = self.doubts_rights or isinstance(error, AuthorizationError)
            brokers = self._admin._manager.cluster.brokers()
            self._advertised = frozenset(f"{broker.host}:{broker.port}" for broker in brokers)
            self.close()
            raise
        except BaseException:
            self.close()
            raise
        self._diagnosis.forget()
        return view

    def cluster_id(self) -> str:
        """Return the cluster's id. To be called after `look`. Raises ConfigurationError if the cluster has none."""
        if self._cluster_id is None:
            raise ConfigurationError(
                f"{self._servers}: the cluster has no id, by which corlld knows its offsets from another cluster's"
            )
        return self._cluster_id

    def configs(self, *names: str) -> dict[str, str]:
        """Return some of the topic's settings by their names.

        What the broker does not tell is left out: nothing that is needed depends on it. See `configs_refused`.

        Raises UnavailableError, ConfigurationError as `connect`.
        """
        if self._admin is None:
            self._admin = connect(KafkaAdminClient, self._options, LOOKUP_SECONDS)
        # kafka-python's `describe_configs` takes a refusal for a topic without settings.
        asked = self._admin._describe_configs_request([ConfigResource("topic", self._topic, list(names))])
        told: dict[str, str] = {}
        try:
            with answers_understood(self._servers):
                for result in self._admin._manager.run(self._admin._manager.send, asked).results:
                    if result.error_code:
                        raise for_code(result.error_code)
                    told |= {entry.name: str(entry.value) for entry in result.configs if entry.value is not None}
        except (KafkaError, ConfigurationError) as error:
            self.configs_refused = isinstance(error, AuthorizationError)
        return told

    def close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    def _ask(self, admin: KafkaAdminClient) -> TopicView | None:
        # kafka-python's `describe_cluster` fails with brokers before Kafka 3.7. Metadata have the id since 0.10.1.
        metadata = admin._manager.run(admin._get_cluster_metadata, [self._topic])
        self._cluster_id = metadata.get("cluster_id")
        (topic,) = metadata["topics"]
        if topic["error_code"] == UNKNOWN_TOPIC_OR_PARTITION:
            return None
        if topic["error_code"] not in (0, TOPIC_AUTHORIZATION_FAILED):
            raise for_code(topic["error_code"])()
        topic_id = _topic_id(topic)
        partitions = frozenset(int(p["partition_index"]) for p in topic["partitions"])
        replicas = min((len(p["replica_nodes"]) for p in topic["partitions"]), default=0)
        tries = self.doubts_rights or time.monotonic() >= self._try_rights_at
        granted = ask_rights(admin, topic, [right for right in self._rights if tries or right.is_told])
        if tries:
            self._try_rights_at = time.monotonic() + TRY_RIGHTS_SECONDS
        self.doubts_rights = bool(granted.missing)
        if self._group is None or granted.missing:
            return TopicView(topic_id, partitions, granted=granted, replicas=replicas)
        asked = [TopicPartition(self._topic, partition) for partition in partitions]
        answer = admin.list_group_offsets({self._group: asked})[self._group]
        committed = {tp.partition: commit.offset for tp, commit in answer.items() if commit.offset >= 0}
        unknown = [tp for tp in asked if tp.partition not in committed]
        beginnings = self._offsets(admin, unknown, OffsetSpec.EARLIEST)
        ends = self._offsets(admin, unknown, OffsetSpec.LATEST)
        # The ends of the others serve to show the lag only; a partition without a leader fails the whole question.
        with suppress(KafkaError):
            ends |= self._offsets(admin, [tp for tp in asked if tp.partition in committed], OffsetSpec.LATEST)
        return TopicView(topic_id, partitions, committed, beginnings, ends, granted, replicas)

    @staticmethod
    def _offsets(admin: KafkaAdminClient, asked: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
        if not asked:
            return {}
        answer = admin.list_partition_offsets(dict.fromkeys(asked, spec), IsolationLevel.READ_COMMITTED)
        return {tp.partition: found.offset for tp, found in answer.items()}


def _answered(error: KafkaError) -> bool:
    """Return whether an error is a broker's answer. kafka-python raises RequestTimedOutError by itself too."""
    return isinstance(error, BrokerResponseError) and not isinstance(error, RequestTimedOutError)


def topic_compression(settings: KafkaSettings) -> str | None:
    """Return the topic's `compression.type`. None if the access rules do not allow to ask, or no answer came.

    Raises UnavailableError, ConfigurationError as `connect`.
    """
    lookup = TopicLookup(settings, settings.topic)
    try:
        return lookup.configs("compression.type").get("compression.type")
    finally:
        lookup.close()


def _topic_id(topic: Mapping[str, Any]) -> str | None:
    """Return the topic's id as 32 hex digits; None if the answer has none, or zeros, which stand for none."""
    given = uuid.UUID(str(topic.get("topic_id") or uuid.UUID(int=0)))
    return given.hex if given.int else None
