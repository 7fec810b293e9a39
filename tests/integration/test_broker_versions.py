"""Older versions of Kafka, briefly: check, learn, take over, dead letters, announcements, erasure, upgrade.

`make test-brokers` runs the large suites on each supported version.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corlld.errors import ExitCode, FatalError
from corlld.sources.kafka.source import KafkaSource
from tests.support import oracle, traffic
from tests.support.daemon_process import ENVIRON, ROOT, Launcher, Site, running
from tests.support.edits import erasure
from tests.support.fakes import MemoryPositions
from tests.support.kafka.broker import KafkaBroker
from tests.support.kafka.topics import (
    Reader,
    kafka_settings,
    produce,
    too_few_replicas_are_judged_as_the_broker_acts,
    unique,
)
from tests.support.quiet_learning import write_undisturbed_tensors

# With ZooKeeper and without it. Both are older than the field of DescribeCluster that kafka-python relies on.
VERSIONS = (
    (os.environ["CORLLD_TEST_KAFKA_VERSION"],) if "CORLLD_TEST_KAFKA_VERSION" in os.environ else ("2.8.2", "3.3.2")
)
EVENTS, USERS, PARTITIONS = 90, 6, 2
WITHOUT_IDS = {"inter.broker.protocol.version": "2.7"}  # topic ids are all zeros then
NO_IDS = "The cluster gives topics no ids"


@pytest.fixture(scope="module", params=VERSIONS)
def old_broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"), version=request.param)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def broker_without_ids(tmp_path: Path) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(tmp_path / "kafka", version="2.8.2")
    broker.configure(WITHOUT_IDS)
    broker.start()
    yield broker
    broker.stop()


def check(config: Path) -> tuple[int, str]:
    """The exit code of `corlld check`, and all that it printed, with single spaces."""
    command = [sys.executable, "-m", "corlld", "check", "--config", config]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | ENVIRON, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_an_older_broker_serves_from_the_check_to_the_last_announcement(
    tmp_path: Path, old_broker: KafkaBroker, tiny_model: Path, launcher: Launcher
) -> None:
    site = Site.make(tmp_path, old_broker, tiny_model, PARTITIONS)
    config = site.write_settings()
    code, found = check(config)
    assert code == 0, found
    assert NO_IDS not in found

    records = traffic.edits(EVENTS, traffic.users(USERS), PARTITIONS, seed=11)
    producer = traffic.Producer(site.bootstrap, site.topic)
    producer.send(records[: EVENTS // 2])
    killed = launcher.start(config, site.log("killed"))
    site.wait_for_progress(killed)
    killed.kill()
    heir = launcher.start(config, site.log("heir"))
    producer.send(records[EVENTS // 2 :])
    site.wait_for_end(heir)
    tensors = write_undisturbed_tensors(config, records, tmp_path / "tensors")
    verdict = site.verdict(producer, pairs_per_step=1, tensors_folder=str(tensors), copies_allowed=True)
    assert verdict["problems"] == []

    (user,) = traffic.users(1)
    place = traffic.partition_of(user, PARTITIONS)
    producer.send([traffic.Sent(place, user.encode(), json.dumps(erasure(user)).encode())])
    producer.close()
    site.wait_for_end(heir)
    assert heir.stop() == 0
    last = {record.key: record.value for record in oracle.read_topic(site.bootstrap, f"{site.topic}.adapters")}
    assert [value for value in last.values() if value is None] == [None]
    assert len(last) == USERS


def test_a_topic_with_too_few_replicas_is_refused_only_if_the_broker_acknowledges_nothing(
    old_broker: KafkaBroker,
) -> None:
    too_few_replicas_are_judged_as_the_broker_acts(old_broker)


def test_states_stay_exact_when_a_cluster_without_topic_ids_is_upgraded(
    tmp_path: Path, broker_without_ids: KafkaBroker, tiny_model: Path
) -> None:
    broker = broker_without_ids
    site = Site.make(tmp_path, broker, tiny_model, PARTITIONS)
    config = site.write_settings()
    code, found = check(config)
    assert code == 0, found
    assert NO_IDS in found

    records = traffic.edits(EVENTS, traffic.users(USERS), PARTITIONS, seed=12)
    producer = traffic.Producer(site.bootstrap, site.topic)
    third = EVENTS // 3
    with running(config, site.log("first")) as daemon:
        producer.send(records[:third])
        site.wait_for_end(daemon)
        broker.stop()
        broker.configure({})
        broker.start()  # ids appear under the running daemon
        producer.send(records[third : 2 * third])
        site.wait_for_end(daemon)
        assert daemon.stop() == 0
    assert NO_IDS not in check(config)[1]
    with running(config, site.log("second")) as daemon:
        producer.send(records[2 * third :])
        site.wait_for_end(daemon)
        assert daemon.stop() == 0
    producer.close()
    tensors = write_undisturbed_tensors(config, records, tmp_path / "tensors")
    verdict = site.verdict(
        producer,
        pairs_per_step=1,
        tensors_folder=str(tensors),
        copies_allowed=True,
        known_as=f"name:{site.topic}",
    )
    assert verdict["problems"] == []


@pytest.mark.parametrize("paused", [False, True])  # while paused nothing is fetched that would be out of range
def test_a_recreated_topic_without_an_id_is_told_by_its_end(broker_without_ids: KafkaBroker, *, paused: bool) -> None:
    broker = broker_without_ids
    topic = unique("edits")
    broker.create_topic(topic, 1)
    produce(broker.bootstrap, topic, {0: [b"%d" % n for n in range(5)]})
    settings = kafka_settings(broker.bootstrap, topic, metadata_max_age_seconds=0.5, max_poll_records=1)
    source = KafkaSource(settings, MemoryPositions())
    source.start(30)
    reader = Reader(source)
    try:
        reader.read(1 if paused else 5)
        if paused:
            source.pause_only(source.positions())
        reader.poll_until(lambda: 5 in source.ends().values(), "the end is known")
        assert {tenure.partition.key for tenure in reader.begun} == {f"name:{topic}/0"}
        broker.delete_topic(topic)
        broker.create_topic(topic, 1)
        produce(broker.bootstrap, topic, {0: [b"other"] * 3})
        with pytest.raises(FatalError, match=r"Create the topic under another name") as refused:
            reader.poll_until(lambda: False, "it is refused")
        assert refused.value.exit_code is ExitCode.DATA
    finally:
        source.close({}, 10)
