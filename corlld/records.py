"""Frozen values that cross stages. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from corlld.errors import InvalidEvent, RejectReason


@dataclass(frozen=True, slots=True)
class SourcePartition:
    """One ordered stretch of input: a Kafka partition, or a whole JSONL file (partition 0)."""

    topic: str
    topic_id: str  # Kafka's topic id, or the file's identity: a recreated topic is another one
    partition: int

    @property
    def key(self) -> str:
        """The name under which states keep `applied`: `topic_id/partition`."""
        return f"{self.topic_id}/{self.partition}"


@dataclass(frozen=True, slots=True)
class Tenure:
    """One unbroken assignment of a partition to this process. A partition that comes back is a new tenure."""

    partition: SourcePartition
    number: int  # unique in this process, increasing
    start_offset: int  # where reading began: the committed offset


@dataclass(frozen=True, slots=True)
class Record:
    """What a source delivered, with the position to commit once it is finished."""

    tenure: Tenure
    offset: int
    next_offset: int  # position to commit; offset + 1 in Kafka, the byte after the line in a file
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_seconds: float | None = None  # the broker's or producer's clock; for metrics only


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought. To be handled in this order: ended, begun, records."""

    records: tuple[Record, ...] = ()
    ended: tuple[Tenure, ...] = ()
    begun: tuple[Tenure, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class EditEvent:
    """A user edited a text that a model proposed. Exactly one of `prompt` and `messages` is set."""

    event_id: str
    user_id: str
    occurred_at: datetime  # never decides order, erasure or retention
    prompt: str | None
    messages: tuple[Message, ...] | None
    proposed: str
    edited: str
    adapter_version: int | None = None  # the version that produced `proposed`; 0 is the base model
    truncated: bool = False  # `proposed` stopped at its length limit

    @property
    def is_acceptance(self) -> bool:
        return self.proposed == self.edited

    @property
    def chars(self) -> int:
        context = len(self.prompt or "") + sum(len(m.content) for m in self.messages or ())
        return context + len(self.proposed) + len(self.edited)


@dataclass(frozen=True, slots=True)
class EraseEvent:
    """A user asks to be forgotten."""

    event_id: str
    user_id: str
    occurred_at: datetime | None  # a Kafka tombstone has no time of its own


@dataclass(frozen=True, slots=True)
class Arrival:
    """A validated event with the record it came in: the payload travels with the position to commit."""

    uid: str  # the user's pseudonym
    event: EditEvent | EraseEvent
    record: Record
    arrived_at: float  # seconds on the daemon's monotonic clock

    @property
    def chars(self) -> int:
        return self.event.chars if isinstance(self.event, EditEvent) else 0


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One user's arrivals, flushed together, in order. An erasure covers all before it."""

    uid: str
    arrivals: tuple[Arrival, ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record set aside, with why. `uid` is the pseudonym where the user is known."""

    record: Record
    error: InvalidEvent
    uid: str | None


class Adapter(Protocol):
    """One user's LoRA tensors and optimizer state, opaque outside `learning` and `state` (host memory)."""

    @property
    def optimizer_step(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """What the learner is given: one user's adapter (None: a new user) and edits, in order."""

    uid: str
    adapter: Adapter | None
    events: tuple[EditEvent, ...]


class PairStatus(StrEnum):
    APPLIED = "applied"
    ACCEPTANCE = "acceptance"  # proposed == edited
    NO_DIFFERENCE = "no_difference"  # texts differ, token ids do not
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """What became of one event. Figures are prequential: from before the event was trained on.

    margin: h against the reference `base`, in nats; None where the pair was never scored.
    base_margin: log pi_base(edited|x) - log pi_base(proposed|x), in nats: what the base model itself prefers.
    scored_by_trained: False where the adapter had taken no step yet (its margin says nothing).
    delta_chosen_logp: change of log pi(edited tail) by the step, in nats; None where no step was measured.
    """

    status: PairStatus
    reason: RejectReason | None = None
    margin: float | None = None
    base_margin: float | None = None
    scored_by_trained: bool = False
    delta_chosen_logp: float | None = None


@dataclass(frozen=True, slots=True)
class UpdateOutcome:
    """One user's part of `update(batches) -> outcomes`.

    adapter: the tensors after the update; the very object that was given where nothing was trained.
    pairs: one for each event of the batch, in order.
    drift_nats: the guard's last measure, mean |log pi_after - log pi_before| per tail token.
    plain_text_drop_nats: by how much the adapter makes the rehearsed passages less likely than the base model does, per
        token: mean over the steps, each as it began. None where nothing was rehearsed.
    saturated_share: share of the scored pairs with sigma(-beta h) < 0.1.
    """

    uid: str
    adapter: Adapter | None
    trained: bool
    pairs: tuple[PairOutcome, ...]
    steps: int = 0
    loss: float | None = None
    gradient_norm: float | None = None
    drift_nats: float | None = None
    plain_text_drop_nats: float | None = None
    saturated_share: float | None = None


@dataclass(frozen=True, slots=True)
class DraftFigures:
    """User effort over some drafts, and how much the drafts repeat themselves."""

    events: int = 0
    acceptances: int = 0
    edit_ratio_sum: float = 0.0  # normalised edit distance between proposed and edited, summed
    repetition_sum: float = 0.0  # share of repeated words in proposed, summed


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures that decide: counted exactly once, since they are stored with the tensors that they describe."""

    events: int = 0
    pairs_applied: int = 0
    acceptances: int = 0
    no_difference: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)  # by RejectReason
    updates: int = 0  # micro-batches that trained
    prequential_pairs: int = 0  # scored by a trained adapter
    prequential_correct: float = 0.0  # ties count one half
    prequential_margin_sum: float = 0.0
    base_pairs: int = 0
    base_correct: float = 0.0  # the base model's own preference, the control
    drafts: Mapping[str, DraftFigures] = field(default_factory=dict)  # by producing version, or "unknown"
    first_drafts: DraftFigures = DraftFigures()  # this user's own past, which later drafts are compared with


@dataclass(frozen=True, slots=True)
class Release:
    """What the manifest of a version says; frozen into the state when the version was made."""

    version: int
    parent: int | None  # the version before; None for the first one, also the first after an erasure
    applied: Mapping[str, int]
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class UserState:
    """Everything durable about one user. `adapter` is None for a user without a step, and after an erasure."""

    uid: str
    version: int = 0  # newest version; only ever increases, also through an erasure
    adapter: Adapter | None = None
    applied: Mapping[str, int] = field(default_factory=dict)  # next offset by SourcePartition.key
    recent_event_ids: tuple[str, ...] = ()  # oldest first
    statistics: Statistics = field(default_factory=Statistics)
    release: Release | None = None  # None: nothing is to be published
    erased: bool = False  # a tombstone: nothing of before is left
    erased_through: int = 0  # versions up to this one belong to what was erased: none of them may be out


@dataclass(frozen=True, slots=True)
class Head:
    """The newest durable state of a user, as far as an announcement needs it."""

    version: int
    erased: bool
    erased_through: int = 0


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An immutable release at the primary target."""

    uid: str
    version: int
    location: str  # folder or URL that an engine can load
    digest: str  # SHA-256 of adapter_model.safetensors, hex


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What an adapter belongs to.

    name: `base_model_name_or_path` exactly as served. revision: hub commit, or a digest of a local model's config.
    fingerprint: names base model, revision and adapter shape; another one can't use the same store.
    """

    name: str
    revision: str
    fingerprint: str
    supports_messages: bool  # the tokenizer has a chat template


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens that went through the base model. padding: those of them that were computed for nothing."""

    computed: int
    padding: int


class Stage(StrEnum):
    """What may be waited for; a closed set (metric label)."""

    INPUT = "input"
    MODEL = "model"
    STATE = "state"
    PUBLISHING = "publishing"
    DEAD_LETTERS = "dead_letters"


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """Where a live partition stands.

    lag: the input's end minus the committed offset: records (Kafka), bytes (a file). None where the end is not known.
    low_watermark_age_seconds: since the oldest unfinished record was read; 0 with none.
    """

    lag: int | None
    low_watermark_age_seconds: float


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """What the loop says of itself, about once a second, also while it stops.

    now: seconds on the daemon's monotonic clock.
    waiting_for: stages that keep the daemon from being ready; empty where nothing does.
    stopping: what has begun is being finished, nothing new is started.
    buffered_events, buffered_chars: waiting and in flight.
    reading_paused: by back-pressure.
    partitions: the live ones, by number.
    training: a call of the learner is under way.
    trainer_progress: `Learner.progress`. computed_tokens, padding_tokens: `Learner.tokens`.
    host_memory_users, host_memory_bytes: states kept in host memory.
    unsaved_users: with updates that are not durable and visible yet; unsaved_age_seconds: of the oldest, 0 with none.
    """

    now: float
    waiting_for: tuple[Stage, ...]
    stopping: bool
    buffered_events: int
    buffered_chars: int
    reading_paused: bool
    partitions: Mapping[int, PartitionStatus]
    training: bool
    trainer_progress: int
    computed_tokens: int
    padding_tokens: int
    host_memory_users: int
    host_memory_bytes: int
    unsaved_users: int
    unsaved_age_seconds: float


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Whom a state store belongs to (`store.json`)."""

    secret_fingerprint: str
    cluster_id: str  # Kafka's cluster id, or "jsonl"
    group: str
    base_model: str
    base_revision: str
    adapter_fingerprint: str
