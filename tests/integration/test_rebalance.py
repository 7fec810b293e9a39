"""Members come, go and fall silent while traffic flows: nothing is lost, applied twice or overwritten (I1-I3, I6)."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import traffic
from tests.support.daemon_process import Hold, Launcher, Life, Site, wait_while_running
from tests.support.kafka.broker import KafkaCluster
from tests.support.quiet_learning import write_undisturbed_tensors
from tests.support.traffic import Producer, Sent

PARTITIONS, USERS, EVENTS = 4, 12, 400
SLICE, PAUSE_SECONDS = 2, 0.1  # the flow: 20 events a second
WAIT_SECONDS = 60.0
HOLD_SECONDS = 8.0  # longer than the session of a stopped member lasts


class Member:
    """A daemon of the group, with the marks of its stages in a file."""

    def __init__(self, launcher: Launcher, site: Site, config: Path, name: str, hold: Hold | None = None) -> None:
        self.log = site.log(name)
        self._marks = site.folder / f"{name}.marks"
        self._marks.touch()
        self.life: Life = launcher.start(config, self.log, marks=self._marks, hold=hold)

    def marks(self, stage: str) -> int:
        return sum(line.split()[0] == stage for line in self._marks.read_text().splitlines() if line)

    def assignments(self) -> int:
        return self.logged("partition_assigned")

    def logged(self, event: str) -> int:
        return self.log.read_text().count(f'"{event}"') if self.log.exists() else 0

    def wait_for(self, stage: str) -> None:
        wait_while_running(self.life, lambda: self.marks(stage) > 0, f"the first mark {stage!r}", WAIT_SECONDS)

    def wait_for_assignments(self, count: int) -> None:
        wait_while_running(self.life, lambda: self.assignments() >= count, f"{count} assignments", WAIT_SECONDS)


@contextmanager
def flowing(producer: Producer, records: Sequence[Sent]) -> Iterator[None]:
    """Send the records at an even pace meanwhile, and what is left at the end of the block."""
    finish, left = threading.Event(), list(records)

    def send() -> None:
        while left:
            count = len(left) if finish.wait(PAUSE_SECONDS) else SLICE
            producer.send(left[:count])
            del left[:count]

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
        assert left, "the traffic ended before the block did"
    finally:
        finish.set()
        thread.join()


def judge(site: Site, producer: Producer, config: Path, records: Sequence[Sent]) -> None:
    producer.close()
    tensors = write_undisturbed_tensors(config, records, site.folder / "tensors")
    # A dead letter is sent again where its partition moved before its offset was committed.
    verdict = site.verdict(producer, pairs_per_step=1, tensors_folder=str(tensors), copies_allowed=True, stops=1)
    assert verdict["problems"] == []


@pytest.mark.parametrize("assignor", ["range", "cooperative-sticky"])
def test_a_second_daemon_joins_and_leaves_twice_mid_run(
    assignor: str, tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path, launcher: Launcher
) -> None:
    site = Site.make(tmp_path, kafka_broker, tiny_model, PARTITIONS, kafka={"assignor": assignor})
    config = site.write_settings()
    records = traffic.edits(EVENTS, traffic.users(USERS), PARTITIONS, seed=6)
    producer = Producer(site.bootstrap, site.topic)
    stays = Member(launcher, site, config, "stays")
    stays.wait_for_assignments(PARTITIONS)

    with flowing(producer, records):
        stays.wait_for("commit")
        for name in ("guest-1", "guest-2"):
            before = stays.assignments()
            guest = Member(launcher, site, config, name)
            guest.wait_for_assignments(1)
            guest.wait_for("saved")  # it has worked on users that the other one keeps in memory
            assert guest.life.stop() == 0
            stays.wait_for_assignments(before + 1)  # what the guest had comes back
    site.wait_for_end(stays.life)
    assert stays.life.stop() == 0

    judge(site, producer, config, records)


@pytest.mark.parametrize("stage", ["saving", "publishing"])
def test_a_stopped_daemon_that_wakes_up_overwrites_nothing(
    stage: str, tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path, launcher: Launcher
) -> None:
    """It is stopped with a trained state in its hands, or a stored one; another takes its users over meanwhile."""
    site = Site.make(tmp_path, kafka_broker, tiny_model, PARTITIONS)
    config = site.write_settings()
    records = traffic.edits(EVENTS // 2, traffic.users(USERS), PARTITIONS, seed=7)
    producer = Producer(site.bootstrap, site.topic)
    stale = Member(launcher, site, config, "stale", Hold(stage, 3, HOLD_SECONDS))
    stale.wait_for_assignments(PARTITIONS)

    producer.send(records[: EVENTS // 4])
    stale.wait_for("held")
    stale.life.signal(signal.SIGSTOP)
    other = Member(launcher, site, config, "other")
    producer.send(records[EVENTS // 4 :])
    site.wait_for_end(other.life)
    assert other.assignments() >= PARTITIONS
    stale.life.signal(signal.SIGCONT)
    stale.wait_for_assignments(PARTITIONS + 1)  # it is back in the group, with a part of the partitions
    if stage == "saving":
        wait_while_running(stale.life, lambda: stale.logged("lost_swap") > 0, "a lost swap", WAIT_SECONDS)
    else:
        wait_while_running(stale.life, lambda: stale.marks("published") >= 3, "the late publication", WAIT_SECONDS)
    site.wait_for_end(other.life)
    assert [stale.life.stop(), other.life.stop()] == [0, 0]

    judge(site, producer, config, records)
