"""Every newest version and every erasure is announced in the end, over outages of the topic, kills and stops."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import MetadataEmptyBrokerList

from corlld.durable import Head, OutboxNote, StoreIdentity
from corlld.events.pseudonyms import Pseudonyms
from corlld.publishing.announcer import Announcer
from corlld.state.store import LocalFolderStore
from tests.contract.test_announcer import Topic
from tests.support import oracle
from tests.support.commands import SECRET
from tests.support.daemon_process import Hold, Launcher, Life, Site, http_get, http_port, wait_while_running
from tests.support.edits import edit, erasure
from tests.support.kafka.broker import KafkaBroker, KafkaCluster
from tests.support.memory_target import MemoryTarget
from tests.support.states import tombstone
from tests.support.waiting import wait_until

DELIVERY_SECONDS = 2.0
STOP_SECONDS = 30.0  # of the 60 that a stop may take


class Place:
    """A site with one daemon at a time, and its topic of announcements, which can be made to acknowledge nothing."""

    def __init__(self, site: Site, broker: KafkaCluster, launcher: Launcher, hold: Hold | None = None) -> None:
        self.site = site
        self.marks = site.folder / "marks"
        self._broker = broker
        self._launcher = launcher
        self._uids = Pseudonyms(SECRET)
        self.life = self.start(hold)

    def start(self, hold: Hold | None = None) -> Life:
        log = self.site.log()
        log.unlink(missing_ok=True)  # its HTTP port is looked for there
        self.life = self._launcher.start(self.site.write_settings(), log, marks=self.marks, hold=hold)
        return self.life

    def send(self, *events: dict[str, Any]) -> None:
        """Send events, and wait until they are committed."""
        self.produce(*events)
        self.site.wait_for_end(self.life)

    def produce(self, *events: dict[str, Any]) -> None:
        """Send events."""
        with KafkaProducer(bootstrap_servers=self.site.bootstrap) as producer:
            for event in events:
                value = json.dumps(event).encode()
                producer.send(self.site.topic, value, key=event["user_id"].encode()).get(30)

    def acknowledge(self, *, on: bool) -> None:
        """Let the topic take records of any size, or none at all."""
        configs = {"max.message.bytes": "1000000" if on else "10"}
        topic = f"{self.site.topic}.adapters"
        with self._broker.admin() as admin:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])

    def last_words(self) -> dict[str, int | None]:
        """Return the last announced version of each user; None for a withdrawal."""
        records = oracle.read_topic(self.site.bootstrap, f"{self.site.topic}.adapters")
        return {
            record.key.decode(): None if record.value is None else json.loads(record.value)["version"]
            for record in records
        }

    def wait_for_words(self, **wanted: int | None) -> None:
        words = {self._uids.uid(user): version for user, version in wanted.items()}

        def are_last() -> bool:
            try:
                return self.last_words() == words
            except MetadataEmptyBrokerList:  # a broker that has just come back does not know itself yet
                return False

        wait_while_running(self.life, are_last, f"the last words {wanted}", 60)

    def notes(self) -> list[Path]:
        return list(self.site.states.glob("outbox/*.json"))

    def wait_until_ready(self, *, ready: bool) -> None:
        port = http_port(self.life)
        wanted = (200, "ready\n") if ready else (503, "waiting for: publishing\n")
        wait_while_running(self.life, lambda: http_get(port, "/readyz") == wanted, f"{wanted}", 60)

    def figure(self, name: str) -> float:
        lines = http_get(http_port(self.life), "/metrics")[1].splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@contextmanager
def placed(
    folder: Path, model: Path, broker: KafkaCluster, launcher: Launcher, hold: Hold | None = None
) -> Iterator[Place]:
    quick = {"request_timeout_seconds": DELIVERY_SECONDS / 2}
    site = Site.make(folder, broker, model, 1, kafka=quick, operations={"retry_max_seconds": 0.5})
    place = Place(site, broker, launcher, hold)
    try:
        yield place
    finally:
        if place.life.code is None:
            place.life.kill()


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, kafka_broker: KafkaCluster, launcher: Launcher) -> Iterator[Place]:
    with placed(tmp_path, tiny_model, kafka_broker, launcher) as place:
        yield place


def test_a_broker_that_stops_for_longer_than_the_delivery_time_out_ends_no_announcements_and_holds_no_stop_up(
    tmp_path: Path, tiny_model: Path, own_kafka_broker: KafkaBroker, launcher: Launcher
) -> None:
    before_the_announcement = Hold("publishing", 2, 3.0)
    with placed(tmp_path, tiny_model, own_kafka_broker, launcher, before_the_announcement) as place:
        place.send(edit(1))
        place.wait_for_words(ann=1)
        place.produce(edit(2))
        wait_while_running(place.life, lambda: "held" in place.marks.read_text(), "version 2 is held", 30)
        os.kill(own_kafka_broker.pid, signal.SIGSTOP)
        wait_while_running(place.life, lambda: place.life.logged("announcement_failed"), "the announcement fails", 30)
        os.kill(own_kafka_broker.pid, signal.SIGCONT)
        place.wait_for_words(ann=2)
        os.kill(own_kafka_broker.pid, signal.SIGSTOP)
        began = time.monotonic()
        assert place.life.stop() == 0
        assert time.monotonic() - began < STOP_SECONDS
        os.kill(own_kafka_broker.pid, signal.SIGCONT)


def test_a_topic_that_takes_nothing_for_a_while_delays_announcements_and_nothing_else(place: Place) -> None:
    place.send(edit(1))
    place.wait_for_words(ann=1)
    place.acknowledge(on=False)
    place.send(edit(2), edit(1, "bob"))  # learning goes on
    place.wait_until_ready(ready=False)
    time.sleep(DELIVERY_SECONDS)  # the outage must outlast one delivery: nothing tells when the producer gave up
    assert place.figure("corlld_unannounced_users") == 2
    assert place.figure("corlld_unannounced_age_seconds") > DELIVERY_SECONDS
    place.acknowledge(on=True)
    place.wait_for_words(ann=2, bob=1)
    place.wait_until_ready(ready=True)
    wait_until(lambda: not place.notes(), "no notes")
    assert place.life.stop() == 0


def test_what_a_killed_daemon_had_not_announced_the_next_one_announces_without_a_new_event(place: Place) -> None:
    place.send(edit(1), edit(1, "bob"))
    place.wait_for_words(ann=1, bob=1)
    place.acknowledge(on=False)
    place.send(edit(2), erasure("bob"))  # stored, published, committed; not announced
    place.life.kill()
    place.acknowledge(on=True)
    place.start()
    place.wait_for_words(ann=2, bob=None)
    wait_until(lambda: not place.notes(), "no notes")
    assert place.life.stop() == 0


def test_a_stop_does_not_wait_for_the_topic_and_the_next_start_announces(place: Place) -> None:
    place.send(edit(1))
    place.wait_for_words(ann=1)
    place.acknowledge(on=False)
    place.send(edit(2))
    place.wait_until_ready(ready=False)
    began = time.monotonic()
    assert place.life.stop() == 0
    assert time.monotonic() - began < STOP_SECONDS
    place.acknowledge(on=True)
    place.start()
    place.wait_for_words(ann=2)


def test_a_restart_among_2000_users_loads_no_state_and_reads_one_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalFolderStore(tmp_path)
    store.open(StoreIdentity("fingerprint", "cluster", "group", "model", "revision", "shape"), must_exist=False)
    with monkeypatch.context() as quick:
        quick.setattr("os.fsync", lambda descriptor: None)
        for number in range(2_000):
            uid = f"{number:032x}"
            store.save(uid, tombstone(1, uid), "0")
    waiting = f"{1_234:032x}"
    store.outbox.add(OutboxNote(1.0, (waiting,)))
    loaded: list[str] = []
    heads: list[str] = []
    read_header = store.load_header

    def load(uid: str) -> Any:
        loaded.append(uid)
        raise AssertionError("a state was loaded")

    def head(uid: str) -> Head | None:
        heads.append(uid)
        state = read_header(uid)
        return None if state is None else Head(state.version, state.erased)

    monkeypatch.setattr(store, "load", load)
    topic = Topic()
    announcer = Announcer(topic, head, MemoryTarget(), store.outbox)
    wait_until(lambda: not list(store.outbox.names()), "no notes")
    announcer.close(5)
    assert topic.values == [(waiting, None)]
    assert set(heads) == {waiting}
    assert loaded == []
