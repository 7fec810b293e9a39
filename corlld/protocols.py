"""The seams between the daemon's loop and its parts. The loop sees these, never an implementation."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from corlld.records import (
    AdapterVersion,
    DeadLetter,
    Head,
    ModelInfo,
    Polled,
    StoreIdentity,
    Tenure,
    TokenCounts,
    TrainingBatch,
    UpdateOutcome,
    UserState,
)


class Source(Protocol):
    """Where records come from. Every method is called from the loop's thread and returns promptly."""

    @property
    def cluster_id(self) -> str:
        """Names the cluster (or "jsonl") for `StoreIdentity`; known after `start`."""

    @property
    def exhausted(self) -> bool:
        """True once a finite source has been read to its end. A topic never is."""

    @property
    def healthy(self) -> bool:
        """False while the input can't be reached (readiness, not liveness)."""

    def start(self, timeout_seconds: float) -> None:
        """Reach the input and check that it is what the settings name.

        Raises UnavailableError after `timeout_seconds`, ConfigurationError or FatalError where waiting can't help.
        """

    def has_commits(self) -> bool:
        """Whether the group committed before: then its state store must exist. Callable after `start`."""

    def poll(self, timeout_seconds: float) -> Polled:
        """Changes of assignment and records of live tenures. Records of an ended tenure never appear after it ended.

        Raises FatalError where going on would skip records silently (topic recreated, offsets out of range, file
        replaced). An input that went away is not an error here: an empty `Polled`, and `healthy` is False.
        """

    def positions(self) -> Mapping[Tenure, int]:
        """For each live tenure the next offset that `poll` would deliver from. No I/O."""

    def ends(self) -> Mapping[Tenure, int]:
        """For each live tenure the input's end as it was last seen, a few seconds ago at most. No I/O.

        Unknown ones are left out. It goes on while reading is paused; an input that went away leaves the last answer.
        """

    def pause(self) -> None:
        """Deliver no records until `resume`, while polling (and so heartbeats) goes on. Idempotent."""

    def resume(self) -> None: ...

    def commit(self, next_offsets: Mapping[Tenure, int]) -> bool:
        """Begin a commit. False, and nothing done, while another is outstanding. Ended tenures are left out.

        A failure shows as unchanged `committed()`; the caller simply commits again.
        """

    def committed(self) -> Mapping[Tenure, int]:
        """The last offset known to be committed for each live tenure."""

    def close(self, next_offsets: Mapping[Tenure, int], timeout_seconds: float) -> None:
        """Commit for the last time, leave the group (a static member stays) and let go of everything."""


class DeadLetters(Protocol):
    """Where records that can't be applied are set aside."""

    def send(self, letter: DeadLetter) -> "Future[None]":
        """Done once the letter is acknowledged; RetriableError as its exception where it must be sent again."""

    def close(self, timeout_seconds: float) -> None: ...


class Announcements(Protocol):
    """A compacted topic, keyed by uid, that names each user's newest version."""

    def send(self, uid: str, value: bytes | None) -> "Future[None]":
        """`value` None withdraws the user. Done once acknowledged."""

    def close(self, timeout_seconds: float) -> None: ...


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
    """One state a user, by compare-and-swap. Thread-safe; the caller keeps to one call at a time for a user."""

    def open(self, identity: StoreIdentity, *, must_exist: bool) -> None:
        """Create or verify `store.json`.

        Raises ConfigurationError on a mismatch (naming what differs), or where `must_exist` and there is none.
        """

    def secret_fingerprint(self) -> str | None:
        """Of the secret that the users' pseudonyms were made with; None where there is no `store.json`.

        Changes nothing. Raises FatalError where it can't be read.
        """

    def load(self, uid: str) -> tuple[UserState | None, str]:
        """The newest state (None where there never was one) and the token for the next `save`.

        Raises StateUnreadable (torn, checksum, wrong uid), RetriableError.
        """

    def save(self, uid: str, state: UserState, token: str) -> str:
        """Durably replace the state that `token` stands for. Returns the new token.

        Raises LostSwap where another state is newer, RetriableError where the outcome must be tried again.
        """

    def head(self, uid: str) -> Head | None:
        """Version and erasure of the newest state, without its tensors."""

    def uids(self) -> Iterator[str]:
        """Every user that has a state or a tombstone."""

    def load_position(self, name: str) -> Mapping[str, str | int] | None:
        """A file source's position and identity, by a name that the source chooses ([0-9a-f]+)."""

    def save_position(self, name: str, position: Mapping[str, str | int]) -> None:
        """Durably replace it."""


class Publisher(Protocol):
    """Makes durable states visible. Thread-safe for different users; idempotent."""

    def publish(self, state: UserState) -> AdapterVersion | None:
        """Put the state's release out at the primary target, prune old versions, announce. None: nothing to publish.

        Raises RetriableError; FatalError where the version is already there with other content.
        """

    def newest(self, uid: str) -> int:
        """The newest version that is out, or partly out; 0 for none. Raises RetriableError."""

    def withdraw(self, state: UserState) -> None:
        """Remove every published version of a user whose state is a tombstone. Raises RetriableError."""

    def close(self, timeout_seconds: float) -> None: ...
