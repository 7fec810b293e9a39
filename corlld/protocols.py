"""The seams between the daemon's loop and its parts. The loop sees these protocols, never an implementation."""

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from corlld.durable import AdapterVersion, Attempts, Head, ModelInfo, StoreIdentity, UserState
from corlld.records import (
    CommittedRecords,
    DeadLetter,
    LetterStream,
    Polled,
    Record,
    Tenure,
    TokenCounts,
    TrainingBatch,
    Unannounced,
    UpdateOutcome,
)


class PositionStore(Protocol):
    """Keeps how far an input was read that keeps no commits itself (a file), and what else outlasts commits.

    That is the names of topics without an id, and where a group began to read a topic.

    Positions lie beside the states, as `positions/<name>.json` of the local folder or of the bucket, so that both are
    restored together: the store of states implements this protocol too.
    """

    def load_position(self, name: str) -> Mapping[str, str | int] | None:
        """Return what was saved last under a name that the source chose ([0-9a-f]+); None if there is nothing.

        Raises FatalError if it is corrupt, RetriableError.
        """

    def save_position(self, name: str, position: Mapping[str, str | int]) -> None:
        """Durably replace what is saved under this name. Raises RetriableError."""

    def has_applied(self, topic: str) -> bool:
        """Return whether a state names this topic in `applied`. topic: a `SourcePartition.topic_id`.

        Looks at the first states alone. A topic that only a few users had a part in may be missed.

        Raises RetriableError.
        """


class AttemptStore(Protocol):
    """Keeps what was tried of each partition, beside the states, so that whoever owns it next finds it. Thread-safe."""

    def load_attempts(self, partition: str) -> Attempts | None:
        """Return what was saved last for a partition (`SourcePartition.key`); None if there is nothing.

        Raises AttemptsUnreadable if it is corrupt, or damaged on the disk; RetriableError.
        """

    def save_attempts(self, partition: str, attempts: Attempts) -> None:
        """Durably replace what is saved for this partition. Raises RetriableError."""


class Source(Protocol):
    """Delivers records. Every method is called from the loop's thread and returns promptly."""

    @property
    def cluster_id(self) -> str:
        """Names the cluster (for a file: "jsonl") in `StoreIdentity`. Known after `start`."""

    @property
    def exhausted(self) -> bool:
        """True once a finite source has been read to its end. A topic never is."""

    @property
    def healthy(self) -> bool:
        """False while the input can't be reached (readiness, not liveness)."""

    def start(self, timeout_seconds: float) -> None:
        """Reach the input and check that it is what the settings name.

        Raises UnavailableError after `timeout_seconds`, ConfigurationError or FatalError if waiting can't help.
        """

    def has_commits(self) -> bool:
        """Return True if the group has committed before: then its state store must exist. Callable after `start`."""

    def poll(self, timeout_seconds: float) -> Polled:
        """Return changes of assignment, and records of live tenures: none after the end of a tenure.

        A poll that begins a tenure brings no record of it, so that it can be paused first.

        Raises FatalError if going on would skip records silently (topic recreated, offsets out of range, file
        replaced). An input that went away is no error: `poll` returns an empty `Polled`, and `healthy` is False.
        """

    def positions(self) -> Mapping[Tenure, int]:
        """Return for each live tenure the offset that `poll` reads next. No I/O."""

    def ends(self) -> Mapping[Tenure, int]:
        """Return for each live tenure the end of its input, as last seen (a few seconds ago at most). No I/O.

        An unknown end is left out. Ends move on while reading is paused.
        """

    def pause_only(self, tenures: Collection[Tenure]) -> None:
        """Deliver no records of these tenures, while polling (and so heartbeats) goes on. Deliver those of all others.

        It replaces the call before: a tenure that is not named any more is delivered again, from where it stopped.
        """

    def commit(self, next_offsets: Mapping[Tenure, int]) -> bool:
        """Begin a commit. Return False, with nothing done, while another one is outstanding. Skips ended tenures."""

    def committed(self) -> Mapping[Tenure, int]:
        """Return for each live tenure the last offset that is known to be committed. No I/O."""

    def close(self, next_offsets: Mapping[Tenure, int], timeout_seconds: float) -> None:
        """Commit for the last time, leave the group (a static member stays in it) and release everything."""


class DeadLetters(Protocol):
    """Sets records aside that can't be applied. Called from the loop's thread, which `send` never holds up."""

    @property
    def problem(self) -> str | None:
        """A sentence on why letters can't be sent now, if that is known without sending one. No I/O."""

    def send(self, letter: DeadLetter) -> "Future[None]":
        """Send a letter. The future is done once it is acknowledged.

        RetriableError as its exception means: send it again.
        """

    def close(self, timeout_seconds: float) -> None:
        """Wait for letters under way. What is not acknowledged within `timeout_seconds` has failed."""


class Input(Protocol):
    """One kind of input, made from the settings. It reaches nothing until a method is called that says so.

    A new kind is one folder below `corlld/sources`, one section of settings (and its name in `source.kind`), and one
    line in `corlld.assembly`. It passes tests/contract/test_inputs.py and test_sources.py.

    The loop compares and stores offsets: they are integers that increase within a partition. An input with other
    positions (Redis streams have `1712-0`) encodes them as integers; that is the duty of its `Source`.
    """

    @property
    def kind(self) -> str:
        """Return the value of `source.kind` that names this input."""

    @property
    def has_keys(self) -> bool:
        """True if each record must carry its user's id as its key, so that one partition holds all of a user."""

    @property
    def group(self) -> str:
        """Names the readers that share commits. `store.json` keeps it: a store belongs to one group."""

    @property
    def servers(self) -> tuple[str, ...]:
        """`host:port` of what records and dead letters need; empty for files. If it is away, both are."""

    def problems(self) -> Mapping[str, str]:
        """Return what the settings lack for this input: a sentence by the setting's dotted name. Reaches nothing.

        The other methods may be called if there is none.
        """

    def source(self, positions: PositionStore) -> Source:
        """Return the source of records, not started. `positions`: for a source whose input keeps no commits."""

    def describe(self, source: Source) -> str:
        """Return what `corlld check` says of the input, once `source` was started.

        Raises FatalError if its records could not be read.
        """

    def dead_letters(self, timeout_seconds: float) -> DeadLetters:
        """Return where records are set aside, reached.

        Raises UnavailableError after `timeout_seconds`, ConfigurationError if waiting can't help.
        """

    def check_dead_letters(self, timeout_seconds: float) -> str:
        """Check that dead letters can be sent. Sends and makes nothing. Returns their place, for `corlld check`.

        Raises FatalError (the errors of `dead_letters` among them).
        """

    @property
    def can_be_sent_to(self) -> bool:
        """True if `corlld send` reaches this input. A file belongs to the program that writes it."""

    def stored_letters(
        self, since_seconds: float | None, timeout_seconds: float
    ) -> AbstractContextManager[LetterStream]:
        """Open the dead letters that are there now. Joins no group, locks and commits nothing.

        since_seconds: skip letters that were stored before this time, in seconds since 1970.

        Raises UnavailableError after `timeout_seconds`, ConfigurationError if waiting can't help, and FatalError if
        what is there can't be read, or has no times to look for. Reading the letters raises the same.
        """

    @property
    def grows(self) -> bool:
        """False if the input ends, so that waiting for better records can't help."""

    def newest_records(
        self, limit: int, timeout_seconds: float, partition: int | None = None
    ) -> Generator[Record, None, None]:
        """Yield the last `limit` records, or all if there are fewer. Joins no group, locks and commits nothing.

        partition: its number; None for all partitions.

        Ends after `timeout_seconds`, if it waits for servers. Raises UnavailableError, ConfigurationError.
        """

    def committed_records(
        self, starts: Mapping[str, int], positions: PositionStore, timeout_seconds: float
    ) -> AbstractContextManager[CommittedRecords]:
        """Open the records from these offsets on, by `SourcePartition.key`, up to what is committed.

        Raises FatalError if they can't be read, or if this kind of input can't be read again.
        """


class Announcements(Protocol):
    """Announces each user's newest version: a compacted topic, keyed by uid. Thread-safe."""

    @property
    def problem(self) -> str | None:
        """A sentence on why nothing can be announced now, if that is known without sending. No I/O."""

    def describe(self) -> str:
        """Return what `corlld check` says of the topic.

        Raises FatalError if nothing can be announced.
        """

    def send(self, uid: str, value: bytes | None) -> "Future[None]":
        """Announce `value`; None withdraws the user. The future is done once it is acknowledged.

        RetriableError as its exception means: send it again; TooLargeForTopic: the topic will never take it.
        """

    def close(self, timeout_seconds: float) -> None:
        """Wait for announcements under way. What is not acknowledged within `timeout_seconds` has failed."""


class Learner(Protocol):
    """Learns edits into adapters. `update` is called from the trainer's thread only."""

    @property
    def model_info(self) -> ModelInfo: ...

    @property
    def progress(self) -> int:
        """A count that grows with every piece of work inside `update`: a stuck call can be told from a long one.

        Read from the loop's thread while `update` runs.
        """

    @property
    def tokens(self) -> TokenCounts:
        """Tokens that went through the base model so far. Read from the loop's thread."""

    def update(self, batches: Sequence[TrainingBatch]) -> list[UpdateOutcome]:
        """Return one outcome per batch, in order. Changes nothing but the tensors of the users named (I4).

        Never raises for a bad pair: its `PairOutcome` is a rejected one.
        """


class StateStore(Protocol):
    """Stores one state per user, by compare-and-swap. Thread-safe; the caller makes one call per user at a time."""

    def open(self, identity: StoreIdentity, *, must_exist: bool) -> None:
        """Create `store.json`, or compare it with `identity`.

        Raises ConfigurationError if they differ (it names what differs), or if there is none and it `must_exist`;
        NewerFormat.
        """

    def secret_fingerprint(self) -> str | None:
        """Return the fingerprint of the secret behind the users' pseudonyms; None if there is no `store.json`.

        Changes nothing. Raises FatalError if `store.json` can't be read.
        """

    def load(self, uid: str) -> tuple[UserState | None, str]:
        """Return the newest state (None if there never was one), and the token for the next `save`.

        Raises StateUnreadable (torn, wrong checksum, wrong uid), NewerFormat for a whole state of a newer corlld,
        RetriableError.
        """

    def save(self, uid: str, state: UserState, token: str) -> str:
        """Durably replace the state that `token` stands for. Return the new token.

        Raises LostSwap if another state is newer, RetriableError if it has to be tried again.
        """

    def head(self, uid: str) -> Head | None:
        """Return version and erasure of the newest state, read without its tensors; None if there is no state."""

    def uids(self) -> Iterator[str]:
        """Yield every user that has a state or a tombstone."""


class Publisher(Protocol):
    """Makes durable states visible. Thread-safe for different users; idempotent."""

    @property
    def problem(self) -> str | None:
        """A sentence on why versions can't be announced now, if that is known without trying. No I/O."""

    @property
    def must_note(self) -> bool:
        """True if a user was published or withdrawn, and is neither announced nor noted. No I/O."""

    @property
    def unnoted_partitions(self) -> Collection[str]:
        """Keys of such users' partitions. A crash after a commit there loses an announcement that is not noted."""

    def note_unannounced(self) -> None:
        """Durably note who is not announced: after a restart they are, without an event of theirs.

        Raises RetriableError.
        """

    @property
    def unannounced(self) -> Unannounced:
        """Return how many users are not announced, and for how long. No I/O."""

    def publish(self, state: UserState) -> AdapterVersion | None:
        """Put the state's release out at the primary target, prune old versions, announce. None: nothing to publish.

        Raises RetriableError; PublicationFailed if the version is already there with other content.
        """

    def newest(self, uid: str) -> int:
        """The newest version that is out, or partly out; 0 for none. Raises RetriableError."""

    def withdraw(self, state: UserState) -> None:
        """Remove every published version of a user whose state is a tombstone. Raises RetriableError."""

    def close(self, timeout_seconds: float) -> None: ...
