"""Announces each user's newest version on a compacted topic.

It works in a thread of its own, so that no commit waits for the topic. It does not know which topic that is.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

import structlog

from corlld.durable import Head
from corlld.errors import RetriableError, UserTrouble
from corlld.protocols import Announcements
from corlld.publishing.target import ANNOUNCED, Target

log = structlog.get_logger("corlld.announcer")

FIRST_PAUSE_SECONDS = 0.1
ACKNOWLEDGED_WITHIN_SECONDS = 150.0  # kafka-python gives up by itself after 120


@dataclass(frozen=True, slots=True)
class _Announcement:
    """The value that a user must have on the topic in the end; None if the user was erased."""

    value: bytes | None


class Announcer:
    """Keeps at most one pending entry per user, however many versions come: only the newest is announced.

    The head is read before sending, and again after the acknowledgement. If it moved meanwhile, the newer version is
    announced too: so a late owner can't leave an old version as the last announcement.

    Args:
        announcements: the topic; `close` closes it.
        head: reads the head of a user's newest durable state.
        target: gives the location and the manifest of a version.
        retry_max_seconds: the longest pause after a failure.
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
        # A daemon thread, since waiting for a broker must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """The number of users whose announcement is not acknowledged yet."""
        with self._changed:
            return len({*self._pending, self._current} - {None})

    @property
    def problem(self) -> str | None:
        """See `Announcements.problem`."""
        return self._announcements.problem

    def announce(self, uid: str) -> None:
        """Ask for an announcement of the user's newest state. Never waits.

        Raises the error that ended the thread: FatalError if the topic refused an announcement for good.
        """
        if self._failure is not None:
            raise self._failure
        with self._changed:
            self._pending[uid] = None
            self._changed.notify()

    def close(self, timeout_seconds: float) -> None:
        """Send what is pending, for at most `timeout_seconds`, and close the topic."""
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
            except UserTrouble as error:
                log.error("announcement_impossible", uid=uid, problem=str(error))
            except Exception as error:  # noqa: BLE001 - kept, and raised in the loop's next publication
                self._put_back(uid)
                self._failure = error
                return

    def _take(self) -> str | None:
        """Wait for a pending user, and return the one who waits longest; None at the end."""
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
            # The event is set, so waiting for it would not pause. Only this thread sleeps, in its last tries.
            time.sleep(FIRST_PAUSE_SECONDS)
        else:
            self._closing.wait(seconds)

    def _announce_newest(self, uid: str) -> None:
        newest = self._newest(uid)
        if newest is None:
            return
        _wait_for(self._announcements.send(uid, newest.value))
        if self._newest(uid) != newest:
            self._put_back(uid)

    def _newest(self, uid: str) -> _Announcement | None:
        """Return the announcement of the newest state.

        None if there is no state, or its version is not out: the owner who publishes the version announces it then.
        """
        head = self._head(uid)
        if head is None:
            return None
        if head.erased:
            return _Announcement(None)
        if (published := self._target.get(uid, head.version)) is None:
            return None
        content = {key: published.manifest[key] for key in ANNOUNCED} | {"location": published.location}
        return _Announcement(json.dumps(content, sort_keys=True).encode())


def _wait_for(future: "Future[None]") -> None:
    try:
        future.result(ACKNOWLEDGED_WITHIN_SECONDS)
    except (TimeoutError, CancelledError):
        raise RetriableError("the announcement was not acknowledged") from None
