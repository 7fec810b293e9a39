"""Announces each user's newest version on a compacted topic, in a thread of its own: no commit ever waits for it."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

import structlog

from corlld.errors import RetriableError, StateUnreadable
from corlld.protocols import Announcements
from corlld.publishing.target import Target
from corlld.records import Head

log = structlog.get_logger("corlld.announcer")

FIRST_PAUSE_SECONDS = 0.1
ACKNOWLEDGED_WITHIN_SECONDS = 150.0  # kafka-python gives up by itself after 120


@dataclass(frozen=True, slots=True)
class _Word:
    """What the topic has to say of a user. value: None for a user who was erased."""

    value: bytes | None


class Announcer:
    """One pending entry a user at most, however many versions come: only the newest is ever announced.

    The head is read before sending, and again after the acknowledgement: where it moved meanwhile the newer one is
    announced again, so that of two owners the late one can't leave an old version as the last word.

    Args:
        announcements: the topic; closed with this.
        head: reads the newest durable state of a user.
        target: says where a version is, and what its manifest says.
        retry_max_seconds: longest pause after a failure.
    """

    def __init__(
        self,
        announcements: Announcements,
        head: Callable[[str], Head | None],
        target: Target,
        retry_max_seconds: float = 30.0,
    ) -> None:
        self._announcements = announcements
        self._head = head
        self._target = target
        self._retry_max_seconds = retry_max_seconds
        self._changed = threading.Condition()
        self._pending: OrderedDict[str, None] = OrderedDict()  # longest waiting first
        self._current: str | None = None
        self._closing = threading.Event()
        self._deadline = float("inf")  # monotonic seconds; set by `close`
        self._failure: Exception | None = None
        # A daemon thread: one that waits for a broker must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Users whose announcement is not acknowledged yet."""
        with self._changed:
            return len({*self._pending, self._current} - {None})

    def announce(self, uid: str) -> None:
        """See to it that the topic's last word on the user is the newest state's. Never waits.

        Raises what ended the thread: FatalError where the topic refused an announcement for good.
        """
        if self._failure is not None:
            raise self._failure
        with self._changed:
            self._pending[uid] = None
            self._changed.notify()

    def close(self, timeout_seconds: float) -> None:
        """Let what is pending go out, for so long at most, and close the topic."""
        self._deadline = time.monotonic() + timeout_seconds
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout_seconds)
        if left := self.pending:
            log.warning("announcements_left", users=left)
        self._announcements.close(max(0.0, self._deadline - time.monotonic()))

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while (uid := self._take()) is not None:
            try:
                self._announce_newest(uid)
                pause = FIRST_PAUSE_SECONDS
            except RetriableError as error:
                log.warning("announcement_failed", uid=uid, problem=str(error), pause_seconds=pause)
                self._put_back(uid)
                self._rest(pause)
                pause = min(2 * pause, self._retry_max_seconds)
            except StateUnreadable as error:
                log.error("announcement_impossible", uid=uid, problem=str(error))
            except Exception as error:  # noqa: BLE001 - kept, and raised in the loop's next publication
                self._put_back(uid)
                self._failure = error
                return

    def _take(self) -> str | None:
        """The user who waits longest; None at the end."""
        with self._changed:
            self._current = None
            self._changed.wait_for(lambda: self._pending or self._closing.is_set())
            if self._pending and time.monotonic() < self._deadline:
                self._current, _ = self._pending.popitem(last=False)
            return self._current

    def _put_back(self, uid: str) -> None:
        with self._changed:
            self._pending[uid] = None

    def _rest(self, seconds: float) -> None:
        if self._closing.is_set():
            # The event is set, so it can't be waited for. Only this thread pauses, in its last tries.
            time.sleep(FIRST_PAUSE_SECONDS)
        else:
            self._closing.wait(seconds)

    def _announce_newest(self, uid: str) -> None:
        word = self._last_word(uid)
        if word is None:
            return
        _wait_for(self._announcements.send(uid, word.value))
        if self._last_word(uid) != word:
            self._put_back(uid)

    def _last_word(self, uid: str) -> _Word | None:
        """None where there is nothing to say: whoever puts the newest version out will announce it."""
        head = self._head(uid)
        if head is None:
            return None
        if head.erased:
            return _Word(None)
        if (published := self._target.get(uid, head.version)) is None:
            return None
        said = {
            key: published.manifest[key] for key in ("uid", "version", "name", "base_model", "base_revision", "digest")
        }
        return _Word(json.dumps(said | {"location": published.location}, sort_keys=True).encode())


def _wait_for(future: "Future[None]") -> None:
    try:
        future.result(ACKNOWLEDGED_WITHIN_SECONDS)
    except (TimeoutError, CancelledError):
        raise RetriableError("the announcement was not acknowledged") from None
