"""Two daemons that share a topic, a store and a target, all in memory, and whatever may go wrong between them.

The loop and the publisher are the real ones. Each call to the store and the target may fail, lose its answer, be held
up while other daemons go on, or be the last thing that its daemon does.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest.mock import patch

from corlld.durable import AdapterVersion, Attempts, Head, UserState
from corlld.errors import FatalError, RetriableError
from corlld.publishing.peft_format import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE
from corlld.publishing.publisher import AdapterPublisher
from corlld.records import DeadLetter
from tests.support.daemon_parts import PSEUDONYMS, Parts, value
from tests.support.fakes import ListingLearner, MemoryAttempts, MemoryDeadLetters, MemoryStore
from tests.support.group import TOPIC_ID, Group, Member
from tests.support.ledger import Ledger, Sent, ids_of
from tests.support.memory_target import MemoryPlace, MemoryTarget
from tests.support.states import SMALL_LAYOUT
from tests.support.stepping import Killed, Life

USERS = ("ann", "bob", "cat")
NAMES = {PSEUDONYMS.uid(user): user for user in USERS}
SLOTS = ("one", "two")
TURNS_TO_THE_END = 400
WINDOW = 3  # event ids that states keep as they are; others are hashes

T = TypeVar("T")

CALLS = ("load", "save", "head", "note", "put", "complete", "remove")  # to the stores, and to the target


@dataclass(frozen=True)
class Trouble:
    """What becomes of the next call with this name; see CALLS.

    kind: "time-out" (it has no effect), "lost answer" (it has), "kill before", "kill after", or "take-over": the daemon
        is cut off before the call, and the others take its partitions over and do all that is to be done; after
        "take-over and kill" it is killed besides, and its call still has its effect.
    meanwhile: kind and user of a record that is sent just before the others go on.
    """

    kind: str
    call: str
    meanwhile: tuple[str, str] | None = None


class World:
    """Daemons by slot, and all that outlives them. Close it.

    overrides: of settings, by section.
    sick: numbers of partitions whose attempts can't be saved. Others must go on; `finish` heals them.
    """

    def __init__(self, **overrides: dict[str, Any]) -> None:
        self.now = 1000.0
        self.tick = 0.0  # by which each look at the clock moves it
        self.sick: set[int] = set()
        self.topic: list[list[Sent]] = []
        self.sent: list[Sent] = []  # in the order of sending
        self.ledger = Ledger(self.topic, NAMES, TOPIC_ID)
        self.group = Group(self.ledger.commits)
        self.lives: dict[str, Life] = {}
        self._outside = Outside(self._take_over)
        self._running: Life | None = None
        self.parts = _parts(self._outside, self.ledger, self._clock, overrides)
        self.parts.attempts = _Attempts(self._outside, self.sick)
        self._patches = ExitStack()
        self._patches.enter_context(patch("corlld.publishing.publisher.adapter_files", _files))
        for _ in range(2):
            self.add_partition()

    def close(self) -> None:
        self._patches.close()

    # --- the input ----------------------------------------------------------------------------------------------------

    def send(self, kind: str, user: str) -> None:
        """Send a new record."""
        has_id = kind in ("edit", "acceptance", "erase")
        self._append(Sent(kind, user, f"{user}-{len(self.sent)}" if has_id else ""))

    def send_again(self, first: int, records: int) -> None:
        """Send earlier records once more, in their order."""
        for sent in self.sent[first : first + records]:
            self._append(sent)

    def add_partition(self) -> None:
        """Add a partition. Some users' records go to other partitions from now on."""
        self.topic.append([])
        self.ledger.committed.append(0)
        self.group.add_partition()
        self.rebalance(eager=False)

    def _append(self, sent: Sent) -> None:
        self.sent.append(sent)
        partition = USERS.index(sent.user) % len(self.topic)
        self.topic[partition].append(sent)
        self.group.partitions[partition].append((sent.user.encode(), _value(sent)))

    # --- the daemons --------------------------------------------------------------------------------------------------

    def live(self, slot: str) -> Life:
        """Return the slot's daemon. Without one, another is started, and joins the group: all tenures end."""
        if slot not in self.lives:
            self.lives[slot] = Life(self.parts, Member(self.group))
            self.rebalance(eager=True)
        return self.lives[slot]

    def kill(self, slot: str, *, lands: bool) -> None:
        """Kill a daemon. Its partitions stay its own until the next rebalance.

        lands: its call to the store or the target that is on its way has its effect yet.
        """
        life = self.lives.pop(slot, None)
        if life is not None and lands:
            with self._outside.last_call():
                self._run(life, life.pool.run_one)

    def stop(self, slot: str) -> None:
        """Stop a daemon in good order. The others take over."""
        if (life := self.lives.pop(slot, None)) is not None:
            self.tick = 0.01
            life.stop()
            self.tick = 0.0
            self.rebalance(eager=True)

    def rebalance(self, *, eager: bool, shift: int = 0) -> None:
        """Share the partitions out among the daemons that live, if any do."""
        if members := [life.member for _, life in sorted(self.lives.items())]:
            owners = {number: members[(number + shift) % len(members)] for number in range(len(self.topic))}
            self.group.assign(owners, eager=eager)

    def turn(self, slot: str, *, deaf: bool = False) -> None:
        """Turn a daemon's loop once. deaf: it does not hear of rebalances yet."""
        life = self.live(slot)
        life.member.deaf = deaf
        try:
            life.turn()
        except FatalError as error:
            self.ledger.problems.append(f"a daemon ended: {error}")
        life.member.deaf = False

    def work(self, slot: str, which: int = 0) -> None:
        """Run a job of a daemon: a call of the learner (2), or one of the jobs that threads would have begun (0, 1)."""
        life = self.live(slot)
        self._run(life, life.trainer.run_one if which == 2 else lambda: life.pool.run_one(which))

    def go_on(self, slot: str, turns: int, trouble: Trouble | None = None, *, deaf: bool = False) -> None:
        """Let a daemon do what it has to do, for some turns, until it is killed, or the trouble has come."""
        life = self.live(slot)
        self._outside.trouble = trouble
        for _ in range(turns):
            self.turn(slot, deaf=deaf)
            self._run(life, life.run_jobs)
            self.now += 0.4
            if slot not in self.lives or (trouble is not None and self._outside.trouble is None):
                break
        self._outside.trouble = None

    def finish(self) -> None:
        """Let the daemons that live finish all. Without any, one is started."""
        self.sick.clear()
        self.live(SLOTS[0])
        self.rebalance(eager=True)
        self.group.commit_faults.clear()
        for _ in range(TURNS_TO_THE_END):
            for slot in self.lives:
                self.go_on(slot, 1)
            self.now += 5
            if self.ledger.committed == [len(records) for records in self.topic]:
                break
        self.ledger.judge_end()

    def _run(self, life: Life, job: Callable[[], None]) -> None:
        """Run jobs. If their daemon is killed meanwhile, it is gone."""
        before, self._running = self._running, life
        try:
            job()
        except Killed:
            self.lives = {name: other for name, other in self.lives.items() if other is not life}
        finally:
            self._running = before

    def _take_over(self, meanwhile: tuple[str, str] | None) -> None:
        """Let the other daemons own everything, and finish it, while a daemon is held up in the middle of a job."""
        if meanwhile is not None:
            self.send(*meanwhile)
        cut_off = next(slot for slot, life in self.lives.items() if life is self._running)
        held = self.lives.pop(cut_off)
        for slot in (slot for slot in SLOTS if slot != cut_off):
            self.live(slot)
            self.rebalance(eager=True)
            for _ in range(8):
                self.go_on(slot, 1)
                self.now += 1
        self.lives[cut_off] = held

    def _clock(self) -> float:
        self.now += self.tick
        return self.now


class Outside:
    """The calls of jobs to what is outside of the process. trouble: it comes with the next call of its name."""

    def __init__(self, take_over: Callable[[tuple[str, str] | None], None]) -> None:
        self._take_over = take_over
        self._last = False
        self.trouble: Trouble | None = None

    @contextmanager
    def last_call(self) -> Iterator[None]:
        """Kill the daemon after whatever call comes next."""
        self._last = True
        yield
        self._last = False

    def call(self, name: str, effect: Callable[[], T]) -> T:
        kind = None
        if (trouble := self.trouble) is not None and trouble.call == name:
            kind, self.trouble = trouble.kind, None
            if kind.startswith("take-over"):
                self._take_over(trouble.meanwhile)
        if kind == "kill before":
            raise Killed
        if kind == "time-out":
            raise RetriableError("time-out")
        result = effect()
        if kind in ("kill after", "take-over and kill") or self._last:
            raise Killed
        if kind == "lost answer":
            raise RetriableError("the answer was lost")
        return result


class _Store(MemoryStore):
    def __init__(self, outside: Outside, ledger: Ledger) -> None:
        super().__init__()
        self._outside = outside
        self._ledger = ledger

    def load(self, uid: str) -> tuple[UserState | None, str]:
        return self._outside.call("load", lambda: MemoryStore.load(self, uid))

    def head(self, uid: str) -> Head | None:
        return self._outside.call("head", lambda: MemoryStore.head(self, uid))

    def save(self, uid: str, state: UserState, token: str) -> str:
        def save() -> str:
            after = MemoryStore.save(self, uid, state, token)
            self._ledger.saved(state)
            return after

        return self._outside.call("save", save)


class _Attempts(MemoryAttempts):
    def __init__(self, outside: Outside, sick: set[int]) -> None:
        super().__init__()
        self._outside = outside
        self._sick = sick

    def save_attempts(self, partition: str, attempts: Attempts) -> None:
        if int(partition.rsplit("/", 1)[1]) in self._sick:
            raise RetriableError("Input/output error")
        self._outside.call("note", lambda: MemoryAttempts.save_attempts(self, partition, attempts))


class _Place(MemoryPlace):
    def __init__(self, outside: Outside, ledger: Ledger) -> None:
        super().__init__()
        self._outside = outside
        self._ledger = ledger

    def create(self, name: str, data: bytes) -> bytes:
        uid, version, file = _parsed(name)

        def create() -> bytes:
            present = MemoryPlace.create(self, name, data)
            self._ledger.appeared(uid, version, file)
            if file == CONFIG_FILE:
                self._ledger.published(uid, version, tuple(json.loads(data)))
            return present

        return self._outside.call("complete" if file == CONFIG_FILE else "put", create)

    def remove(self, name: str) -> None:
        def remove() -> None:
            MemoryPlace.remove(self, name)
            self._ledger.removed(*_parsed(name))

        self._outside.call("remove", remove)


def _parsed(name: str) -> tuple[str, int, str]:
    uid, version, file = name.split("/")
    return uid, int(version[1:]), file


class _Publisher(AdapterPublisher):
    ledger: Ledger

    def publish(self, state: UserState) -> AdapterVersion | None:
        try:
            version = super().publish(state)
        except (Killed, RetriableError):
            self.ledger.broke_off(state)
            raise
        self.ledger.came_through(state)
        return version


class _Letters(MemoryDeadLetters):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def send(self, letter: DeadLetter) -> Any:
        future = super().send(letter)
        if future.exception() is None:
            self._ledger.acknowledged(letter.record.tenure.partition.partition, letter.record.offset)
        return future


def _parts(outside: Outside, ledger: Ledger, clock: Callable[[], float], overrides: Mapping[str, Any]) -> Parts:
    sections: dict[str, dict[str, Any]] = {
        "dead_letters": {"max_share": 1.0},
        "events": {"tombstones_erase": True},
        "state": {"recent_event_ids": WINDOW},
        "learning": {"max_crashes": 1_000_000},  # no event is to blame for a kill here
    }
    parts = Parts(**{name: {**sections.get(name, {}), **overrides.get(name, {})} for name in {*sections, *overrides}})
    store = _Store(outside, ledger)
    parts.store, parts.dead_letters, parts.learner, parts.clock = store, _Letters(ledger), ListingLearner(), clock
    target = MemoryTarget(_Place(outside, ledger))
    model = parts.learner.model_info
    publisher = _Publisher(target, SMALL_LAYOUT, model, keep_versions=2, keep_seconds=0, head=store.head)
    publisher.ledger = ledger
    parts.publisher = publisher  # type: ignore[assignment]  # no test reads the memory publisher's own fields here
    return parts


def _files(state: UserState, *_: object) -> dict[str, bytes]:
    """Return the files of a version whose tensors are only a list."""
    content = json.dumps(ids_of(state)).encode()
    return {TENSORS_FILE: content, MANIFEST_FILE: b'{"digest": ""}', CONFIG_FILE: content}


def _value(sent: Sent) -> bytes | None:
    if sent.kind in ("tombstone", "malformed"):
        return None if sent.kind == "tombstone" else b"{"
    fields: dict[str, dict[str, Any]] = {"erase": {"type": "erase"}, "acceptance": {"edited": "draft"}}
    return value(sent.event_id, sent.user, **fields.get(sent.kind, {}))
