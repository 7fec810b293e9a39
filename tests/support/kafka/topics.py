"""Helpers that the tests of sources share: settings with a test's patience, and polling until something is seen."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaError
from structlog.testing import capture_logs

from corlld.errors import ConfigurationError
from corlld.protocols import Source
from corlld.records import Polled, Record, Tenure
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.producers import TopicProducer
from tests.support.kafka.broker import KafkaCluster
from tests.support.waiting import PATIENCE_SECONDS, wait_until

POLL_SECONDS = 0.1


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def kafka_settings(bootstrap: str, topic: str, **more: Any) -> KafkaSettings:
    """A group named after the topic, and members that are missed after 6 seconds."""
    quick = {"session_timeout_seconds": 6.0, "heartbeat_interval_seconds": 0.3, "request_timeout_seconds": 10.0}
    values = {"bootstrap_servers": (bootstrap,), "topic": topic, "group_id": f"{topic}-group"} | quick | more
    return KafkaSettings.model_validate(values)


def produce(bootstrap: str, topic: str, values: Mapping[int, Iterable[bytes]], compression: str | None = None) -> None:
    """Writes values to partitions, and returns once all are acknowledged."""
    options = {"allow_auto_create_topics": False, "compression_type": compression}
    with KafkaProducer(bootstrap_servers=bootstrap, **options) as producer:
        sent = [producer.send(topic, value, partition=p) for p, some in values.items() for value in some]
        for one in sent:
            one.get(timeout=30)


def acknowledges(bootstrap: str, topic: str) -> bool:
    """Write a record. Return whether all replicas acknowledge it."""
    options = {"acks": "all", "delivery_timeout_ms": 3000, "request_timeout_ms": 1500}
    producer = KafkaProducer(bootstrap_servers=bootstrap, allow_auto_create_topics=False, **options)
    try:
        producer.send(topic, b"any").get(timeout=30)
    except KafkaError:
        return False
    finally:
        producer.close(0)
    return True


def too_few_replicas_are_judged_as_the_broker_acts(broker: KafkaCluster) -> None:
    """Start a producer for a topic with one replica that asks for two, and write to the topic."""
    topic = unique("adapters")
    broker.create_topic(topic, 1, {"min.insync.replicas": "2"})
    producer = TopicProducer(kafka_settings(broker.bootstrap, topic), topic, idempotent=True)
    sentence = "it has 1 replica, and its min.insync.replicas is 2"
    if not acknowledges(broker.bootstrap, topic):
        with pytest.raises(ConfigurationError, match=f"never acknowledges a record: {sentence}"):
            producer.start(30)
        return
    with capture_logs() as lines:
        producer.start(30)
    try:
        assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["too_few_replicas"]
        assert sentence in producer.describe()
        assert producer.send(b"key", b"value").result(30) == 0
    finally:
        producer.close(5)


class Reader:
    """Polls a source as the loop does, and keeps what it brought. Fails where the contract of `Polled` is broken.

    pausing: whether all tenures are paused after each poll; None to leave that alone.
    """

    def __init__(self, source: Source, poll_seconds: float = POLL_SECONDS) -> None:
        self.source = source
        self._poll_seconds = poll_seconds
        self.records: list[Record] = []
        self.live: dict[int, Tenure] = {}
        self.ended: list[Tenure] = []
        self.begun: list[Tenure] = []
        self.pausing: bool | None = None

    def poll(self) -> Polled:
        polled = self.source.poll(self._poll_seconds)
        for tenure in polled.ended:
            assert self.live.pop(tenure.partition.partition) == tenure
            self.ended.append(tenure)
        for tenure in polled.begun:
            assert tenure.partition.partition not in self.live
            assert tenure not in self.begun
            self.live[tenure.partition.partition] = tenure
            self.begun.append(tenure)
        for record in polled.records:
            assert self.live.get(record.tenure.partition.partition) == record.tenure
            self.records.append(record)
        if self.pausing is not None:
            self.source.pause_only(self.source.positions() if self.pausing else ())
        return polled

    def poll_until(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        def polled() -> bool:
            self.poll()
            return condition()

        if not condition():
            wait_until(polled, what, seconds)

    def read(self, count: int) -> list[Record]:
        """The records so far, once there are `count`."""
        self.poll_until(lambda: len(self.records) >= count, f"{count} records (there are {len(self.records)})")
        return self.records

    def values(self, partition: int | None = None) -> list[bytes | None]:
        return [r.value for r in self.records if partition in (None, r.tenure.partition.partition)]

    def commit(self, next_offsets: Mapping[Tenure, int]) -> None:
        """Returns once the source knows that it is committed."""
        self.poll_until(lambda: self.source.commit(next_offsets), "a commit begins")
        self.poll_until(
            lambda: all(self.source.committed().get(tenure) == offset for tenure, offset in next_offsets.items()),
            "the commit is known",
        )
