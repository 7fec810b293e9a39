"""What is done with one user at a time: load, select, train, store, publish, finish. Runs in the loop's thread.

Workers return values through futures whose handlers run in the loop, so nothing here is shared between threads.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future

import structlog

from corlld.errors import InvalidEvent, InvalidReason, StateUnreadable
from corlld.loop.batching import Batcher
from corlld.loop.claim import Claim, Phase
from corlld.loop.durability import Durability
from corlld.loop.intake import Intake
from corlld.loop.jobs import Jobs
from corlld.loop.memory.host_memory import HostMemory
from corlld.loop.memory.unsaved import Unsaved
from corlld.loop.offsets import LowWatermarks
from corlld.loop.transitions import Selection, after_erasure, after_update, next_version, place, select
from corlld.observer import Observer
from corlld.protocols import Learner
from corlld.records import (
    DeadLetter,
    EraseEvent,
    Statistics,
    Tenure,
    TrainingBatch,
    UpdateOutcome,
    UserState,
)
from corlld.settings.sections import Settings

log = structlog.get_logger("corlld.claims")


class Claims:
    """Every user that is being worked on, one claim each, and the states in host memory in between.

    Args:
        trainer: where steps run.
        durability: where states are loaded and stored.
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
        learner: Learner,
        durability: Durability,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._batcher = batcher
        self._watermarks = watermarks
        self._intake = intake
        self._jobs = jobs
        self._trainer = trainer
        self._learner = learner
        self._durability = durability
        self._observer = observer
        self._clock = clock
        self.memory = HostMemory(settings)
        self._claims: dict[str, Claim] = {}
        self._stopping = False
        self.training = False  # a call of the learner is under way

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def under_way(self) -> bool:
        """Whether updates have begun that are not durable and visible yet, and are to be: no erasure covers them."""
        begun = any(claim.phase in (Phase.TRAINING, Phase.STORING) for claim in self._claims.values())
        return begun or not all(self._batcher.erases(uid) for uid in self.memory.unsaved)

    @property
    def unsaved_users(self) -> int:
        return len(self.memory.unsaved) + sum(claim.unsaved is not None for claim in self._claims.values())

    def unsaved_age_seconds(self, now: float) -> float:
        """Since the oldest update that is not durable and visible came back; 0 with none."""
        claimed = (claim.unsaved.since for claim in self._claims.values() if claim.unsaved is not None)
        return now - min(self.memory.unsaved.oldest_since(), *claimed, now)

    # --- what the loop asks for ---------------------------------------------------------------------------------------

    def expect(self, uid: str) -> None:
        """An edit of the user waits: its state may be loaded before the micro-batch is due."""
        if uid not in self._claims:
            self.memory.expect(uid)

    def stop(self) -> None:
        """Nothing is trained any more, and what is unsaved is due."""
        self._stopping = True
        self._rest_ready()

    def end_tenure(self, tenure: Tenure) -> None:
        """Another owner may write these states from now on.

        A stale copy could not overwrite anything, since its swap would be lost; but its step would be wasted.
        """
        self._rest_ready()
        for claim in self._claims.values():
            claim.stale = True
        for unsaved in self.memory.end_partition(tenure.partition.key):
            self._give_back(unsaved.selection)

    def store_due(self, now: float) -> None:
        """Begin to store unsaved states that are due, as far as there is room."""
        for uid in list(itertools.islice(self._due(now), self._room)):
            if (unsaved := self.memory.unsaved.take(uid)) is not None:
                claim = self._claims[uid] = Claim(uid, Phase.STORING, unsaved.state, unsaved.token, unsaved=unsaved)
                self._store(claim, unsaved)

    def claim_users(self, now: float) -> None:
        """Begin with users whose micro-batch is due, as far as there is room."""
        waiting = sum(claim.phase in (Phase.LOADING, Phase.READY) for claim in self._claims.values())
        # Twice a step's worth waits: while one step trains, the states of the next one are loaded.
        room = max(0, min(2 * self._settings.batching.max_users_per_step - waiting, self._room))
        for uid in list(itertools.islice(self._batcher.ready(now, exclude=self._claims), room)):
            if (held := self.memory.begin(uid)) is None:
                claim = self._claims[uid] = Claim(uid, Phase.LOADING)
                self._load(claim)
            else:
                unsaved = held if isinstance(held, Unsaved) else None
                self._claims[uid] = Claim(uid, Phase.READY, held.state, held.token, unsaved=unsaved)

    def load_ahead(self) -> None:
        """Begin to load states of users whose edits still gather, as far as there is room."""
        while self._room and (uid := self.memory.prefetch.next()) is not None:
            claim = self._claims[uid] = Claim(uid, Phase.PREFETCHING)
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
        batches = [TrainingBatch(c.uid, c.state.adapter if c.state else None, c.edits) for c in claims]
        self._jobs.submit(self._trainer, trained, self._learner.update, batches)

    @property
    def _room(self) -> int:
        """How many more users may be claimed.

        Twice a step's worth trains or waits for it, and twice as much may be on its way out: each holds a state, and a
        store that is away must not fill the memory with them.
        """
        return max(0, 4 * self._settings.batching.max_users_per_step - len(self._claims))

    def _due(self, now: float) -> Iterator[str]:
        """Whose unsaved state is to be stored. Nothing of it may be where an erasure waits, which covers it."""
        due = set(self.memory.unsaved.due(now))
        for uid in self.memory.unsaved:
            nothing_follows = self._stopping or (self._batcher.draining and uid not in self._batcher)
            if (uid in due or nothing_follows) and not self._batcher.erases(uid):
                yield uid

    # --- one user -----------------------------------------------------------------------------------------------------

    def _load(self, claim: Claim) -> None:
        def loaded(state: UserState | None, token: str) -> None:
            claim.state, claim.token = state, token
            if claim.phase is Phase.LOADING:
                claim.phase = Phase.READY
            else:
                self.memory.prefetch.loaded(claim.uid, state)
                self._rest(claim)

        self._durability.load(claim.uid, loaded, lambda error: self._set_user_aside(claim, error))

    def _set_user_aside(self, claim: Claim, error: StateUnreadable) -> None:
        log.error("state_unreadable", uid=claim.uid, problem=str(error))
        self.memory.drop(claim.uid)
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
            # Covered by what is stored: a partition comes again only as a new tenure, when unsaved updates are dropped.
            self._finish(claim)

    def _erase(self, claim: Claim) -> None:
        """Whatever came before the last new erasure is covered by it, unsaved updates too; what came after waits."""
        last = max(place(a) for a in claim.selection.fresh if isinstance(a.event, EraseEvent))
        arrivals = sorted(claim.selection.arrivals, key=place)
        erased = [arrival for arrival in arrivals if place(arrival) <= last]
        self._batcher.put_back(arrival for arrival in arrivals if place(arrival) > last)
        before = claim.unsaved.selection if claim.unsaved else Selection()
        claim.selection = before + claim.selection.through(last)
        self._save(claim, after_erasure(claim.uid, claim.state, erased), make_visible=True)

    def _conclude(self, claim: Claim, outcome: UpdateOutcome) -> None:
        state = after_update(claim.uid, claim.state, claim.selection, outcome, self._settings.state.recent_event_ids)
        before = claim.state.statistics if claim.state else Statistics()
        self._observer.update(before, state, claim.edits, outcome)
        if rejected := Counter(pair.reason.value for pair in outcome.pairs if pair.reason is not None):
            log.info("rejected", uid=claim.uid, edits=rejected.total(), reasons=dict(rejected))
        unsaved = claim.unsaved or Unsaved(state, claim.token, since=self._clock())
        claim.unsaved = unsaved.and_then(state, claim.selection, trained=outcome.trained)
        if claim.stale:
            self._store(claim, claim.unsaved)
        else:
            self._rest(claim)

    def _store(self, claim: Claim, unsaved: Unsaved) -> None:
        state = next_version(unsaved.state) if unsaved.trained else unsaved.state
        claim.selection = unsaved.selection
        self._save(claim, state, make_visible=unsaved.trained)

    def _save(self, claim: Claim, state: UserState, *, make_visible: bool) -> None:
        claim.phase = Phase.STORING

        def stored(token: str) -> None:
            claim.state, claim.token, claim.unsaved = state, token, None
            self._finish(claim)

        def lost() -> None:
            """Another owner wrote first: its state, loaded anew, decides what is still to be applied."""
            self._give_back(claim.selection)
            self.memory.drop(claim.uid)
            del self._claims[claim.uid]

        self._durability.save(
            state, claim.token, make_visible=make_visible, arrivals=claim.selection.fresh, stored=stored, lost=lost
        )

    def _finish(self, claim: Claim) -> None:
        """Every arrival of the claim has a durable outcome that is out: they may be committed."""
        arrivals = claim.selection.arrivals
        for arrival in arrivals:
            self._watermarks.finish(arrival.record)
        self._batcher.release(arrivals)
        duplicates = len(claim.selection.covered) + len(claim.selection.duplicates)
        self._observer.finished(arrivals, duplicates, self._clock())
        self._rest(claim)

    def _rest(self, claim: Claim) -> None:
        """Nothing is under way for the user: what is known of it stays in host memory."""
        del self._claims[claim.uid]
        if claim.unsaved is not None:
            self.memory.put_unsaved(claim.unsaved)
        elif claim.stale:
            self.memory.drop(claim.uid)
        else:
            self.memory.put_stored(claim.uid, claim.state, claim.token)

    def _rest_ready(self) -> None:
        for claim in [claim for claim in self._claims.values() if claim.phase is Phase.READY]:
            self._rest(claim)

    def _give_back(self, selection: Selection) -> None:
        """Arrivals whose updates are forgotten wait in front again, in order; those of ended tenures are not ours."""
        arrivals = sorted(selection.arrivals, key=place)
        live = [arrival for arrival in arrivals if self._watermarks.is_live(arrival.record.tenure)]
        self._batcher.put_back(live)
        self._batcher.release(a for a in arrivals if not self._watermarks.is_live(a.record.tenure))
