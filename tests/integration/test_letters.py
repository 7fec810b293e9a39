"""`corlld dead-letters` on a real broker: a bad event is set aside, repaired, sent back and learnt exactly once."""

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from corlld.cli import main
from corlld.errors import ExitCode, InvalidEvent, InvalidReason
from corlld.events.pseudonyms import Pseudonyms
from corlld.records import DeadLetter, Record, SourcePartition, Tenure
from corlld.settings.sections import DeadLetterSettings
from corlld.sources.kafka.producers import KafkaDeadLetters
from tests.support.commands import SECRET, fails, set_topic
from tests.support.daemon_process import Site, running
from tests.support.edits import edit, erasure
from tests.support.kafka.broker import KafkaCluster
from tests.support.kafka.relays import far_away
from tests.support.kafka.topics import kafka_settings, unique
from tests.support.waiting import wait_until

NAMES = Pseudonyms(SECRET)


def send(bootstrap: str, topic: str, *records: tuple[bytes | None, Any]) -> None:
    with KafkaProducer(bootstrap_servers=bootstrap) as producer:
        for key, event in records:
            producer.send(topic, json.dumps(event).encode(), key=key, partition=0).get(30)


def records_of(bootstrap: str, topic: str) -> list[Any]:
    """All that is in the only partition of the topic now."""
    place = TopicPartition(topic, 0)
    with KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        end = consumer.end_offsets([place])[place]
        consumer.assign([place])
        records: list[Any] = []

        def all_read() -> bool:
            records.extend(record for batch in consumer.poll(timeout_ms=100).values() for record in batch)
            return bool(consumer.position(place) >= end)

        wait_until(all_read, f"all of {topic}")
        return records


class Command:
    """Runs the command with a settings file, and returns what it printed."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = config
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert main([*arguments, "--config", str(self._config)]) == code
        return self._capsys.readouterr().out


def test_a_bad_event_is_repaired_replayed_and_learnt_exactly_once_and_does_not_survive_an_erasure(
    tmp_path: Path,
    kafka_broker: KafkaCluster,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    site = Site.make(tmp_path, kafka_broker, tiny_model, 1)
    config = site.write_settings()
    command = Command(config, capsys)

    def learnt(user: str) -> tuple[int, list[str]]:
        state = json.loads(command("state", "show", user, "--json"))
        return state["statistics"]["events"], state["recent_event_ids"]

    with running(config, site.log()) as daemon:
        send(site.bootstrap, site.topic, (b"ann", edit(1)), (b"ann", edit(2, edited=None)), (None, edit(3, "bob")))
        site.wait_for_end(daemon)
        counts = json.loads(command("dead-letters", "list", "--json"))["reasons"]
        assert {reason: row["letters"] for reason, row in counts.items()} == {"invalid_field": 1, "key_missing": 1}

        shown = json.loads(command("dead-letters", "show", "--json", "--payload", "--reason", "invalid_field"))
        event = json.loads(shown["payload"]) | {"edited": "rises in the east."}
        repaired = tmp_path / "repaired.jsonl"
        repaired.write_text(json.dumps({"key": shown["key"], "event": event}))
        assert "still invalid" in command(
            "dead-letters", "replay", "--yes", code=ExitCode.DATA
        )  # the one without key goes
        assert "1 event of 1 user: acknowledged" in command(
            "dead-letters", "replay", "--yes", "--repaired", str(repaired)
        )
        site.wait_for_end(daemon)
        assert learnt("ann") == (2, ["ann-1", "ann-2"])
        assert learnt("bob") == (1, ["bob-3"])

        assert "learnt already" in command("dead-letters", "replay", "--yes", "--repaired", str(repaired))
        again = command("dead-letters", "replay", "--yes", "--include-erased", "--reason", "key_missing")
        assert "1 event of 1 user: acknowledged" in again
        site.wait_for_end(daemon)
        assert learnt("bob") == (1, ["bob-3"])

        send(site.bootstrap, site.topic, (b"ann", erasure()))
        site.wait_for_end(daemon)
        assert "older than an erasure" in command("dead-letters", "replay", "--yes", "--repaired", str(repaired))
        assert daemon.stop() == 0
    assert len(records_of(site.bootstrap, site.topic)) == 3 + 2 + 1 + 1


class Letters:
    """A dead-letter topic of three partitions beside an input of one, and settings that name both."""

    def __init__(self, cluster: KafkaCluster, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.bootstrap = cluster.bootstrap
        self.topic = unique("edits")
        self.dead = f"{self.topic}.dead-letters"
        cluster.create_topic(self.topic, 1, {"max.message.bytes": "5000"})
        cluster.create_topic(self.dead, 3)
        set_topic(monkeypatch, self.bootstrap, self.topic)
        monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
        monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
        monkeypatch.setenv("CORLLD_DEAD_LETTERS__TOPIC", self.dead)
        monkeypatch.setenv("CORLLD_EVENTS__TOMBSTONES_ERASE", "true")
        monkeypatch.setenv("CORLLD_STATE__PATH", str(folder / "state"))

    def set_aside(self, *records: tuple[int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]) -> None:
        letters = KafkaDeadLetters(kafka_settings(self.bootstrap, self.topic), DeadLetterSettings(topic=self.dead))
        letters.start(30)
        for offset, key, value, headers in records:
            record = Record(
                Tenure(SourcePartition(self.topic, "topic-id", 3), 1, 0), offset, offset + 1, key, value, headers
            )
            uid = None if key is None else NAMES.uid(key.decode())
            letters.send(DeadLetter(record, InvalidEvent(InvalidReason.STATE_UNREADABLE), uid)).result(30)
        letters.close(10)


@pytest.fixture
def letters(kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Letters:
    return Letters(kafka_broker, monkeypatch, tmp_path)


def value(number: int, user: str = "ann", **fields: Any) -> bytes:
    return json.dumps(edit(number, user, **fields)).encode()


def test_a_cluster_that_is_far_away_is_waited_for_and_a_topic_that_is_missing_is_not(
    letters: Letters, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    letters.set_aside((1, b"ann", value(1), ()))
    for module in ("letters", "letter_selection"):
        monkeypatch.setattr(f"corlld.commands.{module}.REACH_SECONDS", 0.5)
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "60")
    with far_away(letters.bootstrap, 0.7) as there:
        monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", there)
        assert main(["dead-letters", "replay", "--include-erased", "--yes"]) == 0
    assert [record.value for record in records_of(letters.bootstrap, letters.topic)] == [value(1)]
    reached = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reaching")]
    assert reached == ["reaching the dead letters ...", f"reaching topic {letters.topic} ..."]
    monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", letters.bootstrap)
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__TOPIC", unique("missing"))
    code, problem = fails(capsys, "dead-letters", "list")
    assert code == ExitCode.UNAVAILABLE
    assert re.search(r"does not exist .*\(waited [01](\.\d)? s\)", problem)


def test_events_go_back_as_they_were_in_the_order_of_their_records_whatever_partition_has_the_letter(
    letters: Letters, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud = {"specversion": "1.0", "id": "1", "source": "/editor", "type": "com.example.edit"}
    cloud |= {"time": "2026-01-02T12:00:00Z", "datacontenttype": "application/json"}
    headers = tuple((f"ce_{name}", text.encode()) for name, text in cloud.items())
    data = json.dumps({"user_id": "ann", "prompt": "", "proposed": "a", "edited": "b"}).encode()
    plain = [(number, b"ann", value(number), ()) for number in range(12, 0, -1)]
    letters.set_aside(*plain, (20, b"ann", data, headers), (21, "bøb".encode(), None, ()), *plain)
    assert main(["dead-letters", "replay", "--include-erased", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "14 events of 2 users, 1 to erase a user: acknowledged by all replicas, in 1 partition" in said
    records = records_of(letters.bootstrap, letters.topic)
    assert [record.value for record in records] == [value(number) for number in range(1, 13)] + [data, None]
    assert [record.key for record in records] == [b"ann"] * 13 + ["bøb".encode()]
    assert [tuple(record.headers) for record in records[11:]] == [(), headers, ()]


def test_letters_are_listed_once_from_a_time_on_and_beside_what_others_wrote(
    letters: Letters, capsys: pytest.CaptureFixture[str]
) -> None:
    send(letters.bootstrap, letters.dead, (b"key", "a letter of another program"))
    letters.set_aside((1, b"ann", value(1), ()), (1, b"ann", value(1), ()), (2, b"bob", value(2, "bob"), ()))
    time.sleep(0.01)  # the broker's clock counts milliseconds
    later = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    letters.set_aside((3, b"ann", value(3), ()))
    assert main(["dead-letters", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["letters"], found["copies"], found["foreign"]) == (3, 1, 1)
    reason = found["reasons"]["state_unreadable"]
    assert (reason["users"], reason["oldest"]["place"], reason["newest"]["place"]) == (
        2,
        f"{letters.topic}-3-1",
        f"{letters.topic}-3-3",
    )
    assert reason["oldest"]["stored_at"] <= reason["newest"]["stored_at"]
    assert main(["dead-letters", "show", "--since", later]) == 0
    assert f"place: {letters.topic}-3-3\n" in (shown := capsys.readouterr().out)
    assert f"place: {letters.topic}-3-2\n" not in shown
    assert main(["dead-letters", "list", "--since", "2126-01-02T12:00:00Z"]) == 0
    assert capsys.readouterr().out == f"0 dead letters in topic {letters.dead}\n"


def test_a_replay_that_the_topic_refuses_says_how_many_events_were_acknowledged(
    letters: Letters, capsys: pytest.CaptureFixture[str]
) -> None:
    letters.set_aside((1, b"ann", value(1), ()), (2, b"ann", value(2, edited="x" * 6_000), ()))
    code, said = fails(capsys, "dead-letters", "replay", "--include-erased", "--yes")
    assert (code, "event 2: larger than the topic's max.message.bytes allows; 1 of 2 events" in said) == (65, True), (
        said
    )


def test_without_a_yes_nothing_is_sent_and_a_file_is_no_way_back_to_a_topic(
    letters: Letters, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    letters.set_aside((1, b"ann", value(1), ()))
    assert main(["dead-letters", "replay", "--include-erased"]) == 0
    assert "1 event of 1 user: nothing was sent yet" in capsys.readouterr().out
    assert records_of(letters.bootstrap, letters.topic) == []
    code, said = fails(capsys, "dead-letters", "replay", "--to", str(tmp_path / "x"))
    assert (code, "--yes sends to kafka.topic" in said) == (ExitCode.USAGE, True)


def test_a_topic_of_letters_that_is_not_there_is_a_sentence(
    letters: Letters, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__TOPIC", "missing")
    code, said = fails(capsys, "dead-letters", "list")
    assert (code, "topic missing does not exist" in said) == (ExitCode.UNAVAILABLE, True)
