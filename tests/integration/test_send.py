"""`corlld send` against a real broker: what arrives, and each way in which it can't."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from corlld.cli import main
from tests.support.commands import fails, set_topic
from tests.support.edits import edit, lines
from tests.support.kafka.broker import KafkaBroker, KafkaCluster
from tests.support.kafka.relays import far_away
from tests.support.kafka.topics import unique
from tests.support.waiting import wait_until

PARTITIONS = 3
MANY = 30_000


@pytest.fixture
def topic(kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic that the settings name; neither a secret nor a model is set, and the daemon's own input is a file."""
    set_topic(monkeypatch, kafka_broker.bootstrap, name := unique("edits"))
    kafka_broker.create_topic(name, PARTITIONS)
    return name


def records_of(bootstrap: str, topic: str) -> list[Any]:
    """All that is in the topic now, partition by partition."""
    with KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        ends = consumer.end_offsets(places)
        consumer.assign(places)
        records: list[Any] = []

        def all_read() -> bool:
            for batch in consumer.poll(timeout_ms=100).values():
                records.extend(batch)
            return all(consumer.position(place) >= ends[place] for place in places)

        wait_until(all_read, f"all of {topic}")
        return sorted(records, key=lambda record: (record.partition, record.offset))


def leads(bootstrap: str, topic: str) -> bool:
    """Return whether the broker leads the topic: not for a moment after it was frozen for longer than its session."""
    with KafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        try:
            return bool(consumer.partitions_for_topic(topic))
        except KafkaError:
            return False


def many_events(folder: Path) -> Path:
    """So many that sending them takes seconds."""
    file = folder / "edits.jsonl"
    file.write_bytes(lines(*(edit(number, f"user-{number % 50}") for number in range(MANY))))
    return file


@contextmanager
def sending(*arguments: str, **more: Any) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "corlld", "send", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more) as process:
        try:
            yield process
        finally:
            process.kill()


def first_tenth(process: "subprocess.Popen[str]") -> None:
    """Returns once a tenth of the many events is acknowledged."""
    assert process.stderr is not None
    assert process.stderr.readline() == "reaching topic edits ...\n"
    assert process.stderr.readline() == f"{MANY // 10} of {MANY} events\n"


def end(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """Exit code, and what was said but for the progress."""
    assert process.stderr is not None
    code = process.wait(60)
    return code, [line for line in process.stderr.read().splitlines() if not line.endswith(f" of {MANY} events")]


def test_every_event_arrives_as_it_is_keyed_by_its_user_and_in_order(
    topic: str, kafka_broker: KafkaCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [edit(number, user) for number in range(40) for user in ("ann", "bøb", "eve", "zoë")]
    cloud = {"specversion": "1.0", "id": "1", "source": "/editor", "type": "com.example.edit"}
    cloud |= {"time": "2026-01-02T12:00:00Z", "data": {"user_id": "ann", "prompt": "", "proposed": "a", "edited": "b"}}
    file = tmp_path / "edits.jsonl"
    file.write_bytes(lines(*events, cloud))
    assert main(["send", str(file)]) == 0
    records = records_of(kafka_broker.bootstrap, topic)
    assert sorted(record.value for record in records) == sorted(file.read_bytes().splitlines())
    for user in ("ann", "bøb", "eve", "zoë"):
        own = [record for record in records if record.key == user.encode()]
        assert len({record.partition for record in own}) == 1
        numbers = [json.loads(record.value).get("event_id") for record in own]
        assert numbers == [f"{user}-{number}" for number in range(40)] + [None] * (user == "ann")
    used = len({record.partition for record in records})
    assert capsys.readouterr().out == (
        f"161 events of 4 users: acknowledged by all replicas, in {used} partitions of topic {topic}\n"
    )


def test_events_come_through_a_pipe_too(topic: str, kafka_broker: KafkaCluster) -> None:
    events = lines(*(edit(number) for number in range(30)))
    with sending("-", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(events.decode(), timeout=60)
    assert (process.returncode, out.partition(":")[0]) == (0, "30 events of 1 user"), err
    assert len(records_of(kafka_broker.bootstrap, topic)) == 30
    assert err.splitlines() == [
        f"reaching topic {topic} ...",
        *(f"{count} of 30 events" for count in range(3, 31, 3)),
    ]


def test_a_wrong_line_anywhere_sends_nothing(
    topic: str, kafka_broker: KafkaCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "edits.jsonl"
    file.write_bytes(lines(*(edit(number) for number in range(30)), edit(30, user_id=7)))
    code, problem = fails(capsys, "send", str(file))
    assert code == 65
    assert "line 31: invalid_field: user_id" in problem
    assert records_of(kafka_broker.bootstrap, topic) == []


def test_a_dry_run_needs_no_broker_and_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_topic(monkeypatch, "", "")
    (tmp_path / "edits.jsonl").write_bytes(lines(edit(1)))
    assert main(["send", "--dry-run", str(tmp_path / "edits.jsonl")]) == 0
    assert capsys.readouterr().out == "1 event of 1 user: valid (--dry-run)\n"
    (tmp_path / "wrong.jsonl").write_bytes(b"{}\n")
    code, problem = fails(capsys, "send", "--dry-run", str(tmp_path / "wrong.jsonl"))
    assert code == 65
    assert "sent" not in problem
    assert fails(capsys, "send", str(tmp_path / "wrong.jsonl"))[1].endswith("\ncorlld: nothing was sent")
    code, problem = fails(capsys, "send", str(tmp_path / "edits.jsonl"))
    assert code == 78
    assert "kafka.bootstrap_servers" in problem


def test_a_missing_topic_is_named_and_not_created(
    kafka_broker: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_topic(monkeypatch, kafka_broker.bootstrap, name := unique("missing"))
    monkeypatch.setattr("corlld.commands.send.REACH_SECONDS", 1.0)  # before the setting's 3, as a person's patience is
    (tmp_path / "edits.jsonl").write_bytes(lines(edit(1)))
    code, problem = fails(capsys, "send", str(tmp_path / "edits.jsonl"))
    assert code == 69
    assert f"topic {name} does not exist" in problem
    assert re.search(r"\(waited [12](\.\d)? s\)", problem)
    with kafka_broker.admin() as admin:
        assert name not in admin.list_topics()


def test_a_cluster_that_is_far_away_is_waited_for_as_long_as_the_daemon_would(
    topic: str, kafka_broker: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edits.jsonl").write_bytes(lines(edit(1)))
    monkeypatch.setattr("corlld.commands.send.REACH_SECONDS", 0.5)
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "60")
    with far_away(kafka_broker.bootstrap, 0.7) as there:
        monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", there)
        assert main(["send", str(tmp_path / "edits.jsonl")]) == 0
    assert len(records_of(kafka_broker.bootstrap, topic)) == 1


def test_a_dead_broker_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "edits.jsonl").write_bytes(lines(edit(1)))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        set_topic(monkeypatch, address := f"127.0.0.1:{taken.getsockname()[1]}", "edits")
        code, problem = fails(capsys, "send", str(tmp_path / "edits.jsonl"))
    assert code == 69
    assert address in problem
    assert "Connection refused" in problem


@pytest.mark.parametrize(("name", "told"), [("none.jsonl", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_can_not_be_read_is_said(
    topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, told: str
) -> None:
    code, problem = fails(capsys, "send", str(tmp_path / name))
    assert code == 2
    assert told in problem


def test_a_record_that_the_topic_finds_too_large_is_named_by_its_line(
    topic: str, kafka_broker: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small = unique("small")
    kafka_broker.create_topic(small, 1, {"max.message.bytes": "5000"})
    monkeypatch.setenv("CORLLD_KAFKA__TOPIC", small)
    (tmp_path / "edits.jsonl").write_bytes(lines(edit(1), edit(2, edited="x" * 6000), edit(3)))
    code, problem = fails(capsys, "send", str(tmp_path / "edits.jsonl"))
    assert code == 65
    assert "line 2: larger than the topic's max.message.bytes allows" in problem
    there = [json.loads(record.value)["event_id"] for record in records_of(kafka_broker.bootstrap, small)]
    assert f"{len(there)} of 3 events acknowledged" in problem
    assert "ann-2" not in there


def test_a_broker_that_goes_away_half_way_is_said_with_how_many_were_acknowledged(
    own_kafka_broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_topic(monkeypatch, own_kafka_broker.bootstrap, "edits")
    own_kafka_broker.create_topic("edits", PARTITIONS)
    with sending(str(many_events(tmp_path))) as process:
        first_tenth(process)
        own_kafka_broker.kill()
        code, told = end(process)
    assert code == 69
    found = re.search(rf"line (\d+): topic edits did not acknowledge \(\w+\); ([\d,]+) of {MANY:,} events", told[0])
    assert found
    acknowledged = int(found[2].replace(",", ""))
    assert MANY // 10 <= acknowledged < MANY
    assert int(found[1]) <= acknowledged + 1
    assert told[1:] == ["corlld: sending all of it again is safe: an event id is applied once"]


def test_an_interrupt_says_how_many_were_acknowledged_and_sending_again_brings_the_rest(
    own_kafka_broker: KafkaBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_topic(monkeypatch, own_kafka_broker.bootstrap, "edits")
    monkeypatch.setenv("CORLLD_KAFKA__REQUEST_TIMEOUT_SECONDS", "30")
    own_kafka_broker.create_topic("edits", PARTITIONS)
    file = many_events(tmp_path)
    with sending(str(file)) as process:
        first_tenth(process)
        os.kill(own_kafka_broker.pid, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            code, told = end(process)
        finally:
            os.kill(own_kafka_broker.pid, signal.SIGCONT)
    assert code == 130
    assert told[1:] == ["corlld: sending all of it again is safe: an event id is applied once"]
    wait_until(lambda: leads(own_kafka_broker.bootstrap, "edits"), "the broker is back")
    acknowledged = int(told[0].removeprefix("corlld: interrupted: ").partition(" ")[0].replace(",", ""))
    assert MANY // 10 <= acknowledged < MANY

    def ids_there() -> set[str]:
        return {json.loads(record.value)["event_id"] for record in records_of(own_kafka_broker.bootstrap, "edits")}

    assert acknowledged <= len(ids_there()) < MANY
    assert main(["send", str(file)]) == 0
    assert len(ids_there()) == MANY
