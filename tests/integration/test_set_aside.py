"""One user's trouble in a real folder, and poison in one partition of a real topic: everybody else goes on."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaProducer

from corlld.cli import main
from corlld.events.pseudonyms import Pseudonyms
from corlld.sources.kafka.newest_records import newest_records
from tests.support.commands import SECRET
from tests.support.daemon_process import DaemonProcess, Site, http_get, http_port, running, wait_while_running
from tests.support.edits import append_events, edit, erasure
from tests.support.kafka.broker import KafkaCluster
from tests.support.kafka.topics import kafka_settings, produce, unique

ANN, BOB = Pseudonyms(SECRET).uid("ann"), Pseudonyms(SECRET).uid("bob")


def metric(port: int, name: str) -> float:
    """Return the value of a series. Fails if it is missing."""
    [line] = [line for line in http_get(port, "/metrics")[1].splitlines() if line.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def newest_version(site: Path, uid: str) -> Path:
    return max((site / "adapters" / uid).iterdir(), default=site)


def reasons(site: Path) -> list[tuple[str, str]]:
    """Return the reason and the user of each dead letter."""
    file = site / "state" / "dead-letters.jsonl"
    letters = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [(letter["headers"]["corlld.reason"], letter["key"].partition("/")[0]) for letter in letters]


@pytest.fixture
def followed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The site's file is followed, and two users have versions already."""
    assert main(["run"]) == 0
    monkeypatch.setenv("CORLLD_SOURCE__FOLLOW", "true")
    monkeypatch.setenv("CORLLD_BATCHING__FLUSH_AFTER_SECONDS", "0.1")
    monkeypatch.setenv("CORLLD_OPERATIONS__LOG_FORMAT", "json")
    monkeypatch.setenv("CORLLD_OPERATIONS__RETRY_MAX_SECONDS", "0.2")
    (site / "empty.toml").write_text("")
    return site


@pytest.mark.parametrize("name", ["manifest.json", "adapter_model.safetensors"])
def test_a_flipped_bit_in_a_published_version_sets_its_user_aside_until_it_is_repaired(
    followed: Path, name: str
) -> None:
    broken = newest_version(followed, ANN)
    before = {file.name: file.read_bytes() for file in broken.iterdir()}
    sound = newest_version(followed, BOB)
    flip_a_bit(broken / name)
    append_events(followed / "events.jsonl", edit(20, "ann"), edit(21, "bob"))
    with running(followed / "empty.toml", followed / "log") as daemon:
        port = http_port(daemon)
        wait_while_running(daemon, lambda: newest_version(followed, BOB) != sound, "bob's next version", 60)
        wait_while_running(daemon, lambda: bool(reasons(followed)), "a dead letter", 60)
        wait_while_running(daemon, lambda: http_get(port, "/readyz") == (200, "ready\n"), "readiness", 30)
        wait_while_running(daemon, lambda: metric(port, "corlld_users_aside") == 1, "the metric", 30)
        assert reasons(followed) == [("publication_failed", ANN)]
        assert newest_version(followed, ANN) == broken
        shutil.move(broken, followed / "moved")
        append_events(followed / "events.jsonl", edit(22, "ann"))
        wait_while_running(daemon, lambda: newest_version(followed, ANN) > broken, "ann's next version", 60)
        wait_while_running(daemon, lambda: metric(port, "corlld_users_aside") == 0, "nobody is aside", 30)
        assert daemon.stop() == 0
    assert {file.name: file.read_bytes() for file in broken.iterdir()} == before, "published again as it was"
    again = followed / "again.jsonl"
    assert main(["dead-letters", "replay", "--reason", "publication_failed", "--to", str(again)]) == 0
    assert [json.loads(line)["event_id"] for line in again.read_text().splitlines()] == ["ann-20"]


def test_a_torn_state_of_a_file_is_mended_by_hand_as_the_repair_says(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a user whose state was torn, and whose edits were set aside meanwhile. No edit is missing in the end."""
    events = site / "events.jsonl"
    assert main(["run"]) == 0
    append_events(events, edit(20, "ann"))
    assert main(["run"]) == 0
    torn = max((site / "state" / "users" / ANN).iterdir())
    torn.write_bytes(torn.read_bytes()[:100])
    append_events(events, edit(21, "ann"), edit(21, "bob"))
    assert main(["run"]) == 0
    assert reasons(site) == [("state_unreadable", ANN)]
    capsys.readouterr()
    assert main(["state", "repair", "--uid", ANN, "--yes"]) == 65
    assert "2. put the state before in place of the damaged one" in capsys.readouterr().err
    shutil.move(torn, site / "torn")
    assert main(["state", "show", "--uid", ANN, "--json"]) == 0
    (applied,) = json.loads(capsys.readouterr().out)["applied"].values()
    lines = events.read_bytes()[applied:].splitlines(keepends=True)
    with events.open("ab") as again:
        again.writelines(line for line in lines if json.loads(line)["user_id"] == "ann")
    assert main(["run"]) == 0
    capsys.readouterr()
    assert main(["state", "show", "--uid", ANN, "--json"]) == 0
    ids = json.loads(capsys.readouterr().out)["recent_event_ids"]
    assert ids == [f"ann-{number}" for number in (0, 1, 2, 9, 20, 21)]


def test_a_state_that_answers_with_an_error_for_ever_sets_its_user_aside_and_others_go_on(
    followed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORLLD_STATE__SET_ASIDE_AFTER_SECONDS", "1")
    newest = max((followed / "state" / "users" / ANN).iterdir())
    newest.rename(followed / "kept")
    newest.mkdir()  # reading it gives an error of the operating system, each time
    append_events(followed / "events.jsonl", edit(20, "ann"), edit(21, "bob"))
    with running(followed / "empty.toml", followed / "log") as daemon:
        port = http_port(daemon)
        wait_while_running(daemon, lambda: '"will_try_again"' in daemon.log.read_text(), "another try", 60)
        number = 30

        def set_aside() -> bool:
            nonlocal number
            append_events(followed / "events.jsonl", edit(number, "bob"))
            number += 1
            time.sleep(0.3)  # others must go on succeeding for as long as one user's trouble lasts
            return bool(reasons(followed))

        wait_while_running(daemon, set_aside, "a dead letter", 60)
        wait_while_running(daemon, lambda: http_get(port, "/readyz") == (200, "ready\n"), "readiness", 30)
        assert reasons(followed) == [("state_unreadable", ANN)]
        assert daemon.stop() == 0


def test_an_erasure_of_a_user_whose_version_is_broken_is_a_dead_letter_and_works_after_the_repair(
    followed: Path,
) -> None:
    broken = newest_version(followed, ANN)
    flip_a_bit(broken / "manifest.json")
    append_events(followed / "events.jsonl", erasure("ann"))
    with running(followed / "empty.toml", followed / "log") as daemon:
        wait_while_running(daemon, lambda: bool(reasons(followed)), "a dead letter", 60)
        shutil.rmtree(broken)
        append_events(followed / "events.jsonl", erasure("ann"))
        wait_while_running(daemon, lambda: not (followed / "adapters" / ANN).exists(), "the erasure", 60)
        assert daemon.stop() == 0


# --- poison in one partition of a topic -------------------------------------------------------------------------------


def send(site: Site, partition: int, user: str, numbers: range, **fields: object) -> None:
    with KafkaProducer(bootstrap_servers=site.bootstrap, allow_auto_create_topics=False) as producer:
        for number in numbers:
            event = edit(number, user, **fields)
            producer.send(site.topic, json.dumps(event).encode(), key=user.encode(), partition=partition)
        producer.flush(30)


def is_counted(port: int, name: str, count: int) -> Callable[[], bool]:
    return lambda: metric(port, name) >= count


def waits_for(daemon: DaemonProcess, port: int, answer: tuple[int, str], what: str) -> None:
    wait_while_running(daemon, lambda: http_get(port, "/readyz") == answer, what, 60)


def test_the_newest_records_of_a_single_partition_can_be_read(kafka_broker: KafkaCluster) -> None:
    topic = unique("edits")
    kafka_broker.create_topic(topic, 2)
    produce(kafka_broker.bootstrap, topic, {0: [b"a", b"b", b"c"], 1: [b"x", b"y"]})
    settings = kafka_settings(kafka_broker.bootstrap, topic)
    assert [record.value for record in newest_records(settings, 2, 20, 0)] == [b"b", b"c"]
    assert [record.value for record in newest_records(settings, 5, 20, 1)] == [b"x", b"y"]


def test_poison_in_one_partition_pauses_it_alone_and_it_goes_on_once_the_newest_records_are_good(
    tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path
) -> None:
    limit = 20
    site = Site.make(tmp_path, kafka_broker, tiny_model, 2, dead_letters={"max_share": 0.5, "share_window": limit})
    config = site.write_settings(dead_letters={"topic": f"{site.topic}.dead-letters"})
    letters = 'corlld_dead_letters_total{reason="missing_field"}'
    with running(config, site.log()) as daemon:
        port = http_port(daemon)
        waits_for(daemon, port, (200, "ready\n"), "readiness")
        send(site, 0, "ann", range(100), prompt=None)  # the producer forgets a field
        waits_for(daemon, port, (503, "waiting for: valid_records\n"), "the pause")
        assert metric(port, letters) == limit
        assert metric(port, 'corlld_paused_partitions{stage="valid_records"}') == 1
        send(site, 1, "bob", range(8))
        learnt = 'corlld_pairs_total{status="applied"}'
        wait_while_running(daemon, is_counted(port, learnt, 8), "the other partition", 60)
        assert metric(port, letters) == limit, "the rest waits"
        send(site, 0, "ann", range(100, 120))  # the producer is repaired
        waits_for(daemon, port, (200, "ready\n"), "it goes on by itself")
        wait_while_running(daemon, is_counted(port, learnt, 28), "all good edits", 60)
        assert metric(port, letters) == 100
        site.wait_for_end(daemon)
        assert daemon.stop() == 0
