"""One user's stages, in order of life: begin, load, select, train, erase, store, finish, rest, give back.

A user is claimed by `begin`, `load` or `store_unsaved`. The claim ends when the user's state rests in host memory
again, or is forgotten. Who is claimed, and when a step starts, is decided in `claims`.

All of it runs in the loop's thread. Workers return values through futures whose handlers run there too, so nothing here
is shared between threads.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import structlog

from corlld.durable import ModuleNames, Statistics, UserState
from corlld.errors import InvalidEvent, UserTrouble
from corlld.loop.batching import Batcher
from corlld.loop.durability import Durability
from corlld.loop.enrolment import Enrolment
from corlld.loop.event_ids import EventIds
from corlld.loop.intake import Intake
from corlld.loop.memory.host_memory import HostMemory
from corlld.loop.memory.unsaved import Unsaved
from corlld.loop.offsets import LowWatermarks
from corlld.loop.transitions import Selection, after_erasure, after_update, next_version, place, select
from corlld.observer import Observer
from corlld.records import DeadLetter, DuplicateReason, EditEvent, EraseEvent, TrainingBatch, UpdateOutcome
from corlld.settings.sections import Settings

log = structlog.get_logger("corlld.claims")  # operators filter by this name


class Phase(Enum):
    """The phase of a claimed user. A claim has at most one job under way: one load, one step or one write."""

    PREFETCHING = auto()  # loading, before a micro-batch is due
    LOADING = auto()
    READY = auto()
    TRAINING = auto()
    STORING = auto()  # until the state is visible as well


@dataclass
class Claim:
    """A user that the loop is working on, until the state rests in host memory again.

    state: includes the unsaved updates.
    token: belongs to the stored state.
    selection: while training, the arrivals of the micro-batch; while storing, all arrivals that the new state covers.
    unsaved: the updates before this micro-batch that are not stored.
    stale: an assignment ended meanwhile. The state is forgotten afterwards, since another owner may write it.
    """

    uid: str
    phase: Phase
    state: UserState | None = None
    token: str = ""
    selection: Selection = field(default_factory=Selection)
    unsaved: Unsaved | None = None
    stale: bool = False

    @property
    def edits(self) -> tuple[EditEvent, ...]:
        """The new edits of the micro-batch, in order."""
        return tuple(a.event for a in self.selection.fresh if isinstance(a.event, EditEvent))


class Stages:
    """Takes one user at a time from stage to stage.

    claims: the users that are being worked on. Only the stages add and remove claims.
    memory: the states of the other users, as far as they are in host memory.
    module_names: the model's; new versions keep them.
    """

    def __init__(
        self,
        settings: Settings,
        module_names: ModuleNames | None,
        batcher: Batcher,
        watermarks: LowWatermarks,
        intake: Intake,
        durability: Durability,
        event_ids: EventIds,
        enrolment: Enrolment,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._enrolment = enrolment
        self._batcher = batcher
        self._watermarks = watermarks
        self._intake = intake
        self._durability = durability
        self._event_ids = event_ids
        self._observer = observer
        self._clock = clock
        self._module_names = module_names
        self.claims: dict[str, Claim] = {}
        self.memory = HostMemory(settings)

    # --- begin and load -----------------------------------------------------------------------------------------------

    def begin(self, uid: str) -> None:
        """Claim a user whose micro-batch is due. The state comes from host memory, or is loaded."""
        if (held := self.memory.begin(uid)) is None:
            self.load(uid, Phase.LOADING)
        else:
            unsaved = held if isinstance(held, Unsaved) else None
            self.claims[uid] = Claim(uid, Phase.READY, held.state, held.token, unsaved=unsaved)

    def load(self, uid: str, phase: Phase) -> None:
        """Claim a user and load the state. LOADING ends in READY, PREFETCHING ends at rest."""
        claim = self.claims[uid] = Claim(uid, phase)

        def loaded(state: UserState | None, token: str) -> None:
            claim.state, claim.token = state, token
            if claim.phase is Phase.LOADING:
                claim.phase = Phase.READY
            else:
                self.memory.prefetch.loaded(uid, state)
                self.rest(claim)

        self._durability.load(uid, loaded, lambda error: self._set_user_aside(claim, error))

    def _set_user_aside(self, claim: Claim, error: UserTrouble) -> None:
        """Make dead letters of the claim's arrivals, and of all that wait."""
        log.error("user_set_aside", uid=claim.uid, reason=error.reason.value, problem=str(error))
        self.memory.drop(claim.uid)
        taken = self._batcher.take(claim.uid, self._batcher.events).arrivals
        arrivals = (*sorted(claim.selection.arrivals, key=place), *taken)
        self._batcher.release(arrivals)
        for arrival in arrivals:
            if self._watermarks.is_live(arrival.record.tenure):
                problem = InvalidEvent(error.reason, detail=error.detail)
                self._intake.set_aside(DeadLetter(arrival.record, problem, claim.uid))
        del self.claims[claim.uid]

    # --- select and train ---------------------------------------------------------------------------------------------

    def select(self, claim: Claim, limit: int) -> None:
        """Take at most `limit` new events of a user who is READY. Duplicates are replaced from the buffer.

        The claim is TRAINING afterwards if there is anything to train on. If not, the next stage has begun already.
        """
        while len(claim.selection.fresh) < limit:
            batch = self._batcher.take(claim.uid, limit - len(claim.selection.fresh))
            claim.selection = select(self._event_ids, claim.state, batch.arrivals, claim.selection)
            if any(isinstance(arrival.event, EraseEvent) for arrival in claim.selection.fresh):
                self._erase(claim)
                return
            if not batch.arrivals:
                break
        if claim.selection.fresh:
            held_out = self._enrolment.held_out(claim.uid, claim.state, claim.edits)
            if held_out is None:
                claim.phase = Phase.TRAINING
            else:
                self.conclude(claim, held_out)
        elif claim.selection.duplicates:
            adapter = claim.state.adapter if claim.state else None
            self.conclude(claim, UpdateOutcome(claim.uid, adapter, trained=False, pairs=()))
        else:
            # All of it is covered, and by the stored state: a partition is read again only under a new tenure, and the
            # end of the old one dropped the unsaved updates.
            self._finish(claim)

    def batch_of(self, claim: Claim) -> TrainingBatch:
        """Return what the learner is given for a claim that is TRAINING."""
        adapter = claim.state.adapter if claim.state else None
        return TrainingBatch(claim.uid, adapter, claim.edits, self._enrolment.rule_of(claim.uid, claim.state))

    def put_off(self, claim: Claim) -> None:
        """End the claim of a user who is TRAINING and whose step can't begin: the micro-batch waits again."""
        self.give_back(claim.selection)
        claim.selection = Selection()
        if claim.stale and claim.unsaved is not None:
            self._store(claim, claim.unsaved)
        else:
            self.rest(claim)

    def conclude(self, claim: Claim, outcome: UpdateOutcome) -> None:
        """Put the micro-batch into the user's state, which stays unsaved for a while unless the claim is stale."""
        state = after_update(self._event_ids, claim.uid, claim.state, claim.selection, outcome)
        state = self._enrolment.taken_in(claim.state, state, claim.edits, outcome)
        before = claim.state.statistics if claim.state else Statistics()
        self._observer.update(before, state, claim.edits, outcome)
        if rejected := Counter(pair.reason.value for pair in outcome.pairs if pair.reason is not None):
            log.info("rejected", uid=claim.uid, edits=rejected.total(), reasons=dict(rejected))
        unsaved = claim.unsaved or Unsaved(state, claim.token, since=self._clock())
        claim.unsaved = unsaved.and_then(state, claim.selection, trained=outcome.trained)
        if claim.stale:
            self._store(claim, claim.unsaved)
        else:
            self.rest(claim)

    # --- erase and store ----------------------------------------------------------------------------------------------

    def _erase(self, claim: Claim) -> None:
        """Store a tombstone in place of all that came before the last new erasure, unsaved updates included.

        Arrivals after that erasure go back to the buffer.
        """
        last = max(place(a) for a in claim.selection.fresh if isinstance(a.event, EraseEvent))
        arrivals = sorted(claim.selection.arrivals, key=place)
        erased = [arrival for arrival in arrivals if place(arrival) <= last]
        self._batcher.put_back(arrival for arrival in arrivals if place(arrival) > last)
        before = claim.unsaved.selection if claim.unsaved else Selection()
        claim.selection = before + claim.selection.through(last)
        self._save(claim, after_erasure(self._event_ids, claim.uid, claim.state, erased), make_visible=True)

    def store_unsaved(self, uid: str) -> None:
        """Claim a user who has unsaved updates in host memory, and begin to store them."""
        if (unsaved := self.memory.unsaved.take(uid)) is not None:
            claim = self.claims[uid] = Claim(uid, Phase.STORING, unsaved.state, unsaved.token, unsaved=unsaved)
            self._store(claim, unsaved)

    def _store(self, claim: Claim, unsaved: Unsaved) -> None:
        state = next_version(unsaved.state, self._module_names) if unsaved.trained else unsaved.state
        claim.selection = unsaved.selection
        self._save(claim, state, make_visible=unsaved.trained)

    def _save(self, claim: Claim, state: UserState, *, make_visible: bool) -> None:
        claim.phase = Phase.STORING

        def stored(token: str) -> None:
            claim.state, claim.token, claim.unsaved = state, token, None
            self._finish(claim)

        def lost() -> None:
            # Another owner stored a state first. Once that is loaded, it decides what is still to be applied.
            self.give_back(claim.selection)
            self.memory.drop(claim.uid)
            del self.claims[claim.uid]

        self._durability.save(
            state,
            claim.token,
            make_visible=make_visible,
            arrivals=claim.selection.fresh,
            stored=stored,
            lost=lost,
            troubled=lambda error: self._set_user_aside(claim, error),
        )

    # --- finish, rest and give back -----------------------------------------------------------------------------------

    def _finish(self, claim: Claim) -> None:
        """Finish the claim's arrivals, whose outcome is durable and visible: they may be committed."""
        arrivals = claim.selection.arrivals
        for arrival in arrivals:
            self._watermarks.finish(arrival.record)
        self._batcher.release(arrivals)
        covered, known = len(claim.selection.covered), len(claim.selection.duplicates)
        if covered or known:
            log.debug("duplicates", uid=claim.uid, offset=covered, event_id=known)
            self._observer.duplicates({DuplicateReason.OFFSET: covered, DuplicateReason.EVENT_ID: known})
        self._observer.finished(arrivals, self._clock())
        self.rest(claim)

    def rest(self, claim: Claim) -> None:
        """End the claim of a user without a job under way. The state stays in host memory unless it is stale."""
        del self.claims[claim.uid]
        if claim.unsaved is not None:
            self.memory.put_unsaved(claim.unsaved)
        elif claim.stale:
            self.memory.drop(claim.uid)
        else:
            self.memory.put_stored(claim.uid, claim.state, claim.token)

    def give_back(self, selection: Selection) -> None:
        """Return arrivals whose updates are forgotten to the front of the buffer, in order.

        Arrivals of ended tenures are released: they belong to another owner.
        """
        arrivals = sorted(selection.arrivals, key=place)
        live = [arrival for arrival in arrivals if self._watermarks.is_live(arrival.record.tenure)]
        self._batcher.put_back(live)
        self._batcher.release(a for a in arrivals if not self._watermarks.is_live(a.record.tenure))
