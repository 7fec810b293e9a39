"""`corlld check --sample`: what a topic or a file holds, without disturbing its readers or quoting it."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from corlld.cli import main
from corlld.sources.kafka.newest_records import newest_records
from corlld.sources.kafka.source import KafkaSource
from tests.support.commands import SECRET, row, set_topic
from tests.support.edits import edit, lines
from tests.support.kafka.broker import KafkaCluster
from tests.support.kafka.topics import Reader, kafka_settings, produce, unique
from tests.support.waiting import PATIENCE_SECONDS, wait_until

CANARY = "kanari7731"


@pytest.fixture
def topic(kafka_broker: KafkaCluster, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of 3 partitions that a daemon with these settings could read."""
    set_topic(monkeypatch, kafka_broker.bootstrap, name := unique("edits"))
    kafka_broker.create_topic(name, 3)
    kafka_broker.create_topic(f"{name}.dead", 1)
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
    monkeypatch.setenv("CORLLD_KAFKA__GROUP_ID", f"{name}-group")
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__TOPIC", f"{name}.dead")
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(tiny_model))
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "state"))
    monkeypatch.setenv("CORLLD_PUBLISHING__PATH", str(tmp_path / "adapters"))
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "20")
    return name


def send(tmp_path: Path, *events: dict[str, Any]) -> None:
    (tmp_path / "edits.jsonl").write_bytes(lines(*events))
    assert main(["send", str(tmp_path / "edits.jsonl")]) == 0


def test_a_sample_tells_shares_reasons_and_sizes_but_no_text_and_no_user(
    topic: str, kafka_broker: KafkaCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = [f"{CANARY}-{number}" for number in range(5)]
    send(tmp_path, *(edit(n, user, prompt=CANARY, edited=f"{CANARY} {n}") for n in range(8) for user in users))
    chat = edit(99, messages=[{"role": "user", "content": CANARY}])
    del chat["prompt"]
    produce(kafka_broker.bootstrap, topic, {1: [CANARY.encode(), json.dumps(chat).encode()]})  # and without a key
    with KafkaProducer(bootstrap_servers=kafka_broker.bootstrap) as producer:
        producer.send(topic, key=b"ann", value=json.dumps(chat).encode()).get(30)  # this model has no chat template
    capsys.readouterr()
    assert main(["check", "--sample", "1000"]) == 0
    shown = capsys.readouterr().out
    assert CANARY not in shown
    assert "40 of the newest 43 records are valid events" in shown
    assert row(shown, "valid") == "40 of 43 (93.0%)"
    assert "2 of 43 (4.7%) key_missing: key" in " ".join(shown.split())
    assert "1 of 43 (2.3%) no_chat_template: messages; for example edits" in " ".join(shown.split())
    assert row(shown, "wrong keys") == "2 of 43 (4.7%)"
    assert row(shown, "users") == "5"
    assert row(shown, "events per user") == "8 8 8"
    assert row(shown, "characters of prompt or messages") == f"{len(CANARY)} {len(CANARY)} {len(CANARY)}"


def test_a_look_joins_no_group_and_commits_nothing(
    topic: str, kafka_broker: KafkaCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(tmp_path, *(edit(number, user) for number in range(5) for user in ("ann", "bob", "eve")))
    source = KafkaSource(kafka_settings(kafka_broker.bootstrap, topic, group_id=f"{topic}-group"))
    source.start(30)
    reader = Reader(source)
    reader.read(15)
    half = {tenure: tenure.start_offset + 1 for tenure in reader.begun if source.positions()[tenure] > 1}
    reader.commit(half)
    before = committed(kafka_broker, f"{topic}-group")
    assert sum(before.values()) == len(half) > 0
    codes: list[int] = []
    check = threading.Thread(target=lambda: codes.append(main(["check", "--sample", "10"])))
    check.start()
    reader.poll_until(lambda: not check.is_alive(), "the check ends")  # a member that joined would take partitions
    assert codes == [78]  # this group has commits, and no state store: the look before the sample says so
    assert "10 of the newest 10 records are valid" in capsys.readouterr().out
    assert reader.ended == []
    assert committed(kafka_broker, f"{topic}-group") == before
    source.close({}, 10)
    assert committed(kafka_broker, f"{topic}-group") == before


def committed(kafka_broker: KafkaCluster, group: str) -> dict[tuple[str, int], int]:
    with kafka_broker.admin() as admin:
        found = admin.list_group_offsets([group])[group]
    return {(place.topic, place.partition): commit.offset for place, commit in found.items() if commit.offset >= 0}


def test_a_group_that_is_new_stays_unknown_to_the_cluster(topic: str, kafka_broker: KafkaCluster) -> None:
    assert main(["check", "--sample", "10"]) == 0
    with kafka_broker.admin() as admin:
        assert f"{topic}-group" not in json.dumps(admin.list_groups(), default=str)


def test_a_topic_without_records_is_said(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--sample", "10"]) == 0
    assert "there is no record yet" in capsys.readouterr().out


def test_more_dead_letters_than_the_daemon_bears_are_a_problem(
    topic: str, kafka_broker: KafkaCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    send(tmp_path, edit(1), edit(2))
    produce(kafka_broker.bootstrap, topic, {0: [b"x"]})
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__MAX_SHARE", "0.4")
    assert main(["check", "--sample", "10"]) == 0
    produce(kafka_broker.bootstrap, topic, {0: [b"x"]})
    capsys.readouterr()
    assert main(["check", "--sample", "10"]) == 65
    shown = capsys.readouterr().out
    assert "problem  sample         2 of the newest 4 records are valid" in shown
    assert "reading stops if more than 40% (dead_letters.max_share) are not valid" in shown
    assert row(shown, "valid") == "2 of 4 (50.0%)"


def test_not_one_valid_record_is_a_problem_whatever_share_is_borne(
    topic: str, kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__MAX_SHARE", "1")
    produce(kafka_broker.bootstrap, topic, {0: [b"x"]})
    assert main(["check", "--sample", "10"]) == 65


def test_the_newest_records_of_each_partition_are_read_past_markers_of_transactions(
    topic: str, kafka_broker: KafkaCluster
) -> None:
    produce(kafka_broker.bootstrap, topic, {0: [b"old %d" % n for n in range(600)], 1: [b"1"], 2: [b"2"]})
    with KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, transactional_id=topic) as producer:
        producer.init_transactions()
        for value, end in ((b"committed", producer.commit_transaction), (b"aborted", producer.abort_transaction)):
            producer.begin_transaction()
            producer.send(topic, value=value, partition=1).get(30)
            end()
    settings = kafka_settings(kafka_broker.bootstrap, topic)

    def read(limit: int) -> list[list[bytes | None]]:
        started = time.monotonic()
        records = list(newest_records(settings, limit, PATIENCE_SECONDS))
        assert time.monotonic() - started < PATIENCE_SECONDS, "the end is known, not waited for"
        return [[r.value for r in records if r.tenure.partition.partition == number] for number in range(3)]

    # Partition 1 holds: "1", "committed", its marker, "aborted", its marker.
    wait_until(lambda: read(10_000)[1] == [b"1", b"committed"], "the transactions have ended")
    assert [len(values) for values in read(10_000)] == [600, 2, 1]
    assert read(9) == [[b"old %d" % n for n in (596, 597, 598, 599)], [b"committed"], [b"2"]]  # 1 + 4 + 4 places


def test_a_missing_topic_is_told_once_and_the_sample_is_skipped(
    topic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_KAFKA__TOPIC", "nobody-made-this")
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "2")
    assert main(["check", "--sample", "10"]) == 69
    assert "skipped  sample" in capsys.readouterr().out


def test_a_file_is_sampled_too(
    topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "jsonl")
    monkeypatch.setenv("CORLLD_SOURCE__PATH", str(tmp_path / "edits.jsonl"))
    (tmp_path / "edits.jsonl").write_bytes(b"x\n" * 50 + lines(*(edit(n) for n in range(4))) + b"x\n")
    assert main(["check", "--sample", "5"]) == 0
    shown = capsys.readouterr().out
    assert row(shown, "valid") == "4 of 5 (80.0%)"
    assert row(shown, "wrong keys") == "a file has no keys"
    assert not (tmp_path / "state").exists()
    monkeypatch.setattr("corlld.commands.inspection.SAMPLE_SECONDS", 0.0)
    assert main(["check", "--sample", "5"]) == 0
    assert "1 of the newest 1 record is a valid event (stopped after 0 s)" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["0", "-1", "100001", "many"])
def test_a_sample_has_a_sensible_size(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["check", "--sample", number])
    assert stop.value.code == 2
