"""Dead letters and announcements on a real broker."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError, TopicAuthorizationFailedError

from corlld.errors import InvalidEvent, InvalidReason, RetriableError, UnavailableError
from corlld.records import DeadLetter, Record, SourcePartition, Tenure
from corlld.settings.sections import DeadLetterSettings
from corlld.sources.dead_letters import letter_headers, letter_key
from corlld.sources.kafka.producers import KafkaAnnouncements, KafkaDeadLetters, TopicProducer
from tests.support.kafka.broker import KafkaBroker, KafkaCluster
from tests.support.kafka.topics import kafka_settings, unique
from tests.support.waiting import wait_until


def a_letter(value: bytes = b"not json") -> DeadLetter:
    tenure = Tenure(SourcePartition("edits", "0" * 32, 3), number=1, start_offset=0)
    record = Record(tenure, 41, 42, key=b"user", value=value, headers=(("trace", b"t"),))
    return DeadLetter(record, InvalidEvent(InvalidReason.NOT_JSON), uid="u1")


def records_of(cluster: KafkaCluster, topic: str, count: int) -> list[Any]:
    with KafkaConsumer(bootstrap_servers=cluster.bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        records: list[Any] = []

        def all_there() -> bool:
            for batch in consumer.poll(timeout_ms=100).values():
                records.extend(batch)
            return len(records) >= count

        wait_until(all_there, f"{count} records")
        return records


def dead_letters(cluster: KafkaCluster, topic: str, **kafka: float) -> KafkaDeadLetters:
    letters = KafkaDeadLetters(kafka_settings(cluster.bootstrap, "edits", **kafka), DeadLetterSettings(topic=topic))
    letters.start(30)
    return letters


def test_a_dead_letter_is_in_the_topic_once_it_is_acknowledged(kafka_broker: KafkaCluster) -> None:
    topic = unique("dead")
    kafka_broker.create_topic(topic, 1)
    letters = dead_letters(kafka_broker, topic)
    letters.send(a_letter()).result(30)
    letters.close(10)
    (record,) = records_of(kafka_broker, topic, 1)
    assert (record.key, record.value) == (letter_key(a_letter()).encode(), b"not json")
    headers = {name: value.decode() for name, value in record.headers}
    assert headers == letter_headers(a_letter()) | {"trace": "t", "corlld.record.key": "user"}


@pytest.mark.parametrize("error", [KafkaTimeoutError, TopicAuthorizationFailedError])
def test_a_start_that_can_not_ask_for_partitions_leaves_it_to_the_first_letter(
    kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch, error: type[KafkaError]
) -> None:
    def fails(*_: object) -> None:
        raise error("too slow")

    topic = unique("dead")
    kafka_broker.create_topic(topic, 1)
    with monkeypatch.context() as patch:
        patch.setattr(KafkaProducer, "partitions_for", fails)
        letters = dead_letters(kafka_broker, topic)
    letters.send(a_letter()).result(30)
    letters.close(10)


def test_a_letter_that_the_topic_finds_too_large_arrives_without_its_payload(kafka_broker: KafkaCluster) -> None:
    topic = unique("dead")
    kafka_broker.create_topic(topic, 1, {"max.message.bytes": "5000"})
    letters = dead_letters(kafka_broker, topic)
    letters.send(a_letter(b"x" * 6000)).result(30)
    letters.send(a_letter(b"fits")).result(30)
    letters.close(10)
    assert [record.value for record in records_of(kafka_broker, topic, 2)] == [b"", b"fits"]


def test_an_announcement_and_its_withdrawal_arrive_in_order(kafka_broker: KafkaCluster) -> None:
    topic = unique("adapters")
    kafka_broker.create_topic(topic, 1, {"cleanup.policy": "compact"})
    announcements = KafkaAnnouncements(kafka_settings(kafka_broker.bootstrap, "edits"), topic)
    announcements.start(30)
    sent = [announcements.send("u1", value) for value in (b"1", b"2", None)]
    assert [one.result(30) for one in sent] == [None] * 3
    announcements.close(10)
    records = records_of(kafka_broker, topic, 3)
    assert [(record.key, record.value) for record in records] == [(b"u1", b"1"), (b"u1", b"2"), (b"u1", None)]


def test_an_announcement_that_was_refused_does_not_break_the_next_ones(kafka_broker: KafkaCluster) -> None:
    topic = unique("adapters")
    kafka_broker.create_topic(topic, 1, {"max.message.bytes": "5000"})
    announcements = KafkaAnnouncements(kafka_settings(kafka_broker.bootstrap, "edits"), topic)
    announcements.start(30)
    assert isinstance(announcements.send("u1", b"x" * 6000).exception(30), RetriableError)
    announcements.send("u1", b"fits").result(30)
    announcements.close(10)
    assert [record.value for record in records_of(kafka_broker, topic, 1)] == [b"fits"]


def test_a_missing_topic_is_said_at_the_start_and_never_created(kafka_broker: KafkaCluster) -> None:
    topic = unique("missing")
    settings = kafka_settings(kafka_broker.bootstrap, "edits")
    for producer in (KafkaDeadLetters(settings, DeadLetterSettings(topic=topic)), KafkaAnnouncements(settings, topic)):
        with pytest.raises(UnavailableError, match=f"topic {topic} does not exist"):
            producer.start(0.5)
        producer.close(1)
    with kafka_broker.admin() as admin:
        assert topic not in admin.list_topics()


def test_a_broker_that_is_away_fails_the_letter_as_retriable_takes_it_when_it_is_back_and_holds_no_close_up(
    own_kafka_broker: KafkaBroker,
) -> None:
    topic = unique("dead")
    own_kafka_broker.create_topic(topic, 1)
    letters = dead_letters(own_kafka_broker, topic, request_timeout_seconds=1.0)
    own_kafka_broker.stop()
    assert isinstance(letters.send(a_letter()).exception(30), RetriableError)
    own_kafka_broker.start()
    wait_until(lambda: letters.send(a_letter()).exception(30) is None, "a letter is acknowledged")
    letters.close(10)
    producer = TopicProducer(kafka_settings(own_kafka_broker.bootstrap, topic), topic, idempotent=True)
    producer.start(30)
    own_kafka_broker.stop()
    under_way = producer.send(b"key", b"value")
    producer.close(0.1)
    assert isinstance(under_way.exception(0), RetriableError)


def word_senders(
    cluster: KafkaCluster, topic: str, **kafka: float
) -> "dict[str, tuple[Any, Callable[[bytes], Future[Any]]]]":
    """Return started senders of each kind, and what sends a value with each of them."""
    settings = kafka_settings(cluster.bootstrap, topic, **kafka)
    letters, announcements = dead_letters(cluster, topic, **kafka), KafkaAnnouncements(settings, topic)
    events = TopicProducer(settings, topic, idempotent=True)  # as `corlld send` uses it
    announcements.start(30)
    events.start(30)
    return {
        "dead letters": (letters, lambda value: letters.send(a_letter(value))),
        "announcements": (announcements, lambda value: announcements.send("u1", value)),
        "events": (events, lambda value: events.send(b"key", value)),
    }


@pytest.mark.parametrize("outage", ["stopped", "killed"])
def test_an_outage_longer_than_the_delivery_time_out_ends_no_sender_for_ever(
    outage: str, own_kafka_broker: KafkaBroker
) -> None:
    topic = unique("words")
    own_kafka_broker.create_topic(topic, 1)
    senders = word_senders(own_kafka_broker, topic, request_timeout_seconds=1.0)
    for _, send in senders.values():
        send(b"before").result(30)
    if outage == "stopped":
        os.kill(own_kafka_broker.pid, signal.SIGSTOP)
    else:
        own_kafka_broker.kill()
    under_way = [send(b"during") for _, send in senders.values()]
    assert all(isinstance(sent.exception(30), RetriableError) for sent in under_way)
    if outage == "stopped":
        os.kill(own_kafka_broker.pid, signal.SIGCONT)
    else:
        own_kafka_broker.start()
    for kind, (sender, send) in senders.items():
        wait_until(lambda send=send: send(b"after").exception(15) is None, f"{kind} are acknowledged")
        sender.close(10)
