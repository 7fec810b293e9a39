"""kill -9 at 20 moments of a run: nothing is lost, and nothing is applied twice (I1, I2, I3, I5)."""

from pathlib import Path

import pytest

from tests.crash.falls import kill_once, plans
from tests.integration import traffic
from tests.integration.daemon_process import Launcher, Site
from tests.integration.quiet_learning import write_undisturbed_tensors
from tests.kafka.broker import KafkaCluster

EVENTS, USERS, PARTITIONS = 300, 8, 4
KILLS = 20
# Where a crash is most likely to show a wrong order; the other kills fall anywhere.
PLACED = {"saved": 5, "polled": 1, "saving": 1, "trained": 1, "publishing": 1, "published": 1, "commit": 1}
EARLY = 1
MIN_BETWEEN_POLL_AND_COMMIT = 12
MIN_BETWEEN_STATE_AND_PUBLICATION = 3


def test_no_event_is_lost_or_applied_twice_through_20_kills(
    tmp_path: Path,
    kafka_broker: KafkaCluster,
    tiny_model: Path,
    launcher: Launcher,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A static member takes its partitions back at once; a new one would wait for the dead one's session to end.
    site = Site.make(
        tmp_path,
        kafka_broker,
        tiny_model,
        PARTITIONS,
        kafka={"group_instance_id": "the-one"},
        batching={"max_events": 3, "flush_after_seconds": 0.1, "max_users_per_step": 2},
    )
    config = site.write_settings()
    records = traffic.edits(EVENTS, traffic.users(USERS), PARTITIONS, seed=5)
    producer = traffic.Producer(site.bootstrap, site.topic)
    share = EVENTS // KILLS

    falls = []
    for number, plan in enumerate(plans(KILLS, PLACED, EARLY, seed=5)):
        producer.send(records[number * share : (number + 1) * share])
        falls.append(kill_once(launcher, site, config, plan, number))
    last = launcher.start(config, site.log())
    site.wait_for_end(last)
    assert last.stop() == 0
    producer.close()

    tensors = write_undisturbed_tensors(config, records, tmp_path / "tensors")
    verdict = site.verdict(producer, pairs_per_step=1, tensors_folder=str(tensors), copies_allowed=True)
    with capsys.disabled():
        print(f"\nwhere {KILLS} kills fell:", *falls, sep="\n  ")
    assert verdict["problems"] == []
    assert sum(fall.polled_uncommitted > 0 for fall in falls) >= MIN_BETWEEN_POLL_AND_COMMIT
    assert sum(fall.stored_unpublished > 0 for fall in falls) >= MIN_BETWEEN_STATE_AND_PUBLICATION
