"""The last word on a compacted topic is the newest version, or that there is none, however slow and torn the way."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from corlld.durable import Head, ModelInfo, OutboxNote
from corlld.errors import ExitCode, FatalError, RetriableError, StateUnreadable
from corlld.publishing import announcer as announcer_module
from corlld.publishing.announcer import Announcer
from corlld.publishing.folder import FolderTarget
from corlld.publishing.peft_format import MANIFEST_FILE, adapter_files
from corlld.publishing.publisher import AdapterPublisher
from corlld.publishing.target import Target
from tests.support.memory_outbox import MemoryOutbox
from tests.support.memory_target import MemoryTarget
from tests.support.states import OTHER_UID, SMALL_LAYOUT, UID, released_state, tombstone
from tests.support.waiting import wait_until

MODEL = ModelInfo("served/name", "r1", "fingerprint", supports_messages=False)


class Topic:
    """A compacted topic. `before_send` runs in the announcer's thread with what is being sent."""

    def __init__(self) -> None:
        self.values: list[tuple[str, bytes | None]] = []
        self.faults: list[Exception] = []
        self.before_send: Callable[[str, bytes | None], None] = lambda uid, value: None
        self.acknowledges = True
        self.closed = False

    problem = None

    def describe(self) -> str:
        return "topic adapters"

    def send(self, uid: str, value: bytes | None) -> "Future[None]":
        self.before_send(uid, value)
        future: Future[None] = Future()
        if self.faults:
            future.set_exception(self.faults.pop(0))
        elif self.acknowledges:
            self.values.append((uid, value))
            future.set_result(None)
        return future

    def close(self, timeout_seconds: float) -> None:
        self.closed = True

    def last_version(self, uid: str) -> int | None:
        value = [value for of, value in self.values if of == uid][-1]
        return None if value is None else int(json.loads(value)["version"])


class World:
    """States' heads, a target and a topic, with the announcer between them."""

    def __init__(self, target: Target) -> None:
        self.heads: dict[str, Head] = {}
        self.target = target
        self.topic = Topic()
        self.outbox = MemoryOutbox()
        self.heads_read: list[str] = []
        self.unreadable: set[str] = set()
        self.now = 1_000.0
        self.begin_life()

    def begin_life(self) -> None:
        """Start an announcer that remembers nothing, as after kill -9. The one before goes on, and is forgotten."""
        self.announcer = Announcer(self.topic, self.head, self.target, self.outbox, 0.01, clock=lambda: self.now)
        self.publisher = AdapterPublisher(self.target, SMALL_LAYOUT, MODEL, 3, 0, self.announcer)

    def head(self, uid: str) -> Head | None:
        self.heads_read.append(uid)
        if uid in self.unreadable:
            raise StateUnreadable("torn")
        return self.heads.get(uid)

    def publish(self, version: int, uid: str = UID) -> None:
        self.heads[uid] = Head(version, erased=False)
        self.publisher.publish(released_state(version, uid=uid))

    def erase(self, version: int, uid: str = UID) -> None:
        self.heads[uid] = Head(version, erased=True)
        self.publisher.withdraw(tombstone(version, uid))


@pytest.fixture(params=["folder", "memory"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    world = World(MemoryTarget() if request.param == "memory" else FolderTarget(tmp_path))
    yield world
    world.announcer.close(0)


def until(condition: Callable[[], object]) -> None:
    wait_until(condition, "the announcer", 10, pause_seconds=0.001)


def test_an_announcement_says_what_an_engine_needs(world: World) -> None:
    world.publish(3)
    until(lambda: world.topic.values)
    [(key, value)] = world.topic.values
    published = world.target.get(UID, 3)
    assert published is not None
    assert value is not None
    assert key == UID
    assert json.loads(value) == {
        "uid": UID,
        "version": 3,
        "name": f"{UID}/v000003",
        "location": published.location,
        "base_model": "served/name",
        "base_revision": "r1",
        "digest": json.loads(adapter_files(released_state(3), SMALL_LAYOUT, MODEL)[MANIFEST_FILE])["digest"],
    }


def test_an_erased_user_is_withdrawn(world: World) -> None:
    world.publish(3)
    until(lambda: world.announcer.pending == 0)
    world.erase(3)
    until(lambda: world.announcer.pending == 0)
    assert world.topic.values[-1] == (UID, None)


def test_a_manifest_that_cannot_be_understood_is_one_users_trouble_and_others_are_announced(tmp_path: Path) -> None:
    world = World(FolderTarget(tmp_path))
    world.target.put(UID, 3, adapter_files(released_state(3), SMALL_LAYOUT, MODEL))
    (tmp_path / UID / "v000003" / MANIFEST_FILE).write_bytes(b"{\xff")
    world.heads[UID] = Head(3, erased=False)
    world.announcer.announce(UID, ())
    world.publish(1, OTHER_UID)
    until(lambda: world.topic.values)
    until(lambda: world.announcer.pending == 1)
    assert [uid for uid, _ in world.topic.values] == [OTHER_UID]
    world.announcer.announce(OTHER_UID, ())  # raises what ended the thread
    world.announcer.close(0)


def test_versions_that_came_while_the_topic_was_away_are_one_announcement(world: World) -> None:
    gate = threading.Event()
    world.topic.before_send = lambda uid, value: gate.wait(10) and None
    world.publish(1)
    for version in range(2, 6):
        world.publish(version)
        assert world.announcer.pending == 1
    gate.set()
    until(lambda: world.announcer.pending == 0)
    assert world.topic.last_version(UID) == 5
    assert len(world.topic.values) <= 2


def test_a_late_owner_cannot_leave_an_old_version_as_the_last_word(world: World) -> None:
    def another_owner_is_faster(uid: str, value: bytes | None) -> None:
        world.topic.before_send = lambda uid, value: None
        world.heads[UID] = Head(4, erased=False)
        world.target.put(UID, 4, adapter_files(released_state(4), SMALL_LAYOUT, MODEL))
        world.topic.values.append((UID, b'{"version": 4}'))  # announced there; ours of version 3 comes after it

    world.topic.before_send = another_owner_is_faster
    world.publish(3)
    until(lambda: world.announcer.pending == 0)
    assert world.topic.last_version(UID) == 4
    assert len(world.topic.values) == 3


def test_a_late_owner_cannot_bring_back_an_erased_user(world: World) -> None:
    def erased_meanwhile(uid: str, value: bytes | None) -> None:
        world.topic.before_send = lambda uid, value: None
        world.heads[UID] = Head(3, erased=True)

    world.topic.before_send = erased_meanwhile
    world.publish(3)
    until(lambda: world.announcer.pending == 0)
    assert world.topic.values[-1] == (UID, None)


def test_a_version_that_is_not_out_yet_is_left_to_who_puts_it_out(world: World) -> None:
    world.publish(3)
    until(lambda: world.announcer.pending == 0)
    world.heads[UID] = Head(4, erased=False)  # stored by another owner, about to be published
    world.announcer.announce(UID, ())
    until(lambda: world.announcer.pending == 0)
    assert world.topic.last_version(UID) == 3
    assert len(world.topic.values) == 1


def test_a_topic_that_is_away_is_tried_again_until_it_is_back(world: World) -> None:
    world.topic.faults += [RetriableError("away")] * 5
    world.publish(3)
    world.publish(7, OTHER_UID)
    until(lambda: world.announcer.pending == 0)
    assert world.topic.last_version(UID) == 3
    assert world.topic.last_version(OTHER_UID) == 7


def test_a_topic_that_refuses_for_good_ends_the_daemon(world: World) -> None:
    world.topic.faults.append(FatalError("not authorized", ExitCode.CONFIGURATION))
    world.publish(3)
    with pytest.raises(FatalError, match="not authorized"):
        until(lambda: world.publish(3))


def test_who_waits_longest_is_announced_first(world: World) -> None:
    gate = threading.Event()
    world.topic.before_send = lambda uid, value: gate.wait(10) and None
    uids = [f"{number:032x}" for number in range(5)]
    for uid in uids:
        world.publish(1, uid)
    world.publish(2, uids[1])  # news of one who waits already do not send it to the back
    gate.set()
    until(lambda: world.announcer.pending == 0)
    assert [uid for uid, _ in world.topic.values] == uids


def test_publishing_never_waits_for_the_topic(world: World) -> None:
    world.topic.acknowledges = False
    for version in range(1, 5):
        world.publish(version)
    assert world.target.get(UID, 4) is not None
    assert world.announcer.pending == 1


def test_closing_lets_what_is_pending_go_out(world: World) -> None:
    world.topic.faults += [RetriableError("away")] * 2
    world.publish(3)
    world.publish(7, OTHER_UID)
    world.publisher.close(10)
    assert world.topic.closed
    assert (world.topic.last_version(UID), world.topic.last_version(OTHER_UID)) == (3, 7)


def test_closing_gives_up_at_its_deadline(world: World) -> None:
    world.topic.acknowledges = False
    world.publish(3)
    until(lambda: world.announcer.pending == 1)
    started = time.monotonic()
    world.publisher.close(0.05)
    assert time.monotonic() - started < 5
    assert world.topic.closed
    assert world.announcer.pending == 1


# --- the outbox -------------------------------------------------------------------------------------------------------


def killed(world: World) -> None:
    """End the life of the announcer, whose topic never answers, with what it did not announce; begin another."""
    world.topic = Topic()
    world.begin_life()


def silent(world: World) -> None:
    world.topic.acknowledges = False


def test_nothing_is_noted_that_is_acknowledged_in_time(world: World) -> None:
    world.publish(3)
    until(lambda: world.announcer.pending == 0)
    assert not world.publisher.must_note
    assert not world.publisher.unnoted_partitions
    world.publisher.note_unannounced()
    assert world.outbox.added == 0


def test_a_version_that_was_not_acknowledged_is_announced_by_the_next_life_without_a_new_event(world: World) -> None:
    silent(world)
    world.publish(3)
    assert world.publisher.must_note
    assert set(world.publisher.unnoted_partitions) == {"topic-id/0", "topic-id/3"}
    world.publisher.note_unannounced()
    assert not world.publisher.must_note
    assert not world.publisher.unnoted_partitions
    killed(world)
    until(lambda: world.announcer.pending == 0 and world.topic.values)
    assert world.topic.last_version(UID) == 3
    until(lambda: not world.outbox.notes)


def test_an_erasure_that_was_not_acknowledged_is_announced_by_the_next_life(world: World) -> None:
    world.publish(3)
    until(lambda: world.announcer.pending == 0)
    silent(world)
    world.erase(3)
    world.publisher.note_unannounced()
    killed(world)
    until(lambda: world.topic.values)
    assert world.topic.values == [(UID, None)]


def test_only_the_noted_users_are_looked_at_after_a_restart(world: World) -> None:
    for number in range(50):
        world.publish(1, f"{number:032x}")
    until(lambda: world.announcer.pending == 0)
    silent(world)
    world.publish(3)
    world.publisher.note_unannounced()
    world.heads_read.clear()
    killed(world)
    until(lambda: not world.outbox.notes)
    assert set(world.heads_read) == {UID}


def test_many_users_are_one_note_that_is_removed_once_all_are_announced(world: World) -> None:
    silent(world)
    for number in range(20):
        world.publish(1, f"{number:032x}")
    world.publisher.note_unannounced()
    assert world.outbox.added == 1
    killed(world)
    until(lambda: not world.outbox.notes)
    assert {uid for uid, _ in world.topic.values} == {f"{number:032x}" for number in range(20)}


@pytest.mark.parametrize("stopped", [False, True])
def test_a_note_that_its_announcement_overtook_is_removed(world: World, stopped: bool) -> None:
    """The next life would announce its users once more, and a note stays as long as no life begins."""
    asked, add = threading.Event(), world.outbox.add
    world.topic.before_send = lambda uid, value: asked.wait(10) and None

    def add_slowly(note: OutboxNote) -> str:
        name = add(note)
        asked.set()
        until(lambda: world.announcer.pending == 0)
        return name

    world.outbox.add = add_slowly  # type: ignore[method-assign]  # the real one, held until it is overtaken
    world.publish(3)
    world.publisher.note_unannounced()
    assert world.outbox.added == 1
    if stopped:
        world.announcer.close(5)
        assert not world.outbox.notes
    until(lambda: not world.outbox.notes)


def test_a_note_that_is_done_during_a_look_into_the_outbox_does_not_wait_for_the_next_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer_module, "LOOK_SECONDS", 0.02)
    world.announcer.close(0)
    world.begin_life()
    asked, announced, looking, noted = (threading.Event() for _ in range(4))
    add, names = world.outbox.add, world.outbox.names
    world.topic.before_send = lambda uid, value: asked.wait(10) and None

    def add_slowly(note: OutboxNote) -> str:
        name = add(note)
        asked.set()
        until(lambda: world.announcer.pending == 0)
        announced.set()
        assert looking.wait(10)
        return name

    def look_slowly() -> Iterator[str]:
        if not announced.is_set():
            return iter(())
        monkeypatch.setattr(announcer_module, "LOOK_SECONDS", 1000.0)
        looking.set()
        assert noted.wait(10)
        return names()

    monkeypatch.setattr(world.outbox, "add", add_slowly)
    monkeypatch.setattr(world.outbox, "names", look_slowly)
    world.publish(3)
    world.publisher.note_unannounced()
    assert world.outbox.added == 1
    noted.set()
    until(lambda: not world.outbox.notes)


def test_a_note_that_cannot_be_removed_gives_no_work_until_the_next_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, remove = threading.Event(), world.outbox.remove

    def refuse(name: str) -> None:
        failed.set()
        raise RetriableError("Input/output error")

    monkeypatch.setattr(world.outbox, "remove", refuse)
    silent(world)
    world.publish(3)
    world.publisher.note_unannounced()
    killed(world)
    until(lambda: failed.is_set() and not world.announcer._has_work)
    monkeypatch.setattr(world.outbox, "remove", remove)
    until(lambda: not world.outbox.notes)


def test_a_newer_version_behind_a_note_is_what_the_next_life_announces(world: World) -> None:
    silent(world)
    world.publish(3)
    world.publisher.note_unannounced()
    world.publish(4)
    assert world.publisher.must_note  # whoever announced version 3 may remove the note
    world.publisher.note_unannounced()
    killed(world)
    until(lambda: world.topic.values)
    assert world.topic.last_version(UID) == 4


def test_a_living_daemon_adopts_the_notes_of_one_that_died(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer_module, "LOOK_SECONDS", 0.05)
    world.begin_life()
    world.publish(7, OTHER_UID)
    until(lambda: world.announcer.pending == 0)  # it has looked for the first time
    world.heads[UID] = Head(3, erased=True)
    world.outbox.add(OutboxNote(1.0, (UID,)))
    until(lambda: (UID, None) in world.topic.values)
    until(lambda: not world.outbox.notes)


def test_a_store_that_is_away_neither_loses_notes_nor_stops_the_announcements(world: World) -> None:
    silent(world)
    world.publish(3)
    world.publisher.note_unannounced()
    world.outbox.away = True
    killed(world)
    world.publish(7, OTHER_UID)
    until(lambda: world.topic.values)
    assert world.topic.last_version(OTHER_UID) == 7
    world.outbox.away = False
    until(lambda: not world.outbox.notes)
    assert world.topic.last_version(UID) == 3


def test_a_note_that_cannot_be_written_is_still_owed(world: World) -> None:
    silent(world)
    world.publish(3)
    world.outbox.away = True
    with pytest.raises(RetriableError):
        world.publisher.note_unannounced()
    assert world.publisher.must_note


def test_a_user_whose_state_cannot_be_read_holds_nobody_up_and_is_announced_once_it_is_repaired(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer_module, "LOOK_SECONDS", 0.05)
    world.begin_life()
    world.unreadable.add(UID)
    world.publish(3)
    world.publish(7, OTHER_UID)
    until(lambda: world.announcer.pending == 1)
    assert world.topic.last_version(OTHER_UID) == 7
    world.unreadable.clear()
    until(lambda: world.announcer.pending == 0)
    assert world.topic.last_version(UID) == 3


def test_how_many_are_not_announced_and_for_how_long_is_reported_over_restarts(world: World) -> None:
    silent(world)
    world.publish(3)
    world.now += 40
    world.publish(7, OTHER_UID)
    world.publisher.note_unannounced()
    assert (world.publisher.unannounced.users, world.publisher.unannounced.age_seconds) == (2, 40.0)
    world.topic = Topic()
    silent(world)
    world.now += 60
    world.begin_life()
    until(lambda: world.publisher.unannounced.users == 2)
    assert world.publisher.unannounced.age_seconds == 100.0


def test_a_topic_that_does_not_acknowledge_is_a_problem_until_it_does(world: World) -> None:
    gate = threading.Event()
    world.topic.before_send = lambda uid, value: gate.wait(10) and None
    world.topic.faults += [RetriableError("topic adapters did not acknowledge")] * 200
    world.publish(3)
    assert world.publisher.problem is None
    gate.set()
    until(lambda: world.publisher.problem == "topic adapters did not acknowledge")
    world.topic.faults.clear()
    until(lambda: world.announcer.pending == 0)
    assert world.publisher.problem is None


def test_a_stop_does_not_wait_for_a_topic_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer_module, "CLOSE_SECONDS", 0.05)
    silent(world)
    world.publish(3)
    started = time.monotonic()
    world.publisher.close(60)
    assert time.monotonic() - started < 5
    assert world.publisher.must_note


def test_a_version_that_is_out_on_another_machine_is_left_to_the_daemon_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcer_module, "LOOK_SECONDS", 0.02)
    world.heads[UID] = Head(5, erased=False)  # in the bucket that all share; its files are in that machine's folder
    world.outbox.add(OutboxNote(1.0, (UID,)))
    world.begin_life()
    until(lambda: world.heads_read)
    world.publish(7, OTHER_UID)
    until(lambda: world.topic.values and world.announcer.pending == 0)
    assert len(world.outbox.notes) == 1
    world.publish(6)  # the user has moved here since
    until(lambda: not world.outbox.notes)
    assert world.topic.last_version(UID) == 6
