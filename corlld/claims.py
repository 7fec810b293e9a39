"""What is done with one user at a time: load, select, train, store, publish, finish. Runs in the loop's thread.

Workers return values through futures whose handlers run in the loop, so nothing here is shared between threads.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from enum import Enum, auto

import structlog

from corlld.batching import Batcher
from corlld.errors import InvalidEvent, InvalidReason, LostSwap, StateUnreadable
from corlld.intake import Intake
from corlld.jobs import Jobs
from corlld.observer import Observer
from corlld.offsets import LowWatermarks
from corlld.protocols import Learner, Publisher, StateStore
from corlld.records import (
    DeadLetter,
    EditEvent,
    EraseEvent,
    Stage,
    Statistics,
    Tenure,
    TrainingBatch,
    UpdateOutcome,
    UserState,
)
from corlld.settings import Settings
from corlld.state.residency import Residency
from corlld.transitions import Selection, after_erasure, after_update, place, select

log = structlog.get_logger("corlld.claims")


class Phase(Enum):
    """Where a claimed user is. A claim has at most one job under way, so a user has at most one load or write."""

    LOADING = auto()
    READY = auto()
    TRAINING = auto()
    STORING = auto()
    PUBLISHING = auto()


@dataclass
class Claim:
    """A user that the loop is working on, from the load of the state until its arrivals are finished."""

    uid: str
    phase: Phase
    state: UserState | None = None
    token: str = ""
    selection: Selection = field(default_factory=Selection)
    stale: bool = False  # an assignment ended meanwhile: forget the state afterwards, another owner may write it


class Claims:
    """Every user that is being worked on, one claim each.

    Args:
        trainer, pool: where steps run, and where states are loaded, stored and published.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        batcher: Batcher,
        watermarks: LowWatermarks,
        intake: Intake,
        jobs: Jobs,
        trainer: Executor,
        pool: Executor,
        learner: Learner,
        store: StateStore,
        publisher: Publisher,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._batcher = batcher
        self._watermarks = watermarks
        self._intake = intake
        self._jobs = jobs
        self._trainer = trainer
        self._pool = pool
        self._learner = learner
        self._store = store
        self._publisher = publisher
        self._observer = observer
        self._clock = clock
        self.residency = Residency(settings.state.host_memory_bytes)
        self._claims: dict[str, Claim] = {}
        self.training = False  # a call of the learner is under way

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def under_way(self) -> bool:
        """Whether a step has begun whose outcome is not durable and visible yet."""
        return any(claim.phase in (Phase.TRAINING, Phase.STORING, Phase.PUBLISHING) for claim in self._claims.values())

    def end_tenure(self, tenure: Tenure) -> None:
        """Another owner may write these states from now on.

        A stale copy could not overwrite anything, since its swap would be lost; but its step would be wasted.
        """
        for claim in self._claims.values():
            claim.stale = True
        self.residency.drop_where(lambda state: tenure.partition.key in state.applied)

    def claim_users(self, now: float) -> None:
        """Begin with users whose micro-batch is due, as far as there is room."""
        step = self._settings.batching.max_users_per_step
        waiting = sum(claim.phase in (Phase.LOADING, Phase.READY) for claim in self._claims.values())
        # Twice a step's worth waits: while one step trains, the states of the next one are loaded. Twice as much again
        # may be on its way out: each holds a state, and a store that is away must not fill the memory with them.
        room = max(0, min(2 * step - waiting, 4 * step - len(self._claims)))
        for uid in list(itertools.islice(self._batcher.ready(now, exclude=self._claims), room)):
            claim = self._claims[uid] = Claim(uid, Phase.LOADING)
            if (resident := self.residency.get(uid)) is not None:
                claim.phase, claim.state, claim.token = Phase.READY, resident.state, resident.token
            else:
                self._load(claim)

    def start_step(self) -> None:
        """Train who is ready, where the trainer has nothing to do."""
        if self.training:
            return
        claims: list[Claim] = []
        for claim in [claim for claim in self._claims.values() if claim.phase is Phase.READY]:
            if len(claims) == self._settings.batching.max_users_per_step:
                break
            self._select(claim)
            if claim.phase is Phase.TRAINING:
                claims.append(claim)
        if not claims:
            return
        started = self._clock()

        def trained(future: "Future[list[UpdateOutcome]]") -> None:
            self.training = False
            self._observer.step(len(claims), self._clock() - started)
            for claim, outcome in zip(claims, future.result(), strict=True):
                self._conclude(claim, outcome)

        self.training = True
        batches = [TrainingBatch(c.uid, c.state.adapter if c.state else None, _edits(c)) for c in claims]
        self._jobs.submit(self._trainer, trained, self._learner.update, batches)

    def _load(self, claim: Claim) -> None:
        def loaded(future: "Future[tuple[UserState | None, str]]") -> None:
            if isinstance(error := future.exception(), StateUnreadable):
                self._jobs.forget((Stage.STATE, claim.uid))
                self._set_user_aside(claim, error)
            elif not self._jobs.failed((Stage.STATE, claim.uid), future, lambda: self._load(claim)):
                claim.state, claim.token = future.result()
                if claim.state is None:
                    claim.phase = Phase.READY
                else:
                    self._look_at_published(claim, claim.state)

        self._jobs.submit(self._pool, loaded, self._store.load, claim.uid)

    def _look_at_published(self, claim: Claim, state: UserState) -> None:
        """A kill between storing and publishing left the version out; a restored state is behind what is out."""

        def look() -> int:
            self._make_visible(state)
            return self._publisher.newest(state.uid)

        def looked(future: "Future[int]") -> None:
            if not self._jobs.failed(
                (Stage.PUBLISHING, claim.uid), future, lambda: self._look_at_published(claim, state)
            ):
                # Versions never go back, also after a restore or a repair.
                claim.state = replace(state, version=max(state.version, future.result()))
                claim.phase = Phase.READY

        self._jobs.submit(self._pool, looked, look)

    def _set_user_aside(self, claim: Claim, error: StateUnreadable) -> None:
        log.error("state_unreadable", uid=claim.uid, problem=str(error))
        arrivals = self._batcher.take(claim.uid, self._batcher.events).arrivals
        self._batcher.release(arrivals)
        for arrival in arrivals:
            problem = InvalidEvent(InvalidReason.STATE_UNREADABLE, detail="the user's stored state can't be read")
            self._intake.set_aside(DeadLetter(arrival.record, problem, claim.uid))
        del self._claims[claim.uid]

    def _select(self, claim: Claim) -> None:
        """Take the user's micro-batch; what its state knows already is refilled from the buffer."""
        limit = self._settings.batching.max_events
        while len(claim.selection.fresh) < limit:
            batch = self._batcher.take(claim.uid, limit - len(claim.selection.fresh))
            claim.selection = select(claim.state, batch.arrivals, claim.selection)
            if any(isinstance(arrival.event, EraseEvent) for arrival in claim.selection.fresh):
                self._erase(claim)
                return
            if not batch.arrivals:
                break
        if claim.selection.fresh:
            claim.phase = Phase.TRAINING
        elif claim.selection.duplicates:
            adapter = claim.state.adapter if claim.state else None
            self._conclude(claim, UpdateOutcome(claim.uid, adapter, trained=False, pairs=()))
        else:
            self._finish(claim)

    def _erase(self, claim: Claim) -> None:
        """Everything up to the last erasure that is new is covered by it; what came after waits for its own batch."""
        last = max(place(a) for a in claim.selection.fresh if isinstance(a.event, EraseEvent))
        arrivals = sorted(claim.selection.arrivals, key=place)
        erased = [arrival for arrival in arrivals if place(arrival) <= last]
        self._batcher.put_back(arrival for arrival in arrivals if place(arrival) > last)
        claim.selection = claim.selection.through(last)
        self._save(claim, after_erasure(claim.uid, claim.state, erased), make_visible=True)

    def _conclude(self, claim: Claim, outcome: UpdateOutcome) -> None:
        state = after_update(claim.uid, claim.state, claim.selection, outcome, self._settings.state.recent_event_ids)
        before = claim.state.statistics if claim.state else Statistics()
        self._observer.update(before, state, _edits(claim), outcome)
        self._save(claim, state, make_visible=outcome.trained)

    def _save(self, claim: Claim, state: UserState, *, make_visible: bool) -> None:
        claim.phase = Phase.STORING
        again = lambda: self._save(claim, state, make_visible=make_visible)  # noqa: E731

        def saved(future: "Future[tuple[str, float]]") -> None:
            if isinstance(future.exception(), LostSwap):
                self._jobs.forget((Stage.STATE, claim.uid))
                self._lost(claim)
            elif not self._jobs.failed((Stage.STATE, claim.uid), future, again):
                claim.token, seconds = future.result()
                claim.state = state
                self._observer.stored(state, seconds)
                if make_visible:
                    self._publish(claim, state)
                else:
                    self._finish(claim)

        self._jobs.submit(self._pool, saved, self._jobs.timed(self._store.save), claim.uid, state, claim.token)

    def _lost(self, claim: Claim) -> None:
        """Another owner wrote first: forget our copy, and let the stored one decide what is still to be applied."""
        log.warning("lost_swap", uid=claim.uid)
        self._observer.lost_swap()
        arrivals = sorted(claim.selection.arrivals, key=place)
        live = [arrival for arrival in arrivals if self._watermarks.is_live(arrival.record.tenure)]
        self._batcher.put_back(live)
        self._batcher.release(a for a in arrivals if not self._watermarks.is_live(a.record.tenure))
        self.residency.drop(claim.uid)
        del self._claims[claim.uid]

    def _publish(self, claim: Claim, state: UserState) -> None:
        claim.phase = Phase.PUBLISHING

        def published(future: "Future[tuple[bool, float]]") -> None:
            if not self._jobs.failed((Stage.PUBLISHING, claim.uid), future, lambda: self._publish(claim, state)):
                changed, seconds = future.result()
                if changed:
                    self._tell(state)
                    self._observer.published(state, claim.selection.fresh, seconds)
                self._finish(claim)

        self._jobs.submit(self._pool, published, self._jobs.timed(self._make_visible), state)

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
        return self._settings.publishing.enabled and self._publisher.publish(state) is not None

    def _finish(self, claim: Claim) -> None:
        """Every arrival of the claim has a durable outcome that is out: they may be committed."""
        arrivals = claim.selection.arrivals
        for arrival in arrivals:
            self._watermarks.finish(arrival.record)
        self._batcher.release(arrivals)
        duplicates = len(claim.selection.covered) + len(claim.selection.duplicates)
        self._observer.finished(arrivals, duplicates, self._clock())
        del self._claims[claim.uid]
        if claim.state is None or claim.stale:
            self.residency.drop(claim.uid)
        else:
            self.residency.put(claim.uid, claim.state, claim.token)


def _edits(claim: Claim) -> tuple[EditEvent, ...]:
    return tuple(a.event for a in claim.selection.fresh if isinstance(a.event, EditEvent))
