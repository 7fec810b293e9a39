"""Decides who is worked on, and when: claims, loads ahead, the start of a step, the end of a tenure.

What happens to a claimed user is in `stages`. All of it runs in the loop's thread.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, Future

from corlld.loop.attempts import AttemptJournal
from corlld.loop.batching import Batcher
from corlld.loop.jobs import Jobs
from corlld.loop.quarantine import Quarantine
from corlld.loop.stages import Claim, Phase, Stages
from corlld.observer import Observer
from corlld.protocols import Learner
from corlld.records import Arrival, EraseEvent, Tenure, UpdateOutcome
from corlld.settings.sections import Settings


class Claims:
    """Decides which users are claimed, and which of them train in the next step.

    Args:
        settings: the limits of a step are read from `batching`.
        stages: has the claims, and takes each claimed user onward.
        trainer: runs the steps.
        journal: notes each step before it begins, and after it has ended.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        stages: Stages,
        batcher: Batcher,
        jobs: Jobs,
        trainer: Executor,
        learner: Learner,
        journal: AttemptJournal,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._users_per_step = settings.batching.max_users_per_step
        self._stages = stages
        self._claims = stages.claims
        self.memory = stages.memory
        self._batcher = batcher
        self._jobs = jobs
        self._trainer = trainer
        self._learner = learner
        self._observer = observer
        self._clock = clock
        self._journal = journal
        self._quarantine = Quarantine(settings.batching, journal, batcher)
        self._closed = False  # while a suspect is tried, nobody else is claimed
        self._stopping = False
        self._put_off: set[str] = set()  # held ones whose waiting erasures are duplicates, and cover nothing
        self._step_begun = False  # a step is being noted in the journal, or trained
        self.training = False  # a call of the learner is under way

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def under_way(self) -> bool:
        """True if an update has begun that must still become durable and visible.

        Unsaved updates that a waiting erasure covers do not count.
        """
        begun = any(claim.phase in (Phase.TRAINING, Phase.STORING) for claim in self._claims.values())
        return begun or self._has_unsaved

    @property
    def unsaved_users(self) -> int:
        return len(self.memory.unsaved) + sum(claim.unsaved is not None for claim in self._claims.values())

    def unsaved_age_seconds(self, now: float) -> float:
        """Return the age of the oldest update that is not durable and visible, from when it came back; 0 with none."""
        claimed = (claim.unsaved.since for claim in self._claims.values() if claim.unsaved is not None)
        return now - min(self.memory.unsaved.oldest_since(), *claimed, now)

    def expect(self, arrival: Arrival) -> None:
        """Note that an edit of the user waits: the state may be loaded before the micro-batch is due."""
        self._quarantine.expect(arrival)
        if isinstance(arrival.event, EraseEvent):
            self._put_off.discard(arrival.uid)
        if arrival.uid not in self._claims:
            self.memory.expect(arrival.uid)

    def stop(self) -> None:
        """Train nothing any more. All unsaved updates are due from now on."""
        self._stopping = True
        self._rest_ready(tuple(self._claims))

    def end_tenure(self, tenure: Tenure) -> None:
        """Forget the states that the partition's next owner may write.

        A stale copy could not overwrite anything, since its swap would be lost; but its step would be wasted.
        """
        self._rest_ready(tuple(self._claims))
        for claim in self._claims.values():
            claim.stale = True
        for unsaved in self.memory.end_partition(tenure.partition.key):
            self._stages.give_back(unsaved.selection)

    def store_due(self, now: float) -> None:
        """Begin to store the unsaved states that are due, as far as there is room."""
        for uid in list(itertools.islice(self._due(now), self._room)):
            self._stages.store_unsaved(uid)

    def claim_users(self, now: float) -> None:
        """Claim users whose micro-batch is due, as far as there is room.

        Suspects wait until they are tried, and users of partitions that the journal holds until it can be saved.
        """
        self._batcher.held = self._journal.held
        held = self._held_users()
        turn = self._quarantine.turn(now, busy=bool(self._claims), unsaved=self._has_unsaved, held=held)
        self._closed = turn.closed
        self._rest_ready({*turn.suspects, *held})
        if turn.closed:
            for uid in turn.users:
                self._stages.begin(uid)
            return
        waiting = sum(claim.phase in (Phase.LOADING, Phase.READY) for claim in self._claims.values())
        # Twice a step's worth waits: while one step trains, the states of the next one are loaded.
        room = max(0, min(2 * self._users_per_step - waiting, self._room))
        exclude = {*self._claims, *turn.suspects, *held} if turn.suspects or held else self._claims
        for uid in list(itertools.islice(self._batcher.ready(now, exclude=exclude), room)):
            self._stages.begin(uid)

    def load_ahead(self) -> None:
        """Begin to load states of users whose edits still gather, as far as there is room."""
        while self._room and not self._closed and (uid := self.memory.prefetch.next()) is not None:
            self._stages.load(uid, Phase.PREFETCHING)

    def start_step(self) -> None:
        """Train the users who are ready, unless a step is under way. The journal notes the step before it begins."""
        if self._step_begun:
            return
        claims = self._select_ready()
        if not claims:
            return
        self._step_begun = True
        step = {claim.uid: claim.selection.fresh for claim in claims}
        self._journal.trying(step, lambda uids: self._begin_step(claims, uids))

    def _begin_step(self, claims: Sequence[Claim], allowed: Collection[str]) -> None:
        """Train those who are allowed to. The micro-batches of the others wait again."""
        begins = []
        for claim in claims:
            if claim.uid in allowed:
                begins.append(claim)
            else:
                if not self._batcher.erases(claim.uid):  # those that the micro-batch took are duplicates
                    self._put_off.add(claim.uid)
                self._stages.put_off(claim)
        if begins:
            self._train(begins)
        else:
            self._step_begun = False

    def _train(self, claims: Sequence[Claim]) -> None:
        arrivals = [arrival for claim in claims for arrival in claim.selection.fresh]
        batches = [self._stages.batch_of(claim) for claim in claims]
        started = self._clock()

        def trained(future: "Future[list[UpdateOutcome]]") -> None:
            self._step_begun = self.training = False
            self._observer.step(len(claims), self._clock() - started)
            outcomes = future.result()
            self._journal.tried(arrivals)
            for claim, outcome in zip(claims, outcomes, strict=True):
                self._stages.conclude(claim, outcome)

        self.training = True
        self._jobs.submit(self._trainer, trained, self._learner.update, batches)

    def _select_ready(self) -> list[Claim]:
        """Take the micro-batches of the users who are ready. Return those who have something to train on."""
        claims: list[Claim] = []
        for claim in [claim for claim in self._claims.values() if claim.phase is Phase.READY]:
            if len(claims) == self._users_per_step:
                break
            self._stages.select(claim, self._quarantine.max_events)
            if claim.phase is Phase.TRAINING:
                claims.append(claim)
        return claims

    def _held_users(self) -> Collection[str]:
        """Return users who may not train now. An erasure is not held: it covers what waits before it, untried."""
        if not self._batcher.held:
            self._put_off.clear()
        return {uid for uid in self._batcher.users_held() if not self._erases(uid)}

    def _erases(self, uid: str) -> bool:
        """Return whether an erasure of the user waits that covers what waits before it, and the unsaved updates."""
        return self._batcher.erases(uid) and uid not in self._put_off

    @property
    def _has_unsaved(self) -> bool:
        """True if an update is in host memory alone and may be stored: a waiting erasure replaces the others."""
        return any(not self._erases(uid) for uid in self.memory.unsaved)

    @property
    def _room(self) -> int:
        """The number of users that may be claimed now.

        Twice a step's worth of users trains or waits for it, and twice as many may be on their way out. Each holds a
        state, and a store that is away must not fill the memory with them.
        """
        return max(0, 4 * self._users_per_step - len(self._claims))

    def _due(self, now: float) -> Iterator[str]:
        """Yield users whose unsaved state must be stored now.

        A user with a waiting erasure is skipped: the tombstone replaces the state, and none of it may be stored.
        """
        due = set(self.memory.unsaved.due(now))
        for uid in self.memory.unsaved:
            nothing_follows = self._stopping or self._closed or (self._batcher.draining and uid not in self._batcher)
            if (uid in due or nothing_follows) and not self._erases(uid):
                yield uid

    def _rest_ready(self, uids: Collection[str]) -> None:
        for claim in [self._claims[uid] for uid in uids if uid in self._claims]:
            if claim.phase is Phase.READY:
                self._stages.rest(claim)
