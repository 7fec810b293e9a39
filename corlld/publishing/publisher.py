"""Makes durable states visible: publishes their releases at the target, prunes old versions, asks for announcements."""

import contextlib
import json
import threading
from collections.abc import Callable, Collection, Iterator

import structlog

from corlld.adapters.layout import AdapterLayout
from corlld.durable import AdapterVersion, Head, ModelInfo, UserState
from corlld.errors import RetriableError, StateUnreadable
from corlld.publishing.announcer import Announcer
from corlld.publishing.peft_format import MANIFEST_FILE, adapter_files
from corlld.publishing.target import Target
from corlld.records import Unannounced

log = structlog.get_logger("corlld.publisher")


class AdapterPublisher:
    """See `Publisher`.

    Args:
        target: where versions are published; opened.
        layout: what the adapters' numbers mean.
        model: the base model of every adapter.
        keep_versions: how many of the newest versions are kept per user.
        keep_seconds: for how long a version is kept, at least, after the next one was published.
        announcer: asked after every publication. A version that was out already may have lost its announcement.
        head: reads the head of a user's newest state. If given, a version that a late owner publishes after the
            user's erasure is removed again.
    """

    def __init__(
        self,
        target: Target,
        layout: AdapterLayout,
        model: ModelInfo,
        keep_versions: int,
        keep_seconds: float,
        announcer: Announcer | None = None,
        *,
        head: Callable[[str], Head | None] | None = None,
    ) -> None:
        self._target = target
        self._layout = layout
        self._model = model
        self._keep_versions = keep_versions
        self._keep_seconds = keep_seconds
        self._announcer = announcer
        self._head = head
        self._round: Iterator[str] = iter(())
        self._round_lock = threading.Lock()

    @property
    def problem(self) -> str | None:
        """See the protocol."""
        return self._announcer.problem if self._announcer is not None else None

    @property
    def must_note(self) -> bool:
        """See the protocol."""
        return self._announcer is not None and self._announcer.must_note

    @property
    def unnoted_partitions(self) -> Collection[str]:
        """See the protocol."""
        return self._announcer.unnoted_partitions if self._announcer is not None else ()

    def note_unannounced(self) -> None:
        """See the protocol."""
        if self._announcer is not None:
            self._announcer.note_unannounced()

    @property
    def unannounced(self) -> Unannounced:
        """See the protocol."""
        return self._announcer.unannounced if self._announcer is not None else Unannounced()

    def publish(self, state: UserState) -> AdapterVersion | None:
        """See the protocol."""
        if state.release is None:
            return None
        files = adapter_files(state, self._layout, self._model)
        try:
            location = self._target.put(state.uid, state.release.version, files)
        except RetriableError:
            # The disk may be full. What is due makes room for the next try: no version may come out to prune it.
            with contextlib.suppress(RetriableError):
                self._prune(state.uid)
            raise
        # A late owner, this one or another, may have published what was erased meanwhile.
        through = max(state.erased_through, self._erased_through(state.uid))
        if through:
            self._target.withdraw(state.uid, through)
        if state.release.version <= through:
            return None
        self._prune(state.uid)
        if self._announcer is not None:
            self._announcer.announce(state.uid, tuple(state.applied))
        return AdapterVersion(state.uid, state.release.version, location, json.loads(files[MANIFEST_FILE])["digest"])

    def newest(self, uid: str) -> int:
        """See the protocol."""
        return self._target.newest(uid)

    def withdraw(self, state: UserState) -> None:
        """See the protocol."""
        self._target.withdraw(state.uid, state.erased_through)
        if self._announcer is not None:
            self._announcer.announce(state.uid, tuple(state.applied))

    def close(self, timeout_seconds: float) -> None:
        """Send pending announcements, for at most `timeout_seconds`."""
        with self._round_lock:
            self._round = iter(())
        if self._announcer is not None:
            self._announcer.close(timeout_seconds)

    def _prune(self, uid: str) -> None:
        """Prune the user, and another one, of whom nothing erased may be out: quiet users have their turn, too.

        Their versions were too young to go when the last one was published. Round after round all users at the target
        are looked at. So nothing is remembered about them, and a restart loses nothing.
        """
        self._target.prune(uid, self._keep_versions, self._keep_seconds)
        other: str | None = None
        try:
            with self._round_lock:
                other = next(self._round, None)
                if other is None:
                    self._round = self._target.uids()
            if other is not None and other != uid:
                # A late owner may have been killed as it published what was erased meanwhile.
                if through := self._erased_through(other):
                    self._target.withdraw(other, through)
                self._target.prune(other, self._keep_versions, self._keep_seconds)
        except RetriableError as error:  # no trouble of the user who publishes; the other has a turn again
            log.warning("prune_failed", uid=other, problem=str(error))

    def _erased_through(self, uid: str) -> int:
        """Return the newest erased version; 0 if there is none or the state can't be read.

        Called after the version is out: either this read sees the erasure, or the erasure sees the version.
        """
        try:
            head = self._head(uid) if self._head is not None else None
        except StateUnreadable:
            return 0  # the next load of the state reports it
        return head.erased_through if head is not None else 0
