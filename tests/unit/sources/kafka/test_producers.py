"""Producers of dead letters and announcements, with a client that answers as the test says."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from kafka.future import Future as KafkaFuture

from corlld.errors import RetriableError
from corlld.records import DeadLetter
from corlld.settings.sections import DeadLetterSettings, KafkaSettings
from corlld.sources.dead_letters import letter_headers, letter_key
from corlld.sources.kafka.producers import KafkaAnnouncements, KafkaDeadLetters, TopicProducer
from tests.support.letters import VALUE, a_letter


class FakeProducer:
    """Takes what KafkaProducer.send takes; `answers` are errors, None for an acknowledgement."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.sent: list[dict[str, Any]] = []

    def send(self, topic: str, **message: Any) -> KafkaFuture:
        self.sent.append({"topic": topic} | message)
        answer = self.answers.pop(0)
        return KafkaFuture().failure(answer) if answer else KafkaFuture().success("acknowledged")


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
