"""A user's state on its way from the store and back: loaded, or made durable and then visible.

Jobs run in a pool; their results come back in the loop's thread. A job that fails for now is tried until it works, or
until it is known to be the trouble of one user.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TypeVar

import structlog

from corlld.durable import UserState
from corlld.errors import CorlldError, LostSwap, UserTrouble
from corlld.loop.jobs import Jobs, Task, Timed, Unless
from corlld.loop.set_aside import Call, UserTroubles
from corlld.loop.store_breaker import StoreBreaker
from corlld.observer import Observer
from corlld.protocols import Publisher, StateStore
from corlld.records import Arrival, Stage

log = structlog.get_logger("corlld.durability")

T = TypeVar("T")


class Durability:
    """Loads and stores states. The caller has at most one load or save under way per user.

    Args:
        jobs: runs the tries, and repeats them.
        pool: runs the calls of store and publisher.
        store: keeps the states.
        breaker: loads states from the store.
        troubles: runs every call, and tells one user's trouble from everybody's.
        publishing: if False, states are stored and no version is made visible.
    """

    def __init__(
        self,
        jobs: Jobs,
        pool: Executor,
        store: StateStore,
        breaker: StoreBreaker,
        troubles: UserTroubles,
        publisher: Publisher,
        observer: Observer,
        *,
        publishing: bool,
    ) -> None:
        self._jobs = jobs
        self._pool = pool
        self._store = store
        self._breaker = breaker
        self._troubles = troubles
        self._publisher = publisher
        self._observer = observer
        self._publishing = publishing

    def load(
        self,
        uid: str,
        loaded: Callable[[UserState | None, str], None],
        troubled: Callable[[UserTrouble], None],
    ) -> None:
        """Load the user's state, make sure that its version is out, and number it at least as high as all that are out.

        Args:
            uid: the user's pseudonym.
            loaded: called at the end with the state and its token. None: the store has no state, and no version is out.
            troubled: called in its place if the state can't be read, or its version can't be out.
        """

        def read(stored: Timed[tuple[UserState | None, str]]) -> None:
            state, token = stored.result
            self._catch_up(uid, state, lambda current: loaded(current, token), troubled)

        self._jobs.until_done(
            Task(Stage.STATE, uid),
            lambda: self._pool.submit(self._jobs.timed(self._troubles.call), Call.LOAD, uid, self._breaker.load, uid),
            read,
            unless=Unless(UserTrouble, troubled),
        )

    def save(
        self,
        state: UserState,
        token: str,
        *,
        make_visible: bool,
        arrivals: Sequence[Arrival],
        stored: Callable[[str], None],
        lost: Callable[[], None],
        troubled: Callable[[UserTrouble], None],
    ) -> None:
        """Store the state, and then make it visible.

        Args:
            state: the new state.
            token: of the stored state that it replaces.
            make_visible: whether to publish the state's version, or its erasure.
            arrivals: those that are new in the state; for the observer.
            stored: called at the end with the new token, once the state is durable and visible.
            lost: called in its place if another owner stored a state first.
            troubled: called in its place if this user's state can't be written, or its version can't be published. The
                state may be durable then.
        """

        def durable(save: Timed[str]) -> None:
            self._observer.stored(state, save.seconds)
            if make_visible:
                self._publish(state, arrivals, lambda: stored(save.result), troubled)
            else:
                stored(save.result)

        def not_stored(error: CorlldError) -> None:
            if isinstance(error, UserTrouble):
                troubled(error)
                return
            log.warning("lost_swap", uid=state.uid)
            self._observer.lost_swap()
            lost()

        self._jobs.until_done(
            Task(Stage.STATE, state.uid),
            lambda: self._pool.submit(
                self._jobs.timed(self._troubles.call), Call.SAVE, state.uid, self._store.save, state.uid, state, token
            ),
            durable,
            unless=Unless((LostSwap, UserTrouble), not_stored),
        )

    def _catch_up(
        self,
        uid: str,
        state: UserState | None,
        then: Callable[[UserState | None], None],
        troubled: Callable[[UserTrouble], None],
    ) -> None:
        """Publish what a kill between storing and publishing left out, and number the state above all versions.

        A state that was lost, or restored from a backup, is older than the versions that are out. Versions never go
        back, so the next one gets a number above them. They stay as they are: the older one is not published again.
        """
        own = 0 if state is None else state.version
        # A restored state keeps its old release when it is numbered and saved without a new version.
        released = state.release.version if state is not None and state.release is not None else 0

        def newest_version() -> int:
            newest = self._publisher.newest(uid)
            if state is not None and (state.erased or newest <= released):
                self._make_visible(state)
            return newest

        def seen(looked: Timed[int]) -> None:
            newest = looked.result
            if newest <= own:
                then(state)
                return
            log.warning("state_older_than_versions", uid=uid, version=own, published=newest)
            then(replace(state or UserState(uid), version=newest))

        self._jobs.until_done(
            Task(Stage.PUBLISHING, uid),
            lambda: self._pool.submit(self._jobs.timed(self._call), Call.CATCH_UP, uid, state, newest_version),
            seen,
            unless=Unless(UserTrouble, troubled),
        )

    def _publish(
        self,
        state: UserState,
        arrivals: Sequence[Arrival],
        then: Callable[[], None],
        troubled: Callable[[UserTrouble], None],
    ) -> None:
        def visible(publication: Timed[bool]) -> None:
            if publication.result:
                self._log(state)
                self._observer.published(state, arrivals, publication.seconds)
            then()

        self._jobs.until_done(
            Task(Stage.PUBLISHING, state.uid),
            lambda: self._pool.submit(
                self._jobs.timed(self._call), Call.PUBLISH, state.uid, state, lambda: self._make_visible(state)
            ),
            visible,
            unless=Unless(UserTrouble, troubled),
        )

    def _call(self, call: Call, uid: str, state: UserState | None, job: Callable[[], T]) -> T:
        """Run a call of the publisher. What was erased is tried until it is withdrawn: nobody is set aside for it."""
        return job() if state is not None and state.erased else self._troubles.call(call, uid, job)

    def _log(self, state: UserState) -> None:
        if state.erased:
            log.info("erased", uid=state.uid)
        else:
            log.info("published", uid=state.uid, version=state.version, pairs=state.statistics.pairs_applied)

    def _make_visible(self, state: UserState) -> bool:
        """Publish the state's version or its erasure. Return whether anything is out.

        Returns False if the state has no version, or if publishing is off.
        """
        if state.erased:
            self._publisher.withdraw(state)  # even if publishing was turned off since
            return True
        return self._publishing and self._publisher.publish(state) is not None
