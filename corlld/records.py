"""Frozen values that pass from stage to stage. Standard library only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from corlld.errors import InvalidEvent, RejectReason


@dataclass(frozen=True, slots=True)
class SourcePartition:
    """An ordered part of the input: a Kafka partition, or a JSONL file with those that followed it (partition 0)."""

    topic: str
    topic_id: str  # Kafka's topic id, or the file's identity; a recreated topic has a new id
    partition: int

    @property
    def key(self) -> str:
        """The name under which states keep `applied`: `topic_id/partition`."""
        return f"{self.topic_id}/{self.partition}"

    def place(self, offset: int) -> str:
        """Name a record for people: TOPIC-PARTITION-OFFSET, as `corlld dead-letters show` takes it."""
        return f"{self.topic}-{self.partition}-{offset}"


@dataclass(frozen=True, slots=True)
class Tenure:
    """One unbroken assignment of a partition to this process. A partition that comes back begins a new tenure."""

    partition: SourcePartition
    number: int  # unique in this process, increasing
    start_offset: int  # where reading began: the committed offset


@dataclass(frozen=True, slots=True)
class Record:
    """A record as a source delivered it, with the position to commit once it is finished."""

    tenure: Tenure
    offset: int
    next_offset: int  # position to commit; offset + 1 in Kafka, the byte after the line in a file
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_seconds: float | None = None  # the broker's or producer's clock; for metrics only


@dataclass(frozen=True, slots=True)
class CommittedRecords:
    """Records that a group has committed.

    name: what states call the topic. steps: offsets that are read. beginnings: up to where offsets are gone, by
    retention or by compaction, but for what is not committed; for each partition of which something is read or gone.
    records: partition by partition, in order. committed: what the group has committed, by partition. ends: where
    readers stop now, for each partition that was asked for and holds records. others: the same for all others.
    """

    name: str
    steps: int
    beginnings: Mapping[int, int]
    records: Iterator[Record]
    committed: Mapping[int, int]
    ends: Mapping[int, int]
    others: Mapping[int, int] = field(default_factory=dict)

    def behind(self, ends: Mapping[int, int]) -> Mapping[int, int]:
        """Return how many offsets before these ends are not committed, for each partition that has such offsets."""
        missing = {partition: end - self.committed.get(partition, 0) for partition, end in ends.items()}
        return {partition: offsets for partition, offsets in sorted(missing.items()) if offsets > 0}


class DuplicateReason(StrEnum):
    """How it is known that an event was applied before."""

    OFFSET = "offset"  # the user's state has passed its offset: it was read once more
    EVENT_ID = "event_id"  # the state knows its id; or a repair sent it, and the user was erased since


@dataclass(frozen=True, slots=True)
class Polled:
    """The result of one poll. To be handled in this order: ended, begun, records."""

    records: tuple[Record, ...] = ()
    ended: tuple[Tenure, ...] = ()
    begun: tuple[Tenure, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a chat. JSON stays text here: it is hashable, and its size is known."""

    role: str
    content: str
    fields: str = ""  # what engines pass on beside role and content, as a JSON object: see `events/messages.py`
    extra: str = ""  # fields that not all engines pass on, as a JSON object

    @property
    def chars(self) -> int:
        return len(self.content) + len(self.fields)  # no template that reads `extra` is rendered


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
    tools: str | None = None  # the functions that the model could call, a JSON list; only with `messages`
    chat_template_kwargs: str | None = None  # arguments of the chat template, a JSON object; only with `messages`

    @property
    def is_acceptance(self) -> bool:
        return self.proposed == self.edited

    @property
    def chars(self) -> int:
        texts = (self.prompt, self.tools, self.chat_template_kwargs, self.proposed, self.edited)
        return sum(len(text or "") for text in texts) + sum(message.chars for message in self.messages or ())


@dataclass(frozen=True, slots=True)
class EraseEvent:
    """A user asks to be forgotten."""

    event_id: str
    user_id: str
    occurred_at: datetime | None  # a Kafka tombstone has no time of its own


@dataclass(frozen=True, slots=True)
class Arrival:
    """A validated event with the record that it came in, so that it travels with the position to commit."""

    uid: str  # the user's pseudonym
    event: EditEvent | EraseEvent
    record: Record
    arrived_at: float  # seconds on the daemon's monotonic clock

    @property
    def chars(self) -> int:
        return self.event.chars if isinstance(self.event, EditEvent) else 0


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Arrivals of one user that are flushed together, in order. An erasure covers all arrivals before it."""

    uid: str
    arrivals: tuple[Arrival, ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was set aside, and the reason."""

    record: Record
    error: InvalidEvent
    uid: str | None  # the user's pseudonym; None if the user is not known


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter as it is read back from its topic or file. Only its record's own bytes can hold a user's text.

    has_payload: False if the letter was stored without the record's own bytes, or they were too large for the topic.
        Then `record_key`, `record_value` and `record_headers` are empty.
    """

    key: str  # uid/topic-id/partition/offset: each copy of a letter has the same key
    uid: str | None  # the user's pseudonym; None if the user was not known
    partition: SourcePartition  # of the record
    offset: int  # of the record
    reason: str  # an `InvalidReason`, perhaps of another version of corlld
    headers: Mapping[str, str]  # corlld's own
    has_payload: bool
    record_key: bytes | None = None
    record_value: bytes | None = None
    record_headers: tuple[tuple[str, bytes], ...] = ()
    stored_at: float | None = None  # seconds since 1970, by the broker's clock; None in a file


@dataclass(frozen=True, slots=True)
class LetterStream:
    """Dead letters from the first one to those that were there at the start.

    letters: yields how many steps were taken, and the letter. None: what is there is no letter of corlld.
    """

    place: str  # topic or file, for messages
    steps: int  # until the end
    unit: str  # of steps, in the plural
    letters: Iterator[tuple[int, StoredLetter | None]]


class Adapter(Protocol):
    """One user's LoRA tensors and optimizer state, in host memory. Opaque outside `learning` and `state`."""

    @property
    def optimizer_step(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def start(self) -> str | None:
        """The digest of the start adapter that the user began from; None if from nothing."""


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """The learner's input for one user: the adapter and the new edits, in order."""

    uid: str
    adapter: Adapter | None  # None for a new user
    events: tuple[EditEvent, ...]
    arm: str = "default"  # whose rule teaches the user


class PairStatus(StrEnum):
    APPLIED = "applied"
    ACCEPTANCE = "acceptance"  # proposed == edited
    NO_DIFFERENCE = "no_difference"  # texts differ, token ids do not
    REJECTED = "rejected"
    HELD_OUT = "held_out"  # counted only: the user is in an arm that learns nothing


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """The outcome of one event. Its figures are prequential: they were taken before the event was trained on."""

    status: PairStatus
    reason: RejectReason | None = None
    margin: float | None = None  # h against the reference `base`, in nats; None if the pair was never scored
    base_margin: float | None = None  # log pi_base(edited|x) - log pi_base(proposed|x), in nats: the base's preference
    scored_by_trained: bool = False  # False: the adapter had taken no step yet, so its margin says nothing
    edited_rise: float | None = None  # of log pi(edited tail) over the base model, in nats per token; None with margin
    delta_chosen_logp: float | None = None  # change of log pi(edited tail) by the step, in nats; None: not measured


@dataclass(frozen=True, slots=True)
class UpdateOutcome:
    """The learner's result for one user.

    plain_text_drop_nats: how much less likely the adapter makes the rehearsed passages than the base model does, in
        nats per token. It is the mean over the steps, measured as each step began. None if nothing was rehearsed.
    """

    uid: str
    adapter: Adapter | None  # after the update; the very object that was given if nothing was trained
    trained: bool
    pairs: tuple[PairOutcome, ...]  # one per event of the batch, in order
    steps: int = 0
    loss: float | None = None
    gradient_norm: float | None = None
    drift_nats: float | None = None  # the guard's last measure: mean |log pi_after - log pi_before| per tail token
    plain_text_drop_nats: float | None = None
    saturated_share: float | None = None  # of the scored pairs: the share with sigma(-beta h) < 0.1


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens that went through the base model. padding: those of them that were computed for nothing."""

    computed: int
    padding: int


class Stage(StrEnum):
    """A part of the daemon that may be waited for; a closed set (metric label)."""

    INPUT = "input"
    MODEL = "model"
    STATE = "state"
    PUBLISHING = "publishing"
    DEAD_LETTERS = "dead_letters"
    VALID_RECORDS = "valid_records"  # a partition is paused: too many of its records are invalid
    LOW_WATERMARK = "low_watermark"  # a partition is paused: too many finished records wait behind an unfinished one


@dataclass(frozen=True, slots=True)
class Unannounced:
    """Users whose newest version, or erasure, the topic of announcements has not acknowledged."""

    users: int = 0
    age_seconds: float = 0.0  # of the longest waiting; 0 with none


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """The position of a live partition."""

    lag: int | None  # the input's end - the committed offset: records (Kafka) or bytes (file); None: end not known
    low_watermark_age_seconds: float  # since the oldest unfinished record was read; 0 with none


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """The loop's report about itself, about once a second, also while it stops."""

    now: float  # seconds on the daemon's monotonic clock
    waiting_for: tuple[Stage, ...]  # stages that keep the daemon from being ready; empty if it is ready
    stopping: bool  # work under way is being finished, and nothing new is started
    buffered_events: int  # waiting and in flight
    buffered_chars: int  # waiting and in flight
    reading_paused: bool  # by back-pressure
    paused_partitions: Mapping[Stage, int]  # partitions that are paused for themselves, by what they wait for
    partitions: Mapping[int, PartitionStatus]  # the live partitions, by number
    training: bool  # a call of the learner is under way
    trainer_progress: int  # `Learner.progress`
    longest_call_seconds: float  # of the calls of store and publisher that are under way; 0 with none
    computed_tokens: int  # from `Learner.tokens`
    padding_tokens: int  # from `Learner.tokens`
    host_memory_users: int  # users whose states are kept in host memory
    host_memory_bytes: int  # of those states
    unsaved_users: int  # users with updates that are not durable and visible yet
    unsaved_age_seconds: float  # of the oldest such update; 0 with none
    unannounced: Unannounced
    users_aside: int  # users whose state or version can't be used: their records become dead letters
