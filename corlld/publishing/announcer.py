"""Announces each user's newest version on a compacted topic.

It works in a thread of its own, so that no commit waits for the topic. It does not know which topic that is. What the
topic has not acknowledged when offsets are committed is noted in the outbox first; so it is announced by the next life
of this daemon, or by another daemon that looks there.
"""

import json
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

import structlog

from corlld.durable import Head, OutboxNote
from corlld.errors import RetriableError, StateUnreadable, UserTrouble
from corlld.protocols import Announcements
from corlld.publishing.backlog import Backlog
from corlld.publishing.outbox import Outbox
from corlld.publishing.target import ANNOUNCED, Target
from corlld.records import Unannounced

log = structlog.get_logger("corlld.announcer")

FIRST_PAUSE_SECONDS = 0.1
LOOK_SECONDS = 60.0  # between looks into the outbox: notes of daemons that died are found within this time
CLOSE_SECONDS = 5.0  # a stop need not wait for a topic that is away: what is left is in the outbox


@dataclass(frozen=True, slots=True)
class _Announcement:
    """The value that a user must have on the topic in the end; None if the user was erased."""

    value: bytes | None


class Announcer:
    """Keeps at most one pending entry per user, however many versions come: only the newest is announced.

    The head is read before sending, and again after the acknowledgement. If it moved meanwhile, the newer version is
    announced too: so a late owner can't leave an old version as the last announcement. So any daemon may announce any
    user, and no state is loaded for it.

    Args:
        announcements: the topic; `close` closes it.
        head: reads the head of a user's newest durable state.
        target: gives the location and the manifest of a version.
        outbox: keeps what is not announced over the end of the process.
        retry_max_seconds: the longest pause after a failure.
        clock: unix time.
    """

    def __init__(
        self,
        announcements: Announcements,
        head: Callable[[str], Head | None],
        target: Target,
        outbox: Outbox,
        retry_max_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._announcements = announcements
        self._head = head
        self._target = target
        self._outbox = outbox
        self._retry_max_seconds = retry_max_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._backlog = Backlog()
        self._next_look = 0.0  # monotonic seconds
        self._kept = 0  # notes that are done and could not be removed: they wait for the next look
        self._closing = threading.Event()
        self._deadline = float("inf")  # monotonic seconds; set by `close`
        self._problem: str | None = None
        self._failure: Exception | None = None
        # A daemon thread, since waiting for a broker must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """The number of users whose announcement is not acknowledged yet."""
        with self._changed:
            return self._backlog.users

    @property
    def unannounced(self) -> Unannounced:
        """See `Publisher.unannounced`."""
        with self._changed:
            users, since = self._backlog.users, self._backlog.oldest_since
        return Unannounced(users, 0.0 if since is None else max(0.0, self._clock() - since))

    @property
    def problem(self) -> str | None:
        """Return why nothing can be announced now; None if nothing is known. No I/O."""
        return self._announcements.problem or self._problem

    def announce(self, uid: str, partitions: Collection[str]) -> None:
        """Ask for an announcement of the user's newest state, which has events of these partitions. Never waits.

        Raises the error that ended the thread: FatalError if the topic refused an announcement for good.
        """
        if self._failure is not None:
            raise self._failure
        with self._changed:
            self._backlog.ask(uid, self._clock(), partitions)
            self._changed.notify()

    @property
    def must_note(self) -> bool:
        """See `Publisher.must_note`."""
        return bool(self._backlog.unnoted)

    @property
    def unnoted_partitions(self) -> Collection[str]:
        """See `Publisher.unnoted_partitions`."""
        with self._changed:
            return self._backlog.unnoted_partitions

    def note_unannounced(self) -> None:
        """See `Publisher.note_unannounced`: one note for all users whom no note names yet."""
        with self._changed:
            asks = dict(self._backlog.unnoted)
            if not asks:
                return
            note = OutboxNote(self._backlog.since_of(asks), tuple(asks))
        name = self._outbox.add(note)
        with self._changed:
            self._backlog.noted(name, asks)
            self._changed.notify()  # all of its users may have been announced meanwhile: then it is done

    def close(self, timeout_seconds: float) -> None:
        """Send what is pending, for at most `timeout_seconds` and a few seconds, and close the topic."""
        timeout_seconds = min(timeout_seconds, CLOSE_SECONDS)
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
        try:
            while (uid := self._take()) is not None:
                try:
                    self._announce_newest(uid)
                    pause, self._problem = FIRST_PAUSE_SECONDS, None
                except RetriableError as error:
                    self._problem = str(error)
                    log.warning("announcement_failed", uid=uid, problem=str(error), pause_seconds=pause)
                    self._put_back(uid)
                    self._rest(pause)
                    pause = min(2 * pause, self._retry_max_seconds)
                except UserTrouble as error:  # until the next look
                    log.error("announcement_impossible", uid=uid, problem=str(error))
        except Exception as error:  # noqa: BLE001 - kept, and raised in the loop's next publication
            self._failure = error

    def _take(self) -> str | None:
        """Wait for a user whose turn it is, and return it; None at the end. Tends the outbox on the way."""
        while True:
            self._tend_outbox()
            with self._changed:
                until_look = max(0.0, self._next_look - time.monotonic())
                self._changed.wait_for(lambda: self._has_work or self._closing.is_set(), until_look)
                if self._closing.is_set() and (not self._has_work or time.monotonic() >= self._deadline):
                    return None
                if self._backlog.has_next:
                    return self._backlog.take()

    @property
    def _has_work(self) -> bool:
        return self._backlog.has_next or len(self._backlog.done) > self._kept

    def _put_back(self, uid: str) -> None:
        with self._changed:
            self._backlog.put_back(uid)

    def _settle(self, uid: str, *, announced: bool) -> None:
        with self._changed:
            self._backlog.settle(uid, announced=announced)

    def _rest(self, seconds: float) -> None:
        if self._closing.is_set():
            # Only this thread sleeps, in its last tries.
            time.sleep(FIRST_PAUSE_SECONDS)  # the event is set: waiting for it would not pause
        else:
            self._closing.wait(seconds)

    def _announce_newest(self, uid: str) -> None:
        newest = self._newest(uid)
        if newest is not None:
            _wait_for(self._announcements.send(uid, newest.value))
            if self._newest(uid) != newest:
                self._put_back(uid)
                return
        self._settle(uid, announced=newest is not None)

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

    # --- the outbox ---------------------------------------------------------------------------------------------------

    def _tend_outbox(self) -> None:
        """Remove notes that are done, and adopt those of others from time to time. A failure waits for its turn."""
        try:
            self._kept = 0
            while self._backlog.done:  # only this thread takes names away
                self._outbox.remove(self._backlog.done[0])
                with self._changed:
                    del self._backlog.done[0]
            if time.monotonic() >= self._next_look and not self._closing.is_set():
                self._adopt_notes()
                self._next_look = time.monotonic() + LOOK_SECONDS
        except RetriableError as error:
            self._kept = len(self._backlog.done)
            log.warning("outbox_unreachable", problem=str(error))
            self._next_look = time.monotonic() + min(LOOK_SECONDS, self._retry_max_seconds)

    def _adopt_notes(self) -> None:
        names = set(self._outbox.names())
        with self._changed:
            self._backlog.forget_others(names)
            self._backlog.try_all_again()
            new = [name for name in names if not self._backlog.knows(name)]
        for name in new:
            try:
                note = self._outbox.read(name)
            except StateUnreadable as error:  # the others are none the worse
                log.error("note_unreadable", problem=str(error))
                continue
            if note is not None:
                with self._changed:
                    self._backlog.adopt(name, note)
        if new:
            log.info("announcements_adopted", notes=len(new), users=self.pending)


def _wait_for(future: "Future[None]") -> None:
    try:
        future.result()  # `Announcements.send` sees to it that there is an answer in the end
    except CancelledError:
        raise RetriableError("the announcement was not acknowledged") from None
