"""Gathers each user's arrivals into micro-batches by size or age, fairly and within bounds.

Time is an argument. Arrivals that were taken still count for back-pressure until they are released, since they stay in
memory until a stored state covers them.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Container, Iterable, Iterator

from corlld.records import Arrival, EraseEvent, MicroBatch, Tenure
from corlld.settings.sections import BatchingSettings

LOW_MARK = 0.8  # reading resumes below this share of the limits; the gap keeps pauses from flapping


class Batcher:
    """Per-user queues in arrival order. Users take turns: whoever was served last waits longest."""

    def __init__(self, settings: BatchingSettings) -> None:
        self._settings = settings
        self._queues: OrderedDict[str, deque[Arrival]] = OrderedDict()
        self._with_erasure: set[str] = set()
        self.draining = False  # the input has ended: every user is ready
        self.held: Collection[Tenure] = ()  # whose events wait for something that may take for ever
        self.events = 0  # buffered and in flight
        self.chars = 0
        self._events_of: Counter[Tenure] = Counter()
        self._chars_of: Counter[Tenure] = Counter()

    @property
    def full(self) -> bool:
        """True from the high mark on: reading must pause."""
        return self._fill >= 1.0

    @property
    def has_room(self) -> bool:
        """True below the low mark: reading may resume."""
        return self._fill < LOW_MARK

    @property
    def _fill(self) -> float:
        """Return how full the buffer is; 1 at the limit.

        The others must not wait for what is held. So that memory stays bounded, what is held is left out only up to the
        limit of the buffer: twice the limit is the most that is in memory.
        """
        shares = []
        for total, by_tenure, limit in (
            (self.events, self._events_of, self._settings.max_buffered_events),
            (self.chars, self._chars_of, self._settings.max_buffered_chars),
        ):
            held = sum(by_tenure[tenure] for tenure in self.held)
            shares.append((total - min(held, limit)) / limit)
        return max(shares)

    @property
    def waiting(self) -> int:
        """The number of arrivals in the queues, without those in flight."""
        return sum(len(queue) for queue in self._queues.values())

    def __contains__(self, uid: str) -> bool:
        """Return whether arrivals of the user wait."""
        return uid in self._queues

    def waiting_of(self, uid: str) -> tuple[Arrival, ...]:
        """Return the user's arrivals that wait, in order."""
        return tuple(self._queues.get(uid, ()))

    def erases(self, uid: str) -> bool:
        """Return whether an erasure of the user waits."""
        return uid in self._with_erasure

    def users_held(self) -> Iterator[str]:
        """Yield the users of whom an arrival waits that is held."""
        # Numbers, since this looks at all that waits in each turn of the loop: a tenure takes long to hash.
        held = {tenure.number for tenure in self.held if self._events_of[tenure]}
        for uid, queue in self._queues.items() if held else ():
            if any(arrival.record.tenure.number in held for arrival in queue):
                yield uid

    def add(self, arrival: Arrival) -> None:
        self._queues.setdefault(arrival.uid, deque()).append(arrival)
        if isinstance(arrival.event, EraseEvent):
            self._with_erasure.add(arrival.uid)
        self._count(arrival, +1)

    def ready(self, now: float, exclude: Container[str] = ()) -> Iterator[str]:
        """Yield the users whose micro-batch is due, in turn.

        Every user's is due if there is no room: reading pauses from the high mark down to the low mark, and between
        the two there may be no batch that is large or old enough.
        """
        everyone = self.draining or not self.has_room
        for uid, queue in self._queues.items():
            if uid in exclude:
                continue
            if (
                everyone
                or len(queue) >= self._settings.max_events
                or now - queue[0].arrived_at >= self._settings.flush_after_seconds
                or uid in self._with_erasure
            ):
                yield uid

    def take(self, uid: str, limit: int) -> MicroBatch:
        """Take at most `limit` arrivals from the front. May be empty.

        If an erasure waits, all arrivals up to the last erasure are taken, whatever the limit.
        """
        queue = self._queues.pop(uid, deque())
        count = min(limit, len(queue))
        if uid in self._with_erasure:
            self._with_erasure.discard(uid)
            # An erasure covers what came before it: those edits are not even trained on.
            count = 1 + max(i for i, arrival in enumerate(queue) if isinstance(arrival.event, EraseEvent))
        taken = tuple(queue.popleft() for _ in range(count))
        if queue:
            self._queues[uid] = queue  # at the end: the other users have their turn first
        return MicroBatch(uid, taken)

    def put_back(self, arrivals: Iterable[Arrival]) -> None:
        """Return arrivals that were taken to the front of each user's queue, in their order."""
        for arrival in reversed(tuple(arrivals)):
            self._queues.setdefault(arrival.uid, deque()).appendleft(arrival)
            if isinstance(arrival.event, EraseEvent):
                self._with_erasure.add(arrival.uid)

    def release(self, arrivals: Iterable[Arrival]) -> None:
        """Count arrivals that were taken no longer: they are finished, or belong to another owner now."""
        for arrival in arrivals:
            self._count(arrival, -1)

    def drop(self, tenure: Tenure) -> None:
        """Forget the waiting arrivals of an ended tenure. The partition's next owner reads them again."""
        for uid, queue in list(self._queues.items()):
            kept = deque(arrival for arrival in queue if arrival.record.tenure != tenure)
            if len(kept) == len(queue):
                continue
            self.release(arrival for arrival in queue if arrival.record.tenure == tenure)
            if kept:
                self._queues[uid] = kept
            else:
                del self._queues[uid]
            if not any(isinstance(arrival.event, EraseEvent) for arrival in kept):
                self._with_erasure.discard(uid)

    def next_due_seconds(self, now: float) -> float | None:
        """Return the seconds until the oldest waiting arrival is due by age; None if nothing waits."""
        if not self._queues:
            return None
        oldest = min(queue[0].arrived_at for queue in self._queues.values())
        return max(0.0, oldest + self._settings.flush_after_seconds - now)

    def _count(self, arrival: Arrival, sign: int) -> None:
        tenure = arrival.record.tenure
        self.events += sign
        self.chars += sign * arrival.chars
        self._events_of[tenure] += sign
        self._chars_of[tenure] += sign * arrival.chars
        if not self._events_of[tenure]:
            del self._events_of[tenure], self._chars_of[tenure]
