"""A daemon in memory that stores seldom, on a clock of the test's own, and a store that can be held up.

The clock moves a second per poll, a second per turn of a stop, and otherwise by the test's hand. It does not move while
other threads wait for their turn, and no number of looks at it makes anything due.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from corlld.durable import UserState
from corlld.observer import Observer
from corlld.records import LoopStatus, Polled
from tests.support.daemon_parts import PSEUDONYMS, Parts
from tests.support.fakes import Applied, ListingLearner, MemoryStore, ScriptedSource

NEVER = 1e12  # seconds; a turn takes one
ANN, BOB = PSEUDONYMS.uid("ann"), PSEUDONYMS.uid("bob")


class RecordingStore(MemoryStore):
    """Remembers loads and saves in order, and checks that no user has two of them under way at once.

    `before_load` and `before_save` are called first, so that a test can hold up a load or a save.
    """

    def __init__(
        self,
        before_load: Callable[[str], None] = lambda uid: None,
        before_save: Callable[[str], None] = lambda uid: None,
    ) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.saves: list[UserState] = []
        self.under_way: set[str] = set()
        self.most_loads_at_once = 0
        self._before_load = before_load
        self._before_save = before_save

    def load(self, uid: str) -> tuple[UserState | None, str]:
        with self.alone(uid):
            self.loads.append(uid)
            self.most_loads_at_once = max(self.most_loads_at_once, len(self.under_way))
            self._before_load(uid)
            return super().load(uid)

    def save(self, uid: str, state: UserState, token: str) -> str:
        with self.alone(uid):
            self._before_save(uid)
            self.saves.append(state)
            return super().save(uid, state, token)

    @contextmanager
    def alone(self, uid: str) -> Iterator[None]:
        assert uid not in self.under_way, "a second load or write of the same user"
        self.under_way.add(uid)
        try:
            yield
        finally:
            self.under_way.remove(uid)


class LastStatus(Observer):
    """Keeps the loop's last report. Each turn of a stop takes a second, so that each is reported."""

    status: LoopStatus

    def __init__(self, parts: "Deferring") -> None:
        self._parts = parts

    def turned(self, status: LoopStatus) -> None:
        self.status = status
        if status.stopping:
            self._parts.seconds += 1


class SecondsSource(ScriptedSource):
    """A source whose polls take a second each, so that each turn of the loop is reported."""

    def __init__(self, parts: "Deferring", script: Sequence[Polled | Callable[[], Polled]], *, finite: bool) -> None:
        super().__init__(script, finite=finite)
        self._parts = parts

    def poll(self, timeout_seconds: float) -> Polled:
        self._parts.seconds += 1
        return super().poll(timeout_seconds)


class Deferring(Parts):
    """A daemon that stores after 100 updates, each of a single event, and whose stop has all the time it needs.

    seconds: what the daemon's clock shows. A test may set it.
    """

    def __init__(self, **overrides: dict[str, Any]) -> None:
        super().__init__(
            **{
                **overrides,
                "batching": {"max_events": 1, **overrides.get("batching", {})},
                "snapshot": {"every_updates": 100, "every_seconds": NEVER, **overrides.get("snapshot", {})},
                "operations": {"shutdown_timeout_seconds": NEVER, **overrides.get("operations", {})},
            }
        )
        self.store: RecordingStore = RecordingStore()
        self.last = self.observer = LastStatus(self)
        self.trained: list[str] = []
        self.learner = ListingLearner(self.note)
        self.seconds = 0.0
        self.clock = lambda: self.seconds

    def note(self, batches: Any) -> None:
        self.trained += [event.event_id for batch in batches for event in batch.events]

    def saved(self) -> list[tuple[str, ...]]:
        return [s.adapter.event_ids if isinstance(s.adapter, Applied) else () for s in self.store.saves]

    def run(self, *script: Polled | Callable[[], Polled]) -> ScriptedSource:
        source = SecondsSource(self, script, finite=True)
        self.daemon(source).run()
        return source

    def live(self, *script: Polled | Callable[[], Polled]) -> tuple[ScriptedSource, Any]:
        """Return an input that does not end, and a daemon on it."""
        source = SecondsSource(self, script, finite=False)
        return source, self.daemon(source)


def when(condition: Callable[[], bool], then: Callable[[], None]) -> Callable[[], None]:
    """Return an `idle` for a source: it calls `then` once the condition holds."""
    patience = iter(range(5_000))

    def idle() -> None:
        if condition():
            then()
        assert next(patience, None) is not None, "it never came to that"
        threading.Event().wait(0.001)  # as a poll does: the other threads have their turn

    return idle


def wait_for(event: threading.Event) -> Callable[[str], None]:
    def wait(uid: str) -> None:
        assert event.wait(10)

    return wait
