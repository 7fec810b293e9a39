"""In-memory parts behind the daemon's protocols, for unit tests and for faults that can't be made otherwise.

The learner's "tensors" are the ids of the applied events, in order, so that a test can read what the loop did.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from corlld.durable import AdapterVersion, Attempts, Head, ModelInfo, StoreIdentity, UserState
from corlld.errors import LostSwap, RetriableError
from corlld.records import (
    Arrival,
    DeadLetter,
    EditEvent,
    EraseEvent,
    LoopStatus,
    PairOutcome,
    PairStatus,
    Polled,
    Record,
    SourcePartition,
    Tenure,
    TokenCounts,
    TrainingBatch,
    Unannounced,
    UpdateOutcome,
)

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def tenure(partition: int = 0, number: int = 1, start_offset: int = 0) -> Tenure:
    return Tenure(SourcePartition("edits", "topic-id", partition), number, start_offset)


def edit_event(event_id: str, user_id: str = "ann", *, accepted: bool = False, version: int | None = None) -> EditEvent:
    return EditEvent(event_id, user_id, NOON, "x", None, "draft", "draft" if accepted else "text", version)


def record(offset: int, of: Tenure | None = None, **fields: bytes | None) -> Record:
    return Record(of or tenure(), offset, offset + 1, fields.get("key"), fields.get("value"))


def arrival(
    offset: int,
    event: EditEvent | EraseEvent | None = None,
    *,
    uid: str = "u1",
    at: float = 0.0,
    of: Tenure | None = None,
) -> Arrival:
    return Arrival(uid, event or edit_event(f"e{offset}"), record(offset, of), at)


def loop_status(**fields: Any) -> LoopStatus:
    """Return the status of an idle daemon that is ready, changed by `fields`."""
    idle: dict[str, Any] = {
        "now": 0.0,
        "waiting_for": (),
        "stopping": False,
        "buffered_events": 0,
        "buffered_chars": 0,
        "reading_paused": False,
        "paused_partitions": {},
        "partitions": {},
        "training": False,
        "trainer_progress": 0,
        "longest_call_seconds": 0.0,
        "computed_tokens": 0,
        "padding_tokens": 0,
        "host_memory_users": 0,
        "host_memory_bytes": 0,
        "unsaved_users": 0,
        "unsaved_age_seconds": 0.0,
        "unannounced": Unannounced(),
        "users_aside": 0,
    }
    return LoopStatus(**{**idle, **fields})


@dataclass(frozen=True)
class Applied:
    """An adapter that is only the list of the events that made it."""

    event_ids: tuple[str, ...] = ()

    @property
    def optimizer_step(self) -> int:
        return len(self.event_ids)

    @property
    def nbytes(self) -> int:
        return 100

    @property
    def start(self) -> None:
        return None


class ListingLearner:
    """Applies every edit. It calls `before` first, where a test can inject faults.

    learns_acceptances: acceptances are applied as well, as with the default `learning.acceptance_weight`.
    """

    def __init__(
        self,
        before: Callable[[Sequence[TrainingBatch]], None] = lambda batches: None,
        *,
        learns_acceptances: bool = False,
    ) -> None:
        self._before = before
        self._learns_acceptances = learns_acceptances
        self.progress = 0
        self.tokens = TokenCounts(0, 0)
        self.model_info = ModelInfo("tiny", "r1", "f1", supports_messages=False)

    def update(self, batches: Sequence[TrainingBatch]) -> list[UpdateOutcome]:
        self._before(batches)
        outcomes = []
        for batch in batches:
            self.progress += 1
            adapter = batch.adapter or Applied()
            assert isinstance(adapter, Applied)
            new = tuple(e.event_id for e in batch.events if self._learns_acceptances or not e.is_acceptance)
            pairs = tuple(
                PairOutcome(PairStatus.ACCEPTANCE if event.is_acceptance else PairStatus.APPLIED)
                for event in batch.events
            )
            after = Applied(adapter.event_ids + new) if new else batch.adapter
            outcomes.append(UpdateOutcome(batch.uid, after, trained=bool(new), pairs=pairs, steps=1))
        return outcomes


@dataclass
class MemoryStore:
    """Compare-and-swap in a dict. The next saves raise `faults`, in turn, before or after they take effect."""

    states: dict[str, tuple[UserState, int]] = field(default_factory=dict)
    faults: list[Exception] = field(default_factory=list)
    faults_take_effect: bool = False
    load_faults: list[Exception] = field(default_factory=list)

    def open(self, identity: StoreIdentity, *, must_exist: bool) -> None:
        """Nothing to open."""

    def secret_fingerprint(self) -> str | None:
        raise AssertionError("not used")

    def load(self, uid: str) -> tuple[UserState | None, str]:
        if self.load_faults:
            raise self.load_faults.pop(0)
        if uid not in self.states:
            return None, "0"
        state, number = self.states[uid]
        return state, str(number)

    def save(self, uid: str, state: UserState, token: str) -> str:
        current = self.states[uid][1] if uid in self.states else 0
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None and not self.faults_take_effect:
            raise fault
        if str(current) != token:
            raise LostSwap("newer")
        self.states[uid] = (state, current + 1)
        if fault is not None:
            raise fault
        return str(current + 1)

    def head(self, uid: str) -> Head | None:
        if uid not in self.states:
            return None
        state, _ = self.states[uid]
        return Head(state.version, state.erased, state.erased_through)

    def uids(self) -> Iterator[str]:
        return iter(list(self.states))


class MemoryPositions:
    """A `PositionStore` that keeps what JSON can hold.

    fails: as with a disk that is full. applied: the topics that the states beside it name.
    """

    def __init__(self) -> None:
        self.saved: dict[str, str] = {}
        self.fails = False
        self.applied: set[str] = set()

    def load_position(self, name: str) -> Mapping[str, str | int] | None:
        return json.loads(self.saved[name]) if name in self.saved else None

    def save_position(self, name: str, position: Mapping[str, str | int]) -> None:
        if self.fails:
            raise RetriableError("disk full")
        self.saved[name] = json.dumps(dict(position))

    def has_applied(self, topic: str) -> bool:
        return topic in self.applied


@dataclass
class MemoryAttempts:
    """An `AttemptStore` in a dict. The next loads and saves raise `load_faults` and `faults`, in turn."""

    kept: dict[str, Attempts] = field(default_factory=dict)
    load_faults: list[Exception] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    saves: int = 0

    def load_attempts(self, partition: str) -> Attempts | None:
        if self.load_faults:
            raise self.load_faults.pop(0)
        return self.kept.get(partition)

    def save_attempts(self, partition: str, attempts: Attempts) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.saves += 1
        self.kept[partition] = attempts


@dataclass
class MemoryPublisher:
    """Keeps the versions that are out. The next calls raise `faults`, in turn; `note_faults` the next notes.

    announces: if False, no version is ever announced, and `noted` are the users in notes.
    """

    out: dict[str, list[int]] = field(default_factory=dict)
    faults: list[Exception] = field(default_factory=list)
    closed: bool = False
    problem: str | None = None
    announces: bool = True
    unnoted: set[str] = field(default_factory=set)
    partitions: dict[str, Collection[str]] = field(default_factory=dict)  # of users
    noted: list[str] = field(default_factory=list)
    note_faults: list[Exception] = field(default_factory=list)

    @property
    def must_note(self) -> bool:
        return bool(self.unnoted)

    @property
    def unnoted_partitions(self) -> Collection[str]:
        return {key for uid in self.unnoted for key in self.partitions[uid]}

    def note_unannounced(self) -> None:
        if self.note_faults:
            raise self.note_faults.pop(0)
        self.noted += sorted(self.unnoted)
        self.unnoted.clear()

    @property
    def unannounced(self) -> Unannounced:
        return Unannounced(len(self.unnoted) + len(self.noted), 0.0)

    def _ask(self, state: UserState) -> None:
        self.partitions[state.uid] = tuple(state.applied)
        if not self.announces:
            self.unnoted.add(state.uid)

    def publish(self, state: UserState) -> AdapterVersion | None:
        if self.faults:
            raise self.faults.pop(0)
        if state.release is None:
            return None
        versions = self.out.setdefault(state.uid, [])
        if state.release.version not in versions:
            versions.append(state.release.version)
        self._ask(state)
        return AdapterVersion(state.uid, state.release.version, "", "")

    def newest(self, uid: str) -> int:
        return max(self.out.get(uid, []), default=0)

    def withdraw(self, state: UserState) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.out.pop(state.uid, None)
        self._ask(state)

    def close(self, timeout_seconds: float) -> None:
        self.closed = True


@dataclass
class MemoryDeadLetters:
    letters: list[DeadLetter] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    problem: str | None = None

    def send(self, letter: DeadLetter) -> "Future[None]":
        future: Future[None] = Future()
        if self.faults:
            future.set_exception(self.faults.pop(0))
        else:
            self.letters.append(letter)
            future.set_result(None)
        return future

    def close(self, timeout_seconds: float) -> None:
        """Nothing to close."""


class ScriptedSource:
    """Delivers the steps of a script, one per poll. Afterwards it is exhausted (`finite`) or goes on idling.

    A step is a `Polled`, or a callable that returns a `Polled`, for something that must happen at that moment.
    """

    cluster_id = "memory"
    healthy = True

    def __init__(self, script: Sequence[Polled | Callable[[], Polled]], *, finite: bool = True) -> None:
        self._script = list(script)
        self._finite = finite
        self._positions: dict[Tenure, int] = {}
        self._committed: dict[Tenure, int] = {}
        self.paused_tenures: set[Tenure] = set()
        self.paused = False  # all of them
        self.commits: list[dict[Tenure, int]] = []
        self.final: dict[Tenure, int] | None = None
        self.idle: Callable[[], None] = lambda: None

    @property
    def exhausted(self) -> bool:
        return self._finite and not self._script

    def deliver(self, step: Polled | Callable[[], Polled]) -> None:
        """Add a step to the script."""
        self._script.append(step)

    def start(self, timeout_seconds: float) -> None:
        """Nothing to reach."""

    def has_commits(self) -> bool:
        return False

    def poll(self, timeout_seconds: float) -> Polled:
        deliverable = (i for i, step in enumerate(self._script) if not self._is_paused(step))
        if (place := next(deliverable, None)) is None:
            self.idle()
            return Polled()
        step = self._script.pop(place)
        polled = step if isinstance(step, Polled) else step()
        for ended in polled.ended:
            self._positions.pop(ended, None)
        for begun in polled.begun:
            self._positions[begun] = begun.start_offset
        for delivered in polled.records:
            self._positions[delivered.tenure] = delivered.next_offset
        return polled

    def _is_paused(self, step: Polled | Callable[[], Polled]) -> bool:
        """Return whether the step must wait: callables do so only while all tenures are paused."""
        if isinstance(step, Polled):
            return any(each.tenure in self.paused_tenures for each in step.records)
        return self.paused

    def positions(self) -> Mapping[Tenure, int]:
        return dict(self._positions)

    def ends(self) -> Mapping[Tenure, int]:
        """Return the positions: steps that are not delivered yet count as not written yet."""
        return dict(self._positions)

    def pause_only(self, tenures: Collection[Tenure]) -> None:
        self.paused_tenures = set(tenures)
        self.paused = bool(self.positions()) and self.paused_tenures >= set(self.positions())

    def commit(self, next_offsets: Mapping[Tenure, int]) -> bool:
        self.commits.append(dict(next_offsets))
        self._committed.update(next_offsets)
        return True

    def committed(self) -> Mapping[Tenure, int]:
        return {**{t: t.start_offset for t in self._positions}, **self._committed}

    def close(self, next_offsets: Mapping[Tenure, int], timeout_seconds: float) -> None:
        self.final = dict(next_offsets)
