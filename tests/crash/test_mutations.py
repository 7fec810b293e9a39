"""The harness itself: with a rule of the exactly-once protocol switched off it goes red, for that rule's own reason."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from tests.crash.test_poison import LIVES, from_a_file
from tests.support import traffic
from tests.support.daemon_process import Hold, Launcher, Site, wait_while_running
from tests.support.kafka.broker import KafkaCluster
from tests.support.quiet_learning import write_undisturbed_tensors
from tests.support.storm import Chaos, Storm, settings_of

pytestmark = pytest.mark.crash

PARTITIONS, EVENTS = 4, 120
HOLD_SECONDS = 8.0
KILLS = ("kill at a stage",) * 3 + ("kill at random",)
STOPS = ("stop, then kill",) * 2 + ("kill at a stage",)


def problems_of(verdict: dict[str, Any]) -> str:
    return "\n".join(verdict["problems"])


def storm(
    mutation: str, folder: Path, broker: KafkaCluster, model: Path, launcher: Launcher, **changes: Any
) -> dict[str, Any]:
    weather = Storm(3, falls=10, daemons=2, partitions=PARTITIONS, users=8, events=150, erasures=0, kinds=KILLS)
    sections = {**settings_of(weather), "state": {"max_unreadable_share": 1.0}}  # no breaker ends what harm is done
    site = Site.make(folder, broker, model, PARTITIONS, **sections)
    return Chaos(replace(weather, mutation=mutation, **changes), site, launcher).run()


def test_events_are_doubled_where_what_a_state_covers_is_forgotten(
    tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path, launcher: Launcher
) -> None:
    verdict = storm("forget-applied", tmp_path, kafka_broker, tiny_model, launcher)
    assert "from the undisturbed run's" in problems_of(verdict)
    figures = verdict["figures"]
    assert figures["pairs_applied"] + figures["acceptances"] > figures["events"], "an event was learnt from twice"
    assert figures["lag"] == 0


def test_events_are_lost_where_offsets_are_committed_before_states_are_durable(
    tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path, launcher: Launcher
) -> None:
    verdict = storm("commit-before-durable", tmp_path, kafka_broker, tiny_model, launcher)
    figures = verdict["figures"]
    assert figures["pairs_applied"] + figures["acceptances"] < figures["events"], "an event was lost"
    assert figures["lag"] == 0


def test_a_stale_owner_overwrites_newer_states_where_no_swap_is_compared(
    tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path, launcher: Launcher
) -> None:
    site = Site.make(tmp_path, kafka_broker, tiny_model, PARTITIONS)
    config = site.write_settings()
    records = traffic.edits(EVENTS, traffic.users(8), PARTITIONS, seed=7)
    producer = traffic.Producer(site.bootstrap, site.topic)
    marks = site.folder / "stale.marks"
    marks.touch()
    hold = Hold("saving", 3, HOLD_SECONDS)
    stale = launcher.start(config, site.log("stale"), marks=marks, hold=hold, mutation="swap-blindly")
    stale.wait_for_assignment()
    producer.send(records[: EVENTS // 2])
    wait_while_running(stale, lambda: "held" in marks.read_text(), "the held save", 60)
    stale.signal(signal.SIGSTOP)
    other = launcher.start(config, site.log("other"), mutation="swap-blindly")
    producer.send(records[EVENTS // 2 :])
    site.wait_for_end(other)
    stale.signal(signal.SIGCONT)
    wait_while_running(stale, lambda: marks.read_text().count("saved") >= 3, "the late save", 60)
    stale.stop()  # its exit code may be an alarm's: its version is out already, with other content
    assert other.stop() == 0
    producer.close()
    tensors = write_undisturbed_tensors(config, records, tmp_path / "tensors")
    verdict = site.verdict(producer, pairs_per_step=1, tensors_folder=str(tensors), copies_allowed=True)
    assert "applied offsets: found" in problems_of(verdict)
    assert verdict["figures"]["lag"] == 0, "what was overwritten is committed: nobody reads it again"


def test_a_storm_loses_events_where_no_swap_is_compared(
    tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path, launcher: Launcher
) -> None:
    changes = {"falls": 14, "daemons": 3, "kinds": STOPS}
    verdict = storm("swap-blindly", tmp_path, kafka_broker, tiny_model, launcher, **changes)
    assert verdict["storm"]["taken_over"] > 0
    assert verdict["storm"]["lost_swaps"] == 0
    assert "events: found" in problems_of(verdict), "an old state was stored over a newer one"


def test_an_event_that_ends_the_process_ends_it_for_ever_where_no_attempts_are_counted(
    tmp_path: Path, tiny_model: Path, launcher: Launcher
) -> None:
    config, _, poison = from_a_file(tmp_path, tiny_model)
    lives = [
        launcher.start(config, tmp_path / "log", poison=poison, mutation="count-no-attempts").wait(60)
        for _ in range(LIVES + 3)
    ]
    assert lives == [-signal.SIGABRT] * (LIVES + 3)


@pytest.mark.parametrize(("mutation", "notes"), [("note-no-announcements", False), ("adopt-no-notes", True)])
def test_the_last_words_are_old_where_what_is_not_announced_is_not_noted_or_a_note_is_not_read(
    mutation: str, notes: bool, tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path, launcher: Launcher
) -> None:
    site = Site.make(
        tmp_path,
        kafka_broker,
        tiny_model,
        PARTITIONS,
        kafka={"request_timeout_seconds": 1.0},
        dead_letters={"max_share": 1},
    )
    config = site.write_settings()
    records = traffic.edits(EVENTS, traffic.users(8), PARTITIONS, seed=8)
    producer = traffic.Producer(site.bootstrap, site.topic)
    words = f"{site.topic}.adapters"
    first = launcher.start(config, site.log("first"), mutation=mutation)
    first.wait_for_assignment()
    producer.send(records[: EVENTS // 2])
    site.wait_for_end(first)
    let_topic_take(kafka_broker, words, 10)
    producer.send(records[EVENTS // 2 :])
    site.wait_for_end(first)
    first.kill()
    let_topic_take(kafka_broker, words, 1_000_000)
    last = launcher.start(config, site.log("last"), mutation=mutation)
    last.wait_for_assignment()
    assert last.stop() == 0
    producer.close()
    words_problem, *left = site.verdict(producer, pairs_per_step=1, copies_allowed=True)["problems"]
    assert words_problem.startswith("last announced versions")
    assert all(problem.startswith("outbox/") and "were not announced" in problem for problem in left), left
    assert bool(left) == notes


def let_topic_take(broker: KafkaCluster, topic: str, nbytes: int) -> None:
    """Set the size of the largest record that a topic takes."""
    with broker.admin() as admin:
        configs = {"max.message.bytes": str(nbytes)}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
