"""The content of dead letters, in a topic and in a file."""

import base64
import json
import stat
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from kafka.future import Future as KafkaFuture

from corlld.errors import InvalidEvent, InvalidReason, RetriableError
from corlld.records import DeadLetter, Record, SourcePartition, Tenure
from corlld.settings.sections import DeadLetterSettings, KafkaSettings
from corlld.sources.dead_letters import letter_headers, letter_key
from corlld.sources.kafka.producers import KafkaAnnouncements, KafkaDeadLetters, TopicProducer
from corlld.sources.letter_file import JsonlDeadLetters

TOPIC_ID = "0123456789abcdef0123456789abcdef"
VALUE = b'{"not": \xff json'  # not even UTF-8


def a_letter(**more: Any) -> DeadLetter:
    tenure = Tenure(SourcePartition("edits", TOPIC_ID, 3), number=1, start_offset=0)
    record = {"key": b"user", "value": VALUE, "headers": (("trace", b"t"),)} | more
    error = InvalidEvent(InvalidReason.INVALID_FIELD, field="user_id", detail="at most 256 characters")
    return DeadLetter(Record(tenure, 41, 42, **record), error, uid="u1")


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


def test_the_key_names_user_topic_partition_and_offset() -> None:
    assert letter_key(a_letter()) == f"u1/{TOPIC_ID}/3/41"
    unknown = DeadLetter(a_letter().record, a_letter().error, uid=None)
    assert letter_key(unknown) == f"unknown/{TOPIC_ID}/3/41"


def test_the_headers_are_kafka_connects_and_the_reason() -> None:
    assert letter_headers(a_letter()) == {
        "__connect.errors.topic": "edits",
        "__connect.errors.partition": "3",
        "__connect.errors.offset": "41",
        "__connect.errors.connector.name": "corlld",
        "__connect.errors.task.id": "0",
        "__connect.errors.stage": "VALUE_CONVERTER",
        "__connect.errors.class.name": "corlld.events.EventDecoder",
        "__connect.errors.exception.class.name": "corlld.errors.InvalidEvent",
        "__connect.errors.exception.message": "invalid_field: user_id: at most 256 characters",
        "corlld.reason": "invalid_field",
    }


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


def test_a_file_gets_one_object_a_line_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "dead.jsonl"
    letters = JsonlDeadLetters(path, DeadLetterSettings())
    for _ in range(2):
        letters.send(a_letter()).result(10)
    letters.close(1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    expected = {
        "key": letter_key(a_letter()),
        "headers": letter_headers(a_letter()),
        "payload": base64.b64encode(VALUE).decode(),
    }
    assert lines == [expected, expected]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_keeps_no_payload_where_it_is_off(tmp_path: Path) -> None:
    letters = JsonlDeadLetters(tmp_path / "dead.jsonl", DeadLetterSettings(payload=False))
    letters.send(a_letter()).result(10)
    letters.close(1)
    assert set(json.loads((tmp_path / "dead.jsonl").read_text())) == {"key", "headers"}


def test_a_file_that_can_not_be_written_is_retriable(tmp_path: Path) -> None:
    (tmp_path / "dead.jsonl").mkdir()
    letters = JsonlDeadLetters(tmp_path / "dead.jsonl", DeadLetterSettings())
    with pytest.raises(RetriableError, match="can't be written"):
        letters.send(a_letter()).result(10)
    letters.close(1)


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dead.jsonl"
    letters = JsonlDeadLetters(path, DeadLetterSettings())
    letters.send(a_letter()).result(10)
    whole = path.read_bytes()

    def full_disk(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("corlld.sources.letter_file.os.fsync", full_disk)
        with pytest.raises(RetriableError, match="No space left"):
            letters.send(a_letter()).result(10)
    assert path.read_bytes() == whole
    letters.send(a_letter()).result(10)
    assert path.read_bytes() == 2 * whole
    letters.close(1)


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
