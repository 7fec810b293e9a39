"""kill -9 at many moments of a run: nothing is lost, and nothing is applied twice (I1, I2, I3, I5)."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import traffic
from tests.support.daemon_process import Launcher, Site
from tests.support.falls import Fall, kill_once, plans
from tests.support.kafka.broker import KafkaCluster
from tests.support.quiet_learning import write_undisturbed_tensors

USERS, PARTITIONS = 8, 4
EVENTS_PER_KILL = 15
EARLY = 1
# Where a crash is most likely to show a wrong order; the other kills fall anywhere.
PLACED = {"saved": 5, "polled": 1, "saving": 1, "trained": 1, "publishing": 1, "published": 1, "commit": 1}


def run_through_kills(
    tmp_path: Path,
    broker: KafkaCluster,
    model: Path,
    launcher: Launcher,
    capsys: pytest.CaptureFixture[str],
    *,
    kills: int,
    placed: Mapping[str, int],
    snapshot: Mapping[str, float],
) -> list[Fall]:
    """Kill a daemon again and again while edits come in, let a last one finish, and judge what is there then."""
    # A static member takes its partitions back at once; a new one would wait for the dead one's session to end.
    site = Site.make(
        tmp_path,
        broker,
        model,
        PARTITIONS,
        kafka={"group_instance_id": "the-one"},
        batching={"max_events": 3, "flush_after_seconds": 0.1, "max_users_per_step": 2},
        snapshot=snapshot,
    )
    config = site.write_settings()
    records = traffic.edits(kills * EVENTS_PER_KILL, traffic.users(USERS), PARTITIONS, seed=5)
    producer = traffic.Producer(site.bootstrap, site.topic)

    falls = []
    for number, plan in enumerate(plans(kills, placed, EARLY, seed=5)):
        producer.send(records[number * EVENTS_PER_KILL : (number + 1) * EVENTS_PER_KILL])
        falls.append(kill_once(launcher, site, config, plan, number))
    last = launcher.start(config, site.log())
    site.wait_for_end(last)
    assert last.stop() == 0
    producer.close()

    tensors = write_undisturbed_tensors(config, records, tmp_path / "tensors")
    deferred = snapshot.get("every_updates", 1) > 1
    verdict = site.verdict(
        producer, pairs_per_step=1, tensors_folder=str(tensors), copies_allowed=True, deferred=deferred
    )
    with capsys.disabled():
        print(f"\nwhere {kills} kills fell:", *falls, sep="\n  ")
    assert verdict["problems"] == []
    return falls


def test_no_event_is_lost_or_applied_twice_through_20_kills(
    tmp_path: Path,
    kafka_broker: KafkaCluster,
    tiny_model: Path,
    launcher: Launcher,
    capsys: pytest.CaptureFixture[str],
) -> None:
    falls = run_through_kills(
        tmp_path, kafka_broker, tiny_model, launcher, capsys, kills=20, placed=PLACED, snapshot={}
    )
    assert sum(fall.polled_uncommitted > 0 for fall in falls) >= 12
    assert sum(fall.stored_unpublished > 0 for fall in falls) >= 3


def test_no_event_is_lost_or_applied_twice_through_10_kills_of_updates_that_are_not_stored_yet(
    tmp_path: Path,
    kafka_broker: KafkaCluster,
    tiny_model: Path,
    launcher: Launcher,
    capsys: pytest.CaptureFixture[str],
) -> None:
    falls = run_through_kills(
        tmp_path,
        kafka_broker,
        tiny_model,
        launcher,
        capsys,
        kills=10,
        placed={"trained": 3, "saved": 2, "saving": 1, "publishing": 1},
        snapshot={"every_updates": 4, "every_seconds": 0.5},
    )
    assert sum(fall.unsaved_users > 0 for fall in falls) >= 5
