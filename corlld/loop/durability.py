"""A user's state on its way from the store and back: loaded, made durable, then made visible.

Jobs run in a pool; what they bring comes back in the loop's thread. What fails for now is tried again until it works.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace

import structlog

from corlld.errors import LostSwap, StateUnreadable
from corlld.loop.jobs import Jobs
from corlld.observer import Observer
from corlld.protocols import Publisher, StateStore
from corlld.records import Arrival, Stage, UserState

log = structlog.get_logger("corlld.durability")


class Durability:
    """Loads and stores. The caller keeps to one of them at a time for a user.

    Args:
        publishing: off: states are stored, and no version is made visible.
    """

    def __init__(
        self,
        *,
        jobs: Jobs,
        pool: Executor,
        store: StateStore,
        publisher: Publisher,
        observer: Observer,
        publishing: bool,
    ) -> None:
        self._jobs = jobs
        self._pool = pool
        self._store = store
        self._publisher = publisher
        self._observer = observer
        self._publishing = publishing

    def load(
        self,
        uid: str,
        loaded: Callable[[UserState | None, str], None],
        unreadable: Callable[[StateUnreadable], None],
    ) -> None:
        """Ends with a call of `loaded` (the state and its token), whose version is out, or of `unreadable`."""

        def done(future: "Future[tuple[UserState | None, str]]") -> None:
            if isinstance(error := future.exception(), StateUnreadable):
                self._jobs.forget((Stage.STATE, uid))
                unreadable(error)
            elif not self._jobs.failed((Stage.STATE, uid), future, lambda: self.load(uid, loaded, unreadable)):
                state, token = future.result()
                if state is None:
                    loaded(None, token)
                else:
                    self._look_at_published(state, lambda seen: loaded(seen, token))

        self._jobs.submit(self._pool, done, self._store.load, uid)

    def save(
        self,
        state: UserState,
        token: str,
        *,
        make_visible: bool,
        arrivals: Sequence[Arrival],
        stored: Callable[[str], None],
        lost: Callable[[], None],
    ) -> None:
        """Ends with a call of `stored` (the new token), once the state is durable and visible, or of `lost`.

        Args:
            arrivals: what is new in the state.
        """

        def again() -> None:
            self.save(state, token, make_visible=make_visible, arrivals=arrivals, stored=stored, lost=lost)

        def done(future: "Future[tuple[str, float]]") -> None:
            if isinstance(future.exception(), LostSwap):
                self._jobs.forget((Stage.STATE, state.uid))
                log.warning("lost_swap", uid=state.uid)
                self._observer.lost_swap()
                lost()
            elif not self._jobs.failed((Stage.STATE, state.uid), future, again):
                new_token, seconds = future.result()
                self._observer.stored(state, seconds)
                if make_visible:
                    self._publish(state, arrivals, lambda: stored(new_token))
                else:
                    stored(new_token)

        self._jobs.submit(self._pool, done, self._jobs.timed(self._store.save), state.uid, state, token)

    def _look_at_published(self, state: UserState, then: Callable[[UserState], None]) -> None:
        """A kill between storing and publishing left the version out; a restored state is behind what is out."""

        def look() -> int:
            self._make_visible(state)
            return self._publisher.newest(state.uid)

        def done(future: "Future[int]") -> None:
            if not self._jobs.failed(
                (Stage.PUBLISHING, state.uid), future, lambda: self._look_at_published(state, then)
            ):
                # Versions never go back, also after a restore or a repair.
                then(replace(state, version=max(state.version, future.result())))

        self._jobs.submit(self._pool, done, look)

    def _publish(self, state: UserState, arrivals: Sequence[Arrival], then: Callable[[], None]) -> None:
        def done(future: "Future[tuple[bool, float]]") -> None:
            if not self._jobs.failed(
                (Stage.PUBLISHING, state.uid), future, lambda: self._publish(state, arrivals, then)
            ):
                changed, seconds = future.result()
                if changed:
                    self._tell(state)
                    self._observer.published(state, arrivals, seconds)
                then()

        self._jobs.submit(self._pool, done, self._jobs.timed(self._make_visible), state)

    def _tell(self, state: UserState) -> None:
        if state.erased:
            log.info("erased", uid=state.uid)
        else:
            log.info("published", uid=state.uid, version=state.version, pairs=state.statistics.pairs_applied)

    def _make_visible(self, state: UserState) -> bool:
        """Whether the state's version, or its erasure, is out; False where there is none, or publishing is off."""
        if state.erased:
            self._publisher.withdraw(state)  # also where publishing was turned off since
            return True
        return self._publishing and self._publisher.publish(state) is not None
