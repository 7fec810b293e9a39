"""A torn state is repaired from the generation before: bit for bit what it would be if it had never been torn."""

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from corlld.cli import main
from corlld.commands.repair_findings import Findings
from corlld.commands.state_repair import RepairedStore, restore
from corlld.errors import ExitCode
from tests.support import traffic
from tests.support.daemon_process import ENVIRON, Launcher, Site, wait_while_running
from tests.support.kafka.broker import KafkaCluster
from tests.support.quiet_learning import write_undisturbed_tensors
from tests.support.traffic import Producer

INTERRUPTED = 130
PARTITIONS, USERS, EVENTS = 2, 4, 120


def run_until_done(launcher: Launcher, site: Site, config: Path, name: str) -> None:
    daemon = launcher.start(config, site.log(name))
    daemon.wait_for_assignment()
    site.wait_for_end(daemon)
    assert daemon.stop() == 0


@dataclass(frozen=True, slots=True)
class TornSite:
    """A site where a daemon has learnt the first half of the records, and the state of the busiest user is torn since.

    uid: of that user.
    """

    site: Site
    config: Path
    producer: Producer
    records: list[traffic.Sent]
    uid: str

    def learn_the_rest(self, launcher: Launcher) -> None:
        """Send the second half, and have a daemon take it: that user's records become dead letters."""
        self.producer.send(self.records[EVENTS // 2 :])
        run_until_done(launcher, self.site, self.config, "second")


@pytest.fixture
def torn(
    tmp_path: Path,
    kafka_broker: KafkaCluster,
    tiny_model: Path,
    launcher: Launcher,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[TornSite]:
    site = Site.make(tmp_path, kafka_broker, tiny_model, PARTITIONS, dead_letters={"max_share": 1.0})
    config = site.write_settings()
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    records = traffic.edits(EVENTS, traffic.users(USERS), PARTITIONS, seed=11)
    with closing(Producer(site.bootstrap, site.topic)) as producer:
        producer.send(records[: EVENTS // 2])
        run_until_done(launcher, site, config, "first")
        busiest = max(site.states.glob("users/*"), key=lambda folder: len(list(folder.iterdir())))
        tear(busiest)
        yield TornSite(site, config, producer, records, busiest.name)


def test_a_torn_state_is_repaired_bit_for_bit_and_an_interrupted_repair_goes_on(
    torn: TornSite,
    launcher: Launcher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = torn.config
    torn.learn_the_rest(launcher)
    assert main(["state", "verify", "--config", str(config)]) == ExitCode.DATA
    assert torn.uid in capsys.readouterr().out

    repair = ["state", "repair", "--config", str(config)]
    assert main(repair) == ExitCode.DATA
    assert "1 state from the generation before" in capsys.readouterr().out
    with monkeypatch.context() as interrupted:
        interrupted.setattr("corlld.commands.repair_run.send_back", _interrupt)
        assert main([*repair, "--yes"]) == INTERRUPTED
    assert main([*repair, "--yes"]) == ExitCode.OK
    assert "repaired: 1 state" in capsys.readouterr().out
    assert main(repair) == ExitCode.OK
    assert "nothing to repair" in capsys.readouterr().out

    run_until_done(launcher, torn.site, config, "third")
    assert main(["state", "verify", "--config", str(config)]) == ExitCode.OK
    assert_undisturbed(torn.site, config, torn.records, tmp_path)


def test_records_that_a_daemon_sets_aside_while_the_repair_is_under_way_are_sent_too(
    torn: TornSite, launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restore_late(store: RepairedStore, findings: Findings) -> Iterator[str]:
        torn.learn_the_rest(launcher)
        yield from restore(store, findings)

    monkeypatch.setattr("corlld.commands.repair_run.restore", restore_late)
    assert main(["state", "repair", "--config", str(torn.config), "--yes"]) == ExitCode.OK
    run_until_done(launcher, torn.site, torn.config, "third")
    assert_undisturbed(torn.site, torn.config, torn.records, tmp_path)


def test_letters_without_payload_that_are_not_committed_yet_are_waited_for_or_the_repair_says_so(
    tmp_path: Path,
    kafka_broker: KafkaCluster,
    tiny_model: Path,
    launcher: Launcher,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another user's edit waits, so that the letters are acknowledged and below no commit."""
    site = Site.make(tmp_path, kafka_broker, tiny_model, 1, dead_letters={"max_share": 1.0, "payload": False})
    config = site.write_settings()
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    producer = Producer(site.bootstrap, site.topic)
    draw = random.Random(5)
    torn_user, *others = traffic.users(USERS)

    def edits_of(*users: str) -> list[traffic.Sent]:
        return [traffic.plain(0, user, traffic.event(draw, f"id-{draw.random()}", user)) for user in users]

    records = edits_of(*others, *[torn_user] * 8)
    producer.send(records)
    run_until_done(launcher, site, config, "first")
    [torn] = (folder for folder in site.states.glob("users/*") if len(list(folder.iterdir())) > 1)
    tear(torn)

    batching = {"max_events": 4, "flush_after_seconds": 15.0}
    daemon = launcher.start(site.write_settings("late", batching=batching), site.log("late"))
    later = edits_of(others[0], *[torn_user] * 8)

    def restore_late(store: RepairedStore, findings: Findings) -> Iterator[str]:
        producer.send(later)
        wait_while_running(daemon, lambda: site.log("late").read_text().count('"dead_letter"') == 8, "letters", 60)
        yield from restore(store, findings)

    repair = ["state", "repair", "--config", str(config), "--yes"]
    with monkeypatch.context() as late:
        late.setattr("corlld.commands.repair_run.restore", restore_late)
        late.setattr("corlld.commands.repair_run.STANDSTILL_SECONDS", 0.0)
        assert main(repair) == ExitCode.DATA
    assert "Run the repair again when the lag of these partitions is 0" in capsys.readouterr().err
    assert site.lag() == len(later), "nothing was sent, and nothing is committed yet"
    assert main(repair) == ExitCode.OK
    assert "waiting for the group to commit 9 offsets" in capsys.readouterr().err
    site.wait_for_end(daemon)
    assert daemon.stop() == 0
    producer.close()
    assert_undisturbed(site, config, records + later, tmp_path)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def tear(user: Path) -> None:
    """Cut the end off the newest state in a user's folder."""
    newest = max(user.glob("0*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-3])


def assert_undisturbed(site: Site, config: Path, records: list[traffic.Sent], tmp_path: Path) -> None:
    """Assert that every state has the tensors, bit for bit, that it would have if nothing had ever happened."""
    tensors = write_undisturbed_tensors(config, records, tmp_path / "tensors")
    for twin in tensors.iterdir():
        assert same_tensors(twin, max((site.states / "users" / twin.stem).glob("0*.safetensors"))), twin.stem


def same_tensors(twin: Path, state: Path) -> bool:
    from safetensors.numpy import load_file

    one, other = load_file(twin), load_file(state)
    return all(one[name].tobytes() == other[name].tobytes() for name in one)
