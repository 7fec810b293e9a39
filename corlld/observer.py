"""What the start and the loop tell, and to whom."""

from collections.abc import Sequence

from corlld.records import (
    Arrival,
    DeadLetter,
    EditEvent,
    LoopStatus,
    ModelInfo,
    Stage,
    Statistics,
    UpdateOutcome,
    UserState,
)


class Observer:
    """Told what happened, for metrics, health, progress and summaries. This one looks away.

    Every call comes from the thread of the start and the loop, which it must not hold up.
    """

    def starting(self, waiting_for: Stage) -> None:
        """The start waits for the input, then for the model, then for the state store."""

    def model_loaded(self, model: ModelInfo, device: str, dtype: str) -> None:
        """The base model is resident."""

    def turned(self, status: LoopStatus) -> None:
        """The loop turned. About once a second, also while it stops; the first one says that the start is over."""

    def read(self, records: int) -> None:
        """A poll brought records."""

    def admitted(self, arrival: Arrival) -> None:
        """A valid event came in."""

    def dead_letter(self, letter: DeadLetter) -> None:
        """A record is being set aside."""

    def step(self, users: int, seconds: float) -> None:
        """One call of the learner came back."""

    def update(self, before: Statistics, state: UserState, events: Sequence[EditEvent], outcome: UpdateOutcome) -> None:
        """One user's micro-batch was trained; `state` has it in it, and `before` are the figures from before it.

        The state is under the version that is stored still, and perhaps is never stored itself: more may follow.

        Told again where it is lost to another owner, or given up with its partition, and trained once more.
        """

    def stored(self, state: UserState, seconds: float) -> None:
        """A state is durable, after a save of so long."""

    def lost_swap(self) -> None:
        """Another owner had stored a newer state."""

    def published(self, state: UserState, arrivals: Sequence[Arrival], seconds: float) -> None:
        """A new version, or an erasure, is visible, after so long; `arrivals` are what is new in it."""

    def finished(self, arrivals: Sequence[Arrival], duplicates: int, now: float) -> None:
        """Arrivals have their durable outcome: they may be committed. So many of them had been applied before."""

    def commit_begun(self) -> None:
        """Offsets are being committed."""

    def will_retry(self, stage: Stage) -> None:
        """A job of this stage failed for now: the state store, publishing or the dead letters."""


class Observers(Observer):
    """Tells several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def starting(self, waiting_for: Stage) -> None:
        for observer in self._observers:
            observer.starting(waiting_for)

    def model_loaded(self, model: ModelInfo, device: str, dtype: str) -> None:
        for observer in self._observers:
            observer.model_loaded(model, device, dtype)

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

    def finished(self, arrivals: Sequence[Arrival], duplicates: int, now: float) -> None:
        for observer in self._observers:
            observer.finished(arrivals, duplicates, now)

    def commit_begun(self) -> None:
        for observer in self._observers:
            observer.commit_begun()

    def will_retry(self, stage: Stage) -> None:
        for observer in self._observers:
            observer.will_retry(stage)
