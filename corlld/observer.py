"""The observer: the start and the loop report to it what happens, for metrics, health, progress and summaries."""

from collections.abc import Mapping, Sequence

from corlld.durable import ModelInfo, Statistics, UserState
from corlld.records import Arrival, DeadLetter, DuplicateReason, EditEvent, LoopStatus, Stage, UpdateOutcome


class Observer:
    """Hears what happens. This base class ignores every report; subclasses override the reports they need.

    Every call comes from the thread of the start and the loop, and must not hold it up.
    """

    def starting(self, waiting_for: Stage) -> None:
        """Report that the start waits: first for the input, then for the model, then for the state store."""

    def model_loaded(self, model: ModelInfo, device: str, dtype: str) -> None:
        """Report that the base model is resident."""

    def new_users_begin_from(self, start: str | None) -> None:
        """Report the digest of the start adapter; None if new users begin from the base model."""

    def loop_begins(self, now: float) -> None:
        """Report that all is built and the loop begins. `now`: seconds on the daemon's monotonic clock."""

    def turned(self, status: LoopStatus) -> None:
        """Report the loop's status, about once a second, also while it stops. The first report ends the start."""

    def read(self, records: int) -> None:
        """Report how many records a poll brought."""

    def admitted(self, arrival: Arrival) -> None:
        """Report that a valid event came in."""

    def dead_letter(self, letter: DeadLetter) -> None:
        """Report that a record is being set aside."""

    def step(self, users: int, seconds: float) -> None:
        """Report that a call of the learner came back: how many users it trained, and how long it took."""

    def update(self, before: Statistics, state: UserState, events: Sequence[EditEvent], outcome: UpdateOutcome) -> None:
        """Report that one user's micro-batch was trained.

        A micro-batch is reported again if it is trained again: its update was lost to another owner, or was dropped
        when the partition's tenure ended.

        Args:
            before: the user's figures before the micro-batch.
            state: includes the micro-batch. Its version is still that of the stored state. It may never be stored
                itself, since another micro-batch may follow first.
            events: the new edits, in order.
            outcome: the learner's outcome for them.
        """

    def stored(self, state: UserState, seconds: float) -> None:
        """Report that a state is durable, and how long the save took."""

    def lost_swap(self) -> None:
        """Report that a save failed because another owner had stored a newer state."""

    def published(self, state: UserState, arrivals: Sequence[Arrival], seconds: float) -> None:
        """Report that a new version, or an erasure, is visible. `arrivals` are those that are new in it."""

    def duplicates(self, numbers: Mapping[DuplicateReason, int]) -> None:
        """Report how many arrivals were passed over, since they had been applied before, by how that is known."""

    def finished(self, arrivals: Sequence[Arrival], now: float) -> None:
        """Report arrivals whose outcome is durable, so that they may be committed. Duplicates are among them.

        now: seconds on the daemon's monotonic clock.
        """

    def commit_begun(self) -> None:
        """Report that a commit of offsets has begun."""

    def will_retry(self, stage: Stage) -> None:
        """Report that a job of this stage failed for now: of the state store, publishing or the dead letters."""


class Observers(Observer):
    """Passes every report on to several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def starting(self, waiting_for: Stage) -> None:
        for observer in self._observers:
            observer.starting(waiting_for)

    def model_loaded(self, model: ModelInfo, device: str, dtype: str) -> None:
        for observer in self._observers:
            observer.model_loaded(model, device, dtype)

    def new_users_begin_from(self, start: str | None) -> None:
        for observer in self._observers:
            observer.new_users_begin_from(start)

    def loop_begins(self, now: float) -> None:
        for observer in self._observers:
            observer.loop_begins(now)

    def turned(self, status: LoopStatus) -> None:
        for observer in self._observers:
            observer.turned(status)

    def read(self, records: int) -> None:
        for observer in self._observers:
            observer.read(records)

    def admitted(self, arrival: Arrival) -> None:
        for observer in self._observers:
            observer.admitted(arrival)

    def dead_letter(self, letter: DeadLetter) -> None:
        for observer in self._observers:
            observer.dead_letter(letter)

    def step(self, users: int, seconds: float) -> None:
        for observer in self._observers:
            observer.step(users, seconds)

    def update(self, before: Statistics, state: UserState, events: Sequence[EditEvent], outcome: UpdateOutcome) -> None:
        for observer in self._observers:
            observer.update(before, state, events, outcome)

    def stored(self, state: UserState, seconds: float) -> None:
        for observer in self._observers:
            observer.stored(state, seconds)

    def lost_swap(self) -> None:
        for observer in self._observers:
            observer.lost_swap()

    def published(self, state: UserState, arrivals: Sequence[Arrival], seconds: float) -> None:
        for observer in self._observers:
            observer.published(state, arrivals, seconds)

    def duplicates(self, numbers: Mapping[DuplicateReason, int]) -> None:
        for observer in self._observers:
            observer.duplicates(numbers)

    def finished(self, arrivals: Sequence[Arrival], now: float) -> None:
        for observer in self._observers:
            observer.finished(arrivals, now)

    def commit_begun(self) -> None:
        for observer in self._observers:
            observer.commit_begun()

    def will_retry(self, stage: Stage) -> None:
        for observer in self._observers:
            observer.will_retry(stage)
