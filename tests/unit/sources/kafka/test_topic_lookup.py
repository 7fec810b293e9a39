"""What is asked about a topic, with the answers of brokers of several versions."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.errors import (
    CoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    InvalidRequestError,
    KafkaConnectionError,
    LeaderNotAvailableError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
)
from kafka.protocol.broker_version_data import BrokerVersionData
from kafka.protocol.metadata import MetadataResponse

from corlld.errors import ConfigurationError, MissingTopicError, UnavailableError
from corlld.sources.kafka.client import TopicLookup
from corlld.sources.kafka.rights import Granted, Right, reading
from tests.support.kafka.topics import kafka_settings

TOPIC_ID = uuid.UUID("0123456789abcdef0123456789abcdef")
NO_ID = uuid.UUID(int=0)


class OldAdmin:
    """Answers as KafkaAdminClient does. Its broker has the metadata of some version."""

    def __init__(self, kafka: tuple[int, ...], metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        version_data = BrokerVersionData(kafka)
        self._manager = SimpleNamespace(
            broker_version_data=version_data,
            run=lambda ask, *given: ask(*given),
            cluster=SimpleNamespace(brokers=list),
        )

    def _get_cluster_metadata(self, topics: Sequence[str]) -> Mapping[str, Any]:
        return self.metadata

    def describe_cluster(self) -> Mapping[str, Any]:
        raise KeyError("endpoint_type")  # as kafka-python 3.0.12 does with brokers before 3.7

    def close(self) -> None:
        pass


def answer(version: int, topic_id: uuid.UUID = NO_ID, cluster_id: str | None = "c1") -> dict[str, Any]:
    """What kafka-python reads from the bytes of a broker's metadata of this version."""
    topic, broker = MetadataResponse.MetadataResponseTopic, MetadataResponse.MetadataResponseBroker
    partition = topic.MetadataResponsePartition(
        error_code=0, partition_index=0, leader_id=1, leader_epoch=0, replica_nodes=[1], isr_nodes=[1]
    )
    topics = [topic(error_code=0, name="edits", topic_id=topic_id, is_internal=False, partitions=[partition])]
    brokers = [broker(node_id=1, host="kafka", port=9092, rack=None)]
    sent = MetadataResponse(
        version=version, throttle_time_ms=0, brokers=brokers, cluster_id=cluster_id, controller_id=1, topics=topics
    )
    read: dict[str, Any] = MetadataResponse.decode(sent.encode(version=version), version=version).to_dict()
    return read


def topic_configs(error_code: int = 0, **values: str | None) -> Any:
    """What a broker answers about a topic's own settings."""
    configs = [SimpleNamespace(name=name, value=value) for name, value in values.items()]
    return SimpleNamespace(error_code=error_code, configs=configs)


@pytest.fixture
def lookup_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[OldAdmin], TopicLookup]:
    def make(admin: OldAdmin) -> TopicLookup:
        monkeypatch.setattr("corlld.sources.kafka.client.connect", lambda *_: admin)
        return TopicLookup(kafka_settings("kafka:9092", "edits"), "edits")

    return make


@pytest.mark.parametrize(
    ("kafka", "metadata", "topic_id"),
    [
        ((2, 7), answer(9), None),  # the answer has no field for an id
        ((2, 8), answer(11), None),  # zeros: the cluster's metadata version is below 2.8
        ((2, 8), answer(11, TOPIC_ID), TOPIC_ID.hex),
        ((3, 3), answer(12, TOPIC_ID), TOPIC_ID.hex),
    ],
)
def test_brokers_with_and_without_topic_ids_answer_all_that_is_asked(
    lookup_with: Callable[[OldAdmin], TopicLookup],
    kafka: tuple[int, ...],
    metadata: Mapping[str, Any],
    topic_id: str | None,
) -> None:
    lookup = lookup_with(OldAdmin(kafka, metadata))
    view = lookup.look()
    assert view is not None
    assert (view.topic_id, view.partitions) == (topic_id, {0})
    assert lookup.cluster_id() == "c1"


def test_a_broker_that_is_too_old_is_refused_before_it_is_asked(
    lookup_with: Callable[[OldAdmin], TopicLookup],
) -> None:
    with pytest.raises(ConfigurationError, match="kafka:9092: the broker is too old"):
        lookup_with(OldAdmin((0, 10, 2), {})).wait_for_topic(1)


def test_an_answer_without_what_every_broker_has_is_a_sentence(
    lookup_with: Callable[[OldAdmin], TopicLookup],
) -> None:
    with pytest.raises(ConfigurationError, match=r"the broker's answer is not as kafka-python .* expects it.*KeyError"):
        lookup_with(OldAdmin((3, 3), {"cluster_id": "c1"})).wait_for_topic(1)


def test_a_request_that_the_broker_does_not_know_is_a_sentence_at_once(
    lookup_with: Callable[[OldAdmin], TopicLookup], monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = OldAdmin((3, 3), {})

    def refused(topics: Sequence[str]) -> Mapping[str, Any]:
        raise IncompatibleBrokerVersion("no Metadata")

    monkeypatch.setattr(admin, "_get_cluster_metadata", refused)
    with pytest.raises(ConfigurationError, match=r"kafka:9092: the broker does not understand .*no Metadata"):
        lookup_with(admin).wait_for_topic(60)


def test_a_topic_that_is_known_to_be_missing_is_not_waited_for_as_long_as_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = answer(12)
    missing["topics"][0]["error_code"] = 3
    monkeypatch.setattr("corlld.sources.kafka.client.connect", lambda *_: OldAdmin((3, 3), missing))
    lookup = TopicLookup(kafka_settings("kafka:9092", "edits"), "edits", problem_seconds=0.1)
    began = time.monotonic()
    with pytest.raises(MissingTopicError):
        lookup.wait_for_topic(60)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("told", "configs", "refused"),
    [
        ([topic_configs(a="1", b=None)], {"a": "1"}, False),
        ([topic_configs()], {}, False),
        ([], {}, False),
        (None, {}, False),
        ([topic_configs(TopicAuthorizationFailedError.errno)], {}, True),
        ([topic_configs(InvalidRequestError.errno)], {}, False),
        ([topic_configs(9999)], {}, False),
        (InvalidRequestError(), {}, False),
    ],
)
def test_a_service_may_answer_anything_about_a_topics_own_settings(
    lookup_with: Callable[[OldAdmin], TopicLookup], told: Any, configs: Mapping[str, str], refused: bool
) -> None:
    admin: Any = OldAdmin((3, 3), {})

    def send(_request: Any) -> Any:
        if isinstance(told, Exception):
            raise told
        return SimpleNamespace(results=told)

    admin._describe_configs_request = KafkaAdminClient._describe_configs_request
    admin._manager.send = send
    lookup = lookup_with(admin)
    assert lookup.configs("a", "b") == configs
    assert lookup.configs_refused == refused


@pytest.mark.parametrize(
    ("failure", "sentence", "probes"),
    [
        (CoordinatorNotAvailableError, "kafka:9092 answers, but has no coordinator for group g: check offsets", 0),
        (LeaderNotAvailableError, "kafka:9092 answers about topic edits with LeaderNotAvailableError", 0),
        (KafkaConnectionError, r"kafka:9092 gave no answer about topic edits \(KafkaConnectionError\)", 1),
        (RequestTimedOutError, r"kafka:9092 gave no answer about topic edits \(RequestTimedOutError\)", 1),
    ],
)
def test_a_question_that_fails_names_the_cause_and_brokers_are_probed_only_if_they_do_not_answer(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception], sentence: str, probes: int
) -> None:
    admin, probed = OldAdmin((3, 3), {}), []

    def fail(_topics: Sequence[str]) -> Mapping[str, Any]:
        raise failure

    monkeypatch.setattr(admin, "_get_cluster_metadata", fail)
    monkeypatch.setattr("corlld.sources.kafka.client.connect", lambda *_: admin)
    monkeypatch.setattr("corlld.sources.kafka.diagnosis.find", lambda *_: probed.append(1) or {})
    with pytest.raises(UnavailableError, match=rf"^{sentence}.* \(waited 1(\.\d)? s\)$"):
        TopicLookup(kafka_settings("kafka:9092", "edits"), "edits", "g").wait_for_topic(1)
    assert len(probed) == probes, "several questions, and a probe every few seconds"


def test_rights_that_have_to_be_tried_are_seldom_asked_for_unless_one_is_refused(
    lookup_with: Callable[[OldAdmin], TopicLookup], monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup = lookup_with(OldAdmin((3, 3), answer(12, TOPIC_ID)))
    topic, group = lookup._rights = reading("edits", "g")
    asked: list[Sequence[Right]] = []
    granted = Granted()

    def ask(_admin: Any, _topic: Any, needed: Sequence[Right]) -> Granted:
        asked.append(tuple(needed))
        return granted

    monkeypatch.setattr("corlld.sources.kafka.client.ask_rights", ask)
    lookup.look()
    lookup.look()
    lookup.doubts_rights = True  # a commit was refused
    granted = Granted(missing=(group,))
    lookup.look()
    granted = Granted()
    lookup.look()
    lookup.look()
    lookup._try_rights_at = 0.0  # a minute later
    lookup.look()
    assert asked == [(topic, group), (topic,), (topic, group), (topic, group), (topic,), (topic, group)]


def test_a_cluster_without_an_id_is_refused(lookup_with: Callable[[OldAdmin], TopicLookup]) -> None:
    lookup = lookup_with(OldAdmin((3, 3), answer(12, TOPIC_ID, cluster_id=None)))
    lookup.look()
    with pytest.raises(ConfigurationError, match="the cluster has no id"):
        lookup.cluster_id()
