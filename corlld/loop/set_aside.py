"""Tells one user's trouble from everybody's: who is set aside, and when that concerns all.

A call of the store or of the publisher that fails for now is tried again. If one user's calls have failed for long
while those of others succeed, waiting for that user helps nobody: the user is set aside. If nobody's calls succeed, the
store is away, and everybody waits.

It does not know what the calls do, nor what setting aside means. Nothing here is durable: after a restart a user's
trouble is found again.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import ParamSpec, TypeVar

from corlld.errors import (
    ExitCode,
    FatalError,
    LostSwap,
    PublicationFailed,
    RetriableError,
    StateUnreadable,
    UserTrouble,
)
from corlld.settings.sections import StateSettings

RECENT_USERS = 100  # whose calls ended last, and are compared with those that fail
REMEMBERED_ASIDE = 10_000  # users; one who is forgotten and fails again is set aside again
LEAST_CONFLICTS = 3  # users; fewer never stop the daemon

P = ParamSpec("P")
T = TypeVar("T")


class Call(Enum):
    """The kinds of calls. A full disk fails one kind alone, so each is compared with its own kind."""

    LOAD = "a state can't be read"
    SAVE = "a state can't be written"
    CATCH_UP = "a stored version can't be looked at or published"
    PUBLISH = "a new version can't be published"

    @property
    def trouble(self) -> type[UserTrouble]:
        return StateUnreadable if self in (Call.LOAD, Call.SAVE) else PublicationFailed


@dataclass(slots=True)
class _Calls:
    """The calls of one kind. Times are on the daemon's clock.

    failing: since when each user's calls have failed. succeeded: when each user's last call did, oldest first.
    """

    failing: dict[str, float] = field(default_factory=dict)
    succeeded: OrderedDict[str, float] = field(default_factory=OrderedDict)


class UserTroubles:
    """Runs calls for users, and remembers who is set aside. Thread-safe.

    Args:
        settings: how long a user's calls may fail, and the largest share of users whose versions can't be published.
        clock: monotonic seconds.
    """

    def __init__(self, settings: StateSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._after_seconds = settings.set_aside_after_seconds
        self._max_share = settings.max_unreadable_share
        self._clock = clock
        self._lock = threading.Lock()
        self._calls = {call: _Calls() for call in Call}
        self._aside: OrderedDict[str, Call] = OrderedDict()  # by uid, with the kind of call that failed
        self._published: OrderedDict[str, bool] = OrderedDict()  # users looked at last: whether their version is sound

    @property
    def aside(self) -> int:
        """Return the number of users who are set aside, as far as this process knows."""
        return len(self._aside)

    def forget(self) -> None:
        """Forget who is set aside: some of them may belong to another daemon now, and may be repaired there."""
        with self._lock:
            self._aside.clear()
            self._published.clear()

    def call(self, call: Call, uid: str, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the job for the user, and return its result.

        Raises:
            UserTrouble: of the job; or in place of a RetriableError if the user's calls of this kind have failed for
                `state.set_aside_after_seconds`, and others' have not.
            FatalError: of the job; or the versions of too many users can't be published.
            RetriableError, LostSwap: of the job.
        """
        try:
            result = job(*args, **kwargs)
        except UserTrouble as error:
            self._set_aside(call, uid, error)
            raise
        except RetriableError as error:
            if not self._is_alone(call, uid):
                raise
            trouble = call.trouble(f"{call.value} for {self._after_seconds:g} s, and others can: {error}")
            self._set_aside(call, uid, trouble)
            raise trouble from error
        except LostSwap:  # the store works
            self._note_success(call, uid)
            raise
        self._note_success(call, uid)
        return result

    def _note_success(self, call: Call, uid: str) -> None:
        with self._lock:
            calls = self._calls[call]
            calls.failing.pop(uid, None)
            _remember(calls.succeeded, uid, self._clock(), RECENT_USERS)
            if self._aside.get(uid) is call:
                del self._aside[uid]
            if call.trouble is PublicationFailed:
                _remember(self._published, uid, True, RECENT_USERS)

    def _is_alone(self, call: Call, uid: str) -> bool:
        """Note that the user's call failed. Return whether it has failed for long, and at least as many others don't.

        A user who is set aside already is not waited for again.
        """
        with self._lock:
            calls, now = self._calls[call], self._clock()
            if self._aside.get(uid) is call and any(other != uid for other in calls.succeeded):
                return True
            since = calls.failing.setdefault(uid, now)
            if not self._after_seconds or now - since < self._after_seconds:
                return False
            sound = sum(then >= since for other, then in calls.succeeded.items() if other != uid)
            return sound >= len(calls.failing)

    def _set_aside(self, call: Call, uid: str, error: UserTrouble) -> None:
        """Remember the user. Raise FatalError if the versions of too many users can't be published.

        Too many states that can't be read are found by `StoreBreaker`.
        """
        with self._lock:
            self._calls[call].failing.pop(uid, None)
            _remember(self._aside, uid, call, REMEMBERED_ASIDE)
            if not isinstance(error, PublicationFailed):
                return
            _remember(self._published, uid, False, RECENT_USERS)
            failed, looked_at = sum(not sound for sound in self._published.values()), len(self._published)
        if failed >= LEAST_CONFLICTS and failed > self._max_share * looked_at:
            raise FatalError(
                f"the versions of {failed} of the last {looked_at} users can't be published, more than "
                f"state.max_unreadable_share = {self._max_share:.0%}: is publishing.path the folder of another state "
                "store, or were states or adapters restored without the other? No record was set aside for the last "
                f"of them, and none is committed. With a higher share the daemon sets such users aside: {error}",
                ExitCode.DATA,
            )


def _remember(users: OrderedDict[str, T], uid: str, value: T, limit: int) -> None:
    """Put the user at the end; forget the oldest ones beyond the limit."""
    users[uid] = value
    users.move_to_end(uid)
    while len(users) > limit:
        users.popitem(last=False)
