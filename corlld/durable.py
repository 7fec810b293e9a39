"""Frozen values that are kept: a user's state, its figures, its versions, and whose store it is.

Standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from corlld.records import Adapter


@dataclass(frozen=True, slots=True)
class DraftFigures:
    """The user's effort over some drafts, and how much the drafts repeat themselves."""

    events: int = 0
    acceptances: int = 0
    edit_ratio_sum: float = 0.0  # normalised edit distance between proposed and edited, summed
    repetition_sum: float = 0.0  # share of repeated words in proposed, summed


@dataclass(frozen=True, slots=True)
class EditedRise:
    """How much more likely than the base model the user's adapter makes edited texts, before it learns from them.

    pairs: scored by an adapter that had taken a step. nats_sum: of each pair's mean per token of its edited tail. So
    each edit counts alike, however long its tail is.
    """

    pairs: int = 0
    nats_sum: float = 0.0


@dataclass(frozen=True, slots=True)
class BaseDraftPairs:
    """Pairs that were scored by a trained adapter before it learnt from them, and whose draft the base model wrote.

    An adapter prefers drafts of its own, whatever it knows. On these pairs it can show what it knows of the user.
    """

    pairs: int = 0
    correct: float = 0.0  # ties count one half


@dataclass(frozen=True, slots=True)
class Statistics:
    """A user's figures. Each event counts exactly once, since they are stored with the tensors that they describe."""

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
    first_drafts: DraftFigures = DraftFigures()  # the user's first drafts, which later drafts are compared with
    edited_rise: EditedRise = EditedRise()
    base_draft_pairs: BaseDraftPairs = BaseDraftPairs()


@dataclass(frozen=True, slots=True)
class Participation:
    """A user's part in the experiment of arms, from the user's first event on.

    arm: name of the user's arm. It stays, whatever becomes of the settings.
    terms: digest of the arm's rule when the user joined.
    outcome: figures of the drafts after the first ones, up to the number that the settings ask for. Frozen then.
    completed_at: unix time at which the daemon had counted that many drafts; None before.
    plain_text_drop_sum: of the updates that rehearsed plain text, in nats per token.
    rehearsed_updates: number of those updates.
    """

    arm: str
    terms: str
    outcome: DraftFigures = DraftFigures()
    completed_at: float | None = None
    plain_text_drop_sum: float = 0.0
    rehearsed_updates: int = 0


@dataclass(frozen=True, slots=True)
class ModuleNames:
    """The beginning of modules' paths, which is another one in the loaded model than in the model that engines serve.

    loaded: path of the decoder in the class that was loaded, such as `model`.
    published: its path in the served class, such as `model.language_model`.
    """

    loaded: str
    published: str


@dataclass(frozen=True, slots=True)
class Release:
    """The content of a version's manifest, frozen into the state when the version was made."""

    version: int
    parent: int | None  # the version before; None for the first version, also for the first after an erasure
    applied: Mapping[str, int]
    statistics: Statistics
    module_names: ModuleNames | None = None  # None: it is published with the loaded model's own paths


@dataclass(frozen=True, slots=True)
class AdapterHeader:
    """An adapter whose tensors were not read. Nothing can be stored or learnt with it.

    start: the digest of the start adapter that the user began from; None if from nothing.
    """

    optimizer_step: int
    start: str | None = None
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class UserState:
    """Everything durable about one user."""

    uid: str
    version: int = 0  # newest version; only ever increases, also through an erasure
    adapter: Adapter | None = None  # None for a user without a step, and after an erasure
    applied: Mapping[str, int] = field(default_factory=dict)  # next offset by SourcePartition.key
    recent_event_ids: tuple[str, ...] = ()  # oldest first
    older_event_ids: bytes = b""  # keyed hashes of the ids before those, and of all erased ids; see `loop/event_ids`
    statistics: Statistics = field(default_factory=Statistics)
    release: Release | None = None  # None: there is nothing to publish
    erased: bool = False  # a tombstone: nothing from before the erasure is left
    erased_through: int = 0  # versions up to this number were erased: none of them may be out
    participation: Participation | None = None  # None: no experiment, or the user was there before it
    repair: str | None = None  # the ids of the repairs that this state came of since the last erasure, blanks between

    def came_of(self, repair: str | None) -> bool:
        """Return whether the state came of the repair with this id, with no erasure since. None: of no repair."""
        return repair in (self.repair or "").split()

    @property
    def arm(self) -> str | None:
        """The name of the user's arm; None for a user in no arm."""
        return None if self.participation is None else self.participation.arm


@dataclass(frozen=True, slots=True)
class Head:
    """The part of a user's newest durable state that an announcement needs."""

    version: int
    erased: bool
    erased_through: int = 0


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An immutable release at the primary target."""

    uid: str
    version: int
    location: str  # the folder or URL that an engine can load
    digest: str  # SHA-256 of adapter_model.safetensors, hex


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The base model that an adapter belongs to."""

    name: str  # `base_model_name_or_path` exactly as served
    revision: str  # hub commit, or a digest of a local model's config
    fingerprint: str  # of base model, revision and adapter shape; another fingerprint can't use the same store
    supports_messages: bool  # the tokenizer has a chat template
    module_names: ModuleNames | None = None  # of new versions; None: the loaded model's own paths


@dataclass(frozen=True, slots=True)
class Attempts:
    """What is kept of a partition's steps and dead letters. It has no text, and no name of a user.

    tried_below: no step has begun with an event at this offset or above.
    committed: the committed offset when this was saved.
    tries: by offset, how many steps with the event have begun and were never seen to end.
    letters: offsets, not committed yet, whose dead letters are acknowledged.
    crashed: keyed hashes of the ids of events that became dead letters since they ended the process; oldest first.
    paused: reading is paused, since too many records are invalid.
    """

    tried_below: int = 0
    committed: int = 0
    tries: Mapping[int, int] = field(default_factory=dict)
    letters: frozenset[int] = frozenset()
    crashed: tuple[bytes, ...] = ()
    paused: bool = False


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """The owner of a state store, as `store.json` names it."""

    secret_fingerprint: str
    cluster_id: str  # Kafka's cluster id, or "jsonl"
    group: str
    base_model: str
    base_revision: str
    adapter_fingerprint: str
    start_adapter: str | None = None  # digest of the start adapter of new users; the only part that may change


@dataclass(frozen=True, slots=True)
class OutboxNote:
    """Users whose newest version, or erasure, is still to be announced."""

    since: float  # unix seconds: since when the longest waiting of them is
    uids: tuple[str, ...]
