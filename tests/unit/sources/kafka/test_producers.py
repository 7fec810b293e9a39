"""Producers of dead letters and announcements, with a client that answers as the test says."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import IllegalStateError, KafkaTimeoutError, MessageSizeTooLargeError
from kafka.future import Future as KafkaFuture

from corlld.errors import RetriableError
from corlld.records import DeadLetter
from corlld.settings.sections import DeadLetterSettings, KafkaSettings
from corlld.sources.dead_letters import letter_headers, letter_key
from corlld.sources.kafka import producers
from corlld.sources.kafka.deliveries import Deliveries, acknowledge
from corlld.sources.kafka.producers import KafkaAnnouncements, KafkaDeadLetters, TopicProducer
from tests.support.letters import VALUE, a_letter


class FakeProducer:
    """Takes what KafkaProducer.send takes; `answers` are errors, None for an acknowledgement."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.sent: list[dict[str, Any]] = []
        self._sender = self

    def force_close(self) -> None:
        """Nothing is under way."""

    def close(self, timeout: float) -> None:
        """Nothing is under way."""

    def send(self, topic: str, **message: Any) -> KafkaFuture:
        self.sent.append({"topic": topic} | message)
        answer = self.answers.pop(0)
        return KafkaFuture().failure(answer) if answer else KafkaFuture().success(SimpleNamespace(partition=0))


class StuckProducer:
    """Acts as kafka-python 3.0's idempotent producer does: once a record has expired, no other gets an answer."""

    def __init__(self) -> None:
        self.sent: list[KafkaFuture] = []
        self._sender = self
        self.closed = False

    def send(self, topic: str, **message: Any) -> KafkaFuture:
        self.sent.append(KafkaFuture())
        return self.sent[-1]

    def force_close(self) -> None:
        for each in self.sent:
            if not each.is_done:
                each.failure(IllegalStateError("Producer is closed forcefully."))

    def close(self, timeout: float) -> None:
        if not all(each.is_done for each in self.sent):
            raise KafkaTimeoutError("Timeout waiting for future")
        self.closed = True


class Connections:
    """Gives a `TopicProducer` one client after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *clients: Any) -> None:
        self.left = list(clients)
        monkeypatch.setattr(TopicProducer, "_connect", lambda producer, timeout_seconds: self.left.pop(0))


def topic_producer(*, idempotent: bool = True, delivery_seconds: float = 600.0) -> TopicProducer:
    settings = KafkaSettings(request_timeout_seconds=delivery_seconds / 2)
    return TopicProducer(settings, "words", idempotent=idempotent)


def sent_by(letters: KafkaDeadLetters, letter: DeadLetter, *answers: Exception | None) -> tuple[Future[None], Any]:
    fake = FakeProducer(*answers or (None,))
    letters._producer._producer = fake
    answer = letters.send(letter)
    letters._sending.shutdown(wait=True)  # it is sent by a thread of its own
    return answer, fake.sent


def dead_letters(**settings: Any) -> KafkaDeadLetters:
    return KafkaDeadLetters(KafkaSettings(), DeadLetterSettings(topic="dead", **settings))


def test_a_topic_keeps_the_records_own_bytes_key_and_headers() -> None:
    done, (sent,) = sent_by(dead_letters(), a_letter())
    assert done.result(0) is None
    assert (sent["topic"], sent["key"], sent["value"]) == ("dead", letter_key(a_letter()).encode(), VALUE)
    headers = dict(sent["headers"])
    assert headers["trace"] == b"t"
    assert headers["corlld.record.key"] == b"user"
    assert headers["corlld.reason"] == b"invalid_field"


def test_a_topic_gets_position_and_reason_alone_where_the_payload_is_off() -> None:
    _, (sent,) = sent_by(dead_letters(payload=False), a_letter())
    assert sent["value"] == b""
    assert dict(sent["headers"]) == {name: value.encode() for name, value in letter_headers(a_letter()).items()}


def test_a_letter_never_is_a_tombstone() -> None:
    _, (sent,) = sent_by(dead_letters(), a_letter(value=None, key=None))
    assert sent["value"] == b""


def test_a_letter_that_was_not_acknowledged_fails_as_retriable_and_quotes_nothing() -> None:
    done, _ = sent_by(dead_letters(), a_letter(), KafkaTimeoutError("about b'user'"))
    error = done.exception(0)
    assert isinstance(error, RetriableError)
    assert "user" not in str(error)


def test_a_letter_too_large_for_the_topic_goes_without_its_payload() -> None:
    done, sent = sent_by(dead_letters(), a_letter(), MessageSizeTooLargeError(), None)
    assert done.result(0) is None
    assert [message["value"] for message in sent] == [VALUE, b""]
    assert dict(sent[1]["headers"])["corlld.payload"] == b"dropped: too large"
    assert b"user" not in dict(sent[1]["headers"]).values()


def test_an_announcement_is_keyed_by_uid_and_none_withdraws() -> None:
    announcements = KafkaAnnouncements(KafkaSettings(), "adapters")
    fake = announcements._producer._producer = FakeProducer(None, None)
    announcements.send("u1", b"{}").result(0)
    announcements.send("u1", None).result(0)
    assert [(message["key"], message["value"]) for message in fake.sent] == [(b"u1", b"{}"), (b"u1", None)]


def test_sending_never_waits_for_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    away = threading.Event()

    def send(producer: TopicProducer, *letter: object) -> "Future[None]":
        assert away.wait(30)  # as kafka-python waits for a topic's metadata
        sent: Future[None] = Future()
        sent.set_result(None)
        return sent

    monkeypatch.setattr(TopicProducer, "send", send)
    letters = KafkaDeadLetters(KafkaSettings(), DeadLetterSettings())
    answers = [letters.send(a_letter()) for _ in range(3)]
    assert not any(answer.done() for answer in answers)
    away.set()
    assert [answer.result(30) for answer in answers] == [None] * 3
    letters.close(1)


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_producer_whose_record_expired_is_replaced_and_its_other_records_fail(
    monkeypatch: pytest.MonkeyPatch, *, idempotent: bool
) -> None:
    stuck, fresh = StuckProducer(), FakeProducer(None)
    connections = Connections(monkeypatch, stuck, fresh)
    producer = topic_producer(idempotent=idempotent)
    expired, behind = producer.send(b"k", b"1"), producer.send(b"k", b"2")
    stuck.sent[0].failure(KafkaTimeoutError("Expiring 1 record(s)"))
    assert isinstance(expired.exception(0), RetriableError)
    assert isinstance(behind.exception(0), RetriableError)  # kafka-python would never answer
    assert producer.send(b"k", b"3").result(0) == 0
    assert stuck.closed
    assert connections.left == []
    producer.close(0)


def test_a_producer_that_gives_no_answer_at_all_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "GRACE_SECONDS", 0.0)
    stuck, fresh = StuckProducer(), FakeProducer(None)
    Connections(monkeypatch, stuck, fresh)
    producer = topic_producer(delivery_seconds=1.2)
    silent = producer.send(b"k", b"1")
    assert not silent.done()
    assert isinstance(silent.exception(30), RetriableError)
    assert producer.send(b"k", b"2").result(0) == 0
    producer.close(0)


def test_a_topic_that_has_no_room_for_a_record_keeps_a_producer_that_is_not_idempotent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Connections(monkeypatch, FakeProducer(MessageSizeTooLargeError(), None))
    producer = topic_producer(idempotent=False)
    assert isinstance(producer.send(b"k", b"1").exception(0), RetriableError)
    assert producer.send(b"k", b"2").result(0) == 0
    producer.close(0)


def test_a_close_does_not_wait_for_a_connection_that_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    connecting, go_on, late = threading.Event(), threading.Event(), StuckProducer()

    def connect(producer: TopicProducer, timeout_seconds: float) -> StuckProducer:
        connecting.set()
        assert go_on.wait(30)
        return late

    monkeypatch.setattr(TopicProducer, "_connect", connect)
    producer = topic_producer()
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(producer.send, b"k", b"1")
        assert connecting.wait(30)
        producer.close(0)
        go_on.set()
        assert isinstance(sent.result(30).exception(0), RetriableError)
    assert late.closed


def test_a_close_fails_what_kafka_python_does_not_answer() -> None:
    deliveries = Deliveries(600.0, lambda producer: None)
    answered: Future[int] = Future()
    silent: Future[int] = Future()
    for answer in (answered, silent):
        deliveries.expect(answer, producer=None)
    acknowledge(answered, 3)
    deliveries.close()
    assert answered.result(0) == 3
    assert isinstance(silent.exception(0), RetriableError)


def test_records_with_an_answer_are_forgotten() -> None:
    deliveries = Deliveries(600.0, lambda producer: None)
    for partition in range(100):
        answer: Future[int] = Future()
        deliveries.expect(answer, producer=None)
        acknowledge(answer, partition)
    assert len(deliveries._records) == 1
    deliveries.close()
