"""A repair serves users partition by partition: who waits for commits waits for the own partitions alone."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaAdminClient, OffsetAndMetadata, TopicPartition

from corlld.cli import main
from corlld.commands import repair_run
from corlld.commands.repair_findings import Findings
from corlld.commands.state_repair import RepairedStore, restore
from corlld.errors import ExitCode
from corlld.events.pseudonyms import Pseudonyms
from corlld.state.keys import repair_name
from corlld.state.store import LocalFolderStore
from tests.support import oracle, traffic
from tests.support.commands import SECRET
from tests.support.daemon_process import ENVIRON, Launcher, Site
from tests.support.edits import erasure
from tests.support.kafka.broker import KafkaCluster
from tests.support.quiet_learning import write_undisturbed_tensors
from tests.support.traffic import Producer, Sent

ANN, BOB, CID = traffic.users(3)


@dataclass
class Place:
    """A site with two partitions. `records` is what was sent, in order."""

    site: Site
    launcher: Launcher
    config: Path
    producer: Producer
    draw: random.Random = field(default_factory=lambda: random.Random(7))
    records: list[Sent] = field(default_factory=list)

    def send(self, partition: int, user: str, count: int) -> None:
        """Send new edits of the user."""
        events = (traffic.event(self.draw, f"id-{self.draw.random()}", user) for _ in range(count))
        self.send_these(*(traffic.plain(partition, user, event) for event in events))

    def send_these(self, *records: Sent) -> None:
        self.producer.send(records)
        self.records += records

    def learn(self) -> None:
        """Run a daemon until everything is committed."""
        daemon = self.launcher.start(self.config, self.site.log(f"to-{len(self.records)}"))
        daemon.wait_for_assignment()
        self.site.wait_for_end(daemon)
        assert daemon.stop() == 0

    def commit(self, partition: int, offset: int) -> None:
        """Move the group's commit while no daemon runs."""
        with closing(KafkaAdminClient(bootstrap_servers=self.site.bootstrap)) as admin:
            admin.alter_group_offsets(
                self.site.group, {TopicPartition(self.site.topic, partition): OffsetAndMetadata(offset, "", -1)}
            )

    def expire(self, partition: int, offset: int) -> None:
        """Have retention take the records before the offset."""
        with closing(KafkaAdminClient(bootstrap_servers=self.site.bootstrap)) as admin:
            admin.delete_records({TopicPartition(self.site.topic, partition): offset})

    def folder_of(self, user: str) -> Path:
        return self.site.states / "users" / Pseudonyms(SECRET).uid(user)

    def tear(self, user: str) -> dict[str, int]:
        """Tear the user's newest state. Return the next offset of the generation before, by partition."""
        *_, before, newest = sorted(self.folder_of(user).glob("0*.safetensors"))
        newest.write_bytes(newest.read_bytes()[:-3])
        return {key.split("/")[1]: offset for key, offset in oracle.read_state_header(before)["applied"].items()}

    def repair(self, *options: str) -> int:
        return main(["state", "repair", "--config", str(self.config), *options])

    def assert_undisturbed(self, tmp_path: Path) -> None:
        """Each state is bit for bit what it would be if none had been torn."""
        from safetensors.numpy import load_file

        for twin in write_undisturbed_tensors(self.config, self.records, tmp_path / "tensors").iterdir():
            wanted = load_file(twin)
            found = load_file(oracle.newest_state_file(self.site.states / "users" / twin.stem))
            assert {name: found[name].tobytes() for name in wanted} == {
                name: tensor.tobytes() for name, tensor in wanted.items()
            }, twin.stem


@pytest.fixture
def place(
    tmp_path: Path,
    kafka_broker: KafkaCluster,
    tiny_model: Path,
    launcher: Launcher,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    sections = {"dead_letters": {"max_share": 1.0, "payload": False}, "state": {"max_unreadable_share": 1.0}}
    site = Site.make(tmp_path, kafka_broker, tiny_model, 2, **sections)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    place = Place(site, launcher, site.write_settings(), Producer(site.bootstrap, site.topic))
    yield place
    place.producer.close()


@pytest.fixture
def ann_caught_up(place: Place) -> dict[str, int]:
    """Tear the states of Ann (partition 0) and Bob (partition 1), and let partition 1 stand still.

    Returns the number of records that each of the two lacks.
    """
    for user, partition in ((ANN, 0), (BOB, 1)):
        place.send(partition, user, 8)
    place.learn()
    lacks = {user: 12 - place.tear(user)[partition] for user, partition in ((ANN, "0"), (BOB, "1"))}
    for user, partition in ((ANN, 0), (BOB, 1)):
        place.send(partition, user, 4)
    place.learn()  # these become dead letters without payload
    place.send(1, CID, 2)
    return lacks


def test_users_are_repaired_while_a_partition_of_others_stands_still(
    place: Place,
    ann_caught_up: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as hasty:
        hasty.setattr(repair_run, "STANDSTILL_SECONDS", 0.0)
        hasty.setattr(repair_run, "OTHERS_SECONDS", 0.0)
        assert place.repair("--yes") == ExitCode.DATA
    said = capsys.readouterr()
    assert f"partition 0: 1 state repaired, {ann_caught_up[ANN]} records sent\n" in said.out
    assert "partition 1: 1 state not repaired yet, 2 offsets not committed\n" in said.out
    assert "repaired: 1 state from the generation before" in said.out
    assert "1 state not repaired yet: group" in said.err
    assert place.site.lag() == 2 + ann_caught_up[ANN]

    assert place.repair() == ExitCode.DATA
    said = capsys.readouterr()
    assert f"1 state from the generation before, and {ann_caught_up[BOB]} records to send" in said.out, "Bob's alone"

    place.learn()
    assert place.repair("--yes") == ExitCode.OK
    assert f"partition 1: 1 state repaired, {ann_caught_up[BOB]} records sent\n" in capsys.readouterr().out
    place.learn()
    place.assert_undisturbed(tmp_path)


def test_a_repair_that_has_served_some_users_goes_on_waiting_for_the_others(
    place: Place,
    ann_caught_up: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    send: Callable[..., int | None] = repair_run._send
    rounds: list[int | None] = []

    def send_and_learn(*arguments: Any) -> int | None:
        rounds.append(send(*arguments))
        place.learn()
        return rounds[-1]

    monkeypatch.setattr(repair_run, "_send", send_and_learn)
    assert place.repair("--yes") == ExitCode.OK
    assert rounds == [ann_caught_up[ANN], ann_caught_up[BOB]]
    assert (
        f"repaired: 2 states from the generation before, and {sum(ann_caught_up.values())} records"
        in capsys.readouterr().out
    )
    place.assert_undisturbed(tmp_path)


def test_a_user_of_two_partitions_waits_for_both_and_nothing_is_back_after_its_erasure(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for partition in (0, 1, 1):
        place.send(partition, ANN, 1)
        place.learn()
    before = place.tear(ANN)
    assert set(before) == {"0", "1"}
    place.send_these(traffic.plain(1, ANN, erasure(ANN)))
    place.learn()  # the erasure becomes a dead letter
    place.send(0, ANN, 1)
    assert place.site.lag() == 1
    with monkeypatch.context() as hasty:
        hasty.setattr(repair_run, "STANDSTILL_SECONDS", 0.0)
        hasty.setattr(repair_run, "OTHERS_SECONDS", 0.0)
        assert place.repair("--yes") == ExitCode.DATA
    assert "partition 0: 1 state not repaired yet, 1 offset not committed\n" in capsys.readouterr().out
    assert place.site.lag() == 1, "sent now, the erasure would come before an edit that nobody has read"

    place.learn()
    assert place.repair("--yes") == ExitCode.OK
    place.learn()
    newest = oracle.read_state_header(oracle.newest_state_file(place.folder_of(ANN)))
    assert newest["erased"]


@pytest.fixture
def ann_in_partition_0(place: Place) -> Place:
    """Let Ann have several generations that know partition 0 alone, and Bob a record in partition 1."""
    place.send(0, ANN, 8)
    place.send(1, BOB, 1)
    place.learn()
    return place


def test_a_partition_whose_first_letter_comes_after_the_first_look_is_waited_for_and_sent(
    ann_in_partition_0: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Partitions were added: a daemon that still sees the torn state sets the user's first record of one aside."""
    place = ann_in_partition_0
    assert set(place.tear(ANN)) == {"0"}
    looks: list[dict[str, int]] = []

    def restore_late(store: RepairedStore, findings: Findings) -> Iterator[str]:
        place.send(1, ANN, 1)
        place.learn()  # the record becomes a dead letter without payload
        place.commit(1, 1)  # as if an older record of the partition were still being learnt
        yield from restore(store, findings)

    def commit_while_it_waits(_: float) -> None:
        assert not looks, "what is sent to the partition from now on is not waited for"
        note = LocalFolderStore(place.site.states).load_position(repair_name(Pseudonyms(SECRET).uid(ANN))) or {}
        looks.append({key.split("/")[1]: int(offset) for key, offset in note.items() if "/" in key})
        assert place.site.lag() == 1, "nothing was sent: the letter's record is not committed"
        place.send(1, BOB, 1)
        place.commit(1, 2)

    monkeypatch.setattr(repair_run, "OTHERS_SECONDS", 0.0)
    monkeypatch.setattr(repair_run, "restore", restore_late)
    monkeypatch.setattr(repair_run, "time", SimpleNamespace(monotonic=time.monotonic, sleep=commit_while_it_waits))
    assert place.repair("--yes") == ExitCode.OK
    assert "waiting for the group to commit 1 offset\n" in capsys.readouterr().err
    [note] = looks
    assert note["1"] == 1, "for the next run, if this one is interrupted"
    place.learn()
    place.assert_undisturbed(tmp_path)


@pytest.mark.parametrize("is_read", [True, False], ids=["read before", "read after"])
def test_an_erasure_that_comes_while_a_repair_waits_is_not_undone(
    ann_in_partition_0: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_read: bool
) -> None:
    """Her state does not know the ids of what the repair sends, since it was restored from before they were learnt."""
    place = ann_in_partition_0
    lacks = 8 - place.tear(ANN)["0"]
    send: Callable[..., int | None] = repair_run._send

    def erase_first(*arguments: Any) -> int | None:
        place.send_these(traffic.plain(0, ANN, erasure(ANN)))
        if is_read:
            place.learn()
        return send(*arguments)

    monkeypatch.setattr(repair_run, "_send", erase_first)
    assert place.repair("--yes") == ExitCode.OK
    said = capsys.readouterr().out
    assert ("erased since the state was restored: nothing is sent\n" in said) == is_read
    assert (f"{lacks} record" in said) != is_read
    place.learn()
    newest = oracle.read_state_header(oracle.newest_state_file(place.folder_of(ANN)))
    assert newest["erased"]


def test_a_partition_that_the_torn_state_alone_names_is_sent(
    ann_in_partition_0: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ann_in_partition_0
    place.send(1, BOB, 3)
    place.send(1, ANN, 1)
    place.learn()
    place.expire(1, 3)
    newest = oracle.newest_state_file(place.folder_of(ANN))
    whole = newest.read_bytes()
    newest.write_bytes(whole[:100])
    assert place.repair() == ExitCode.DATA
    assert "from the 1 partition that the generation before does not name is not sent\n" in capsys.readouterr().out

    newest.write_bytes(whole)
    assert set(place.tear(ANN)) == {"0"}
    assert place.repair("--yes") == ExitCode.OK
    said = capsys.readouterr().out
    assert "partition 1: 1 state repaired, 1 record sent\n" in said
    assert "gone" not in said, "nothing of hers was"
    place.learn()
    place.assert_undisturbed(tmp_path)


def test_no_letter_is_called_lost_whose_record_is_sent(
    ann_in_partition_0: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A letter without payload is the first that tells of the user's partition."""
    place = ann_in_partition_0
    lacks = 8 - place.tear(ANN)["0"] + 1
    place.send(1, ANN, 1)
    place.learn()  # the record becomes a dead letter without payload
    assert place.repair() == ExitCode.DATA
    said = capsys.readouterr().out
    assert f"and {lacks} records to send" in said
    assert "payload" not in said
    assert place.repair("--yes") == ExitCode.OK
    assert f"and {lacks} records sent" in capsys.readouterr().out
    place.learn()
    place.assert_undisturbed(tmp_path)
