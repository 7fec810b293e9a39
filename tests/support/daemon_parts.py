"""A daemon in memory and its parts, for tests of the loop and of its reports."""

import json
import time
from collections.abc import Callable
from typing import Any

from corlld.durable import UserState
from corlld.events.decoder import EventDecoder
from corlld.events.pseudonyms import Pseudonyms
from corlld.loop.daemon import Daemon
from corlld.loop.poison import NewestRecords
from corlld.observer import Observer
from corlld.protocols import Source
from corlld.records import Polled, Record, Tenure
from corlld.settings.sections import EventSettings, Settings
from tests.support.fakes import (
    Applied,
    ListingLearner,
    MemoryAttempts,
    MemoryDeadLetters,
    MemoryPublisher,
    MemoryStore,
    ScriptedSource,
    record,
    tenure,
)

PSEUDONYMS = Pseudonyms("s" * 32)


def value(event_id: str, user: str = "ann", **fields: Any) -> bytes:
    event = {
        "event_id": event_id,
        "user_id": user,
        "occurred_at": "2026-01-02T12:00:00Z",
        "prompt": "x",
        "proposed": "draft",
        "edited": "text",
        **fields,
    }
    return json.dumps(event).encode()


def records(*values: bytes | None, of: Tenure | None = None, user: str = "ann", first: int = 0) -> tuple[Record, ...]:
    return tuple(record(first + i, of, key=user.encode(), value=v) for i, v in enumerate(values))


class Parts:
    """The parts of a daemon in memory. A test replaces some of them and runs the daemon."""

    def __init__(self, **overrides: dict[str, Any]) -> None:
        self.settings = Settings.model_validate(
            {
                "batching": {"max_events": 2, "flush_after_seconds": 0, **overrides.get("batching", {})},
                "operations": {
                    "retry_max_seconds": 0.01,
                    "shutdown_timeout_seconds": 5,
                    **overrides.get("operations", {}),
                },
                "events": overrides.get("events", {}),
                "dead_letters": overrides.get("dead_letters", {}),
                "publishing": overrides.get("publishing", {}),
                "state": overrides.get("state", {}),
                "snapshot": overrides.get("snapshot", {}),
                "experiment": overrides.get("experiment", {}),
                "learning": overrides.get("learning", {}),
            }
        )
        self.store = MemoryStore()
        self.attempts = MemoryAttempts()
        self.publisher = MemoryPublisher()
        self.dead_letters = MemoryDeadLetters()
        self.learner = ListingLearner()
        self.newest_records: NewestRecords | None = None
        self.observer = Observer()
        self.clock: Callable[[], float] = time.monotonic

    def daemon(self, source: Source) -> Daemon:
        return Daemon(
            self.settings,
            source=source,
            decoder=EventDecoder(EventSettings.model_validate(self.settings.events), supports_messages=False),
            dead_letters=self.dead_letters,
            pseudonyms=PSEUDONYMS,
            learner=self.learner,
            store=self.store,
            attempts=self.attempts,
            publisher=self.publisher,
            newest_records=self.newest_records,
            observer=self.observer,
            clock=self.clock,
        )

    def run(self, *script: Polled | Callable[[], Polled]) -> ScriptedSource:
        source = ScriptedSource(script)
        self.daemon(source).run()
        return source

    def state(self, user: str = "ann") -> UserState:
        return self.store.states[PSEUDONYMS.uid(user)][0]

    def applied_ids(self, user: str = "ann") -> tuple[str, ...]:
        adapter = self.state(user).adapter
        assert isinstance(adapter, Applied)
        return adapter.event_ids


T0 = tenure()


def begun(*delivered: Record) -> Polled:
    return Polled(delivered, begun=(T0,))
