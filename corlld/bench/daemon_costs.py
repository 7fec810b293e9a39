"""Costs of the daemon around the learner: the real loop on a file of events, with its own store and folders."""

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from pydantic import SecretStr

from corlld.assembly import build_daemon
from corlld.durable import UserState
from corlld.errors import FatalError
from corlld.observer import Observer
from corlld.records import Arrival, EditEvent
from corlld.settings.sections import (
    BatchingSettings,
    DeadLetterSettings,
    IdentitySettings,
    ModelSettings,
    PublishingSettings,
    Settings,
    SourceSettings,
    StateSettings,
)

ROUNDS = 4  # events per user in a burst
EDITS = 6  # sent one after the other, to measure latency; the first finds cold caches
FLUSH_SECONDS = 0.2
PATIENCE_SECONDS = 300.0


@dataclass
class Watch(Observer):
    """Keeps the times that the loop reports, in seconds on its own clock."""

    begun: float | None = None
    ended: float = 0.0
    storing: float = 0.0
    publishing: float = 0.0
    finished_events: int = 0
    steps: list[float] = field(default_factory=list)
    out: "SimpleQueue[float]" = field(default_factory=SimpleQueue)  # the times at which versions were published

    @property
    def wall(self) -> float:
        """Seconds from the first admitted event to the last finished event."""
        if self.begun is None:
            raise FatalError("the daemon of the bench read no event")
        return self.ended - self.begun

    def admitted(self, arrival: Arrival) -> None:
        if self.begun is None:
            self.begun = arrival.arrived_at

    def step(self, users: int, seconds: float) -> None:
        self.steps.append(seconds)

    def stored(self, state: UserState, seconds: float) -> None:
        self.storing += seconds

    def published(self, state: UserState, arrivals: Sequence[Arrival], seconds: float) -> None:
        self.publishing += seconds
        self.out.put(time.monotonic())

    def finished(self, arrivals: Sequence[Arrival], now: float) -> None:
        self.finished_events += len(arrivals)
        self.ended = now


def daemon_settings(folder: Path, model: str, *, secret: str, **sections: Any) -> Settings:
    """Return the defaults with all files below `folder`. sections: replace the sections of these names."""
    own: dict[str, Any] = {
        "source": SourceSettings(kind="jsonl", path=folder / "events.jsonl"),
        "identity": IdentitySettings(secret=SecretStr(secret)),
        "model": ModelSettings(name=model),
        "dead_letters": DeadLetterSettings(path=folder / "dead-letters.jsonl", payload=False),
        "state": StateSettings(path=folder / "state"),
        "publishing": PublishingSettings(path=folder / "adapters", keep_seconds=0),
    }
    return Settings(**(own | sections))


def event_line(event: EditEvent, event_id: str, user_id: str) -> bytes:
    """Return the event as a line of a file, with another event id and user id."""
    fields: Mapping[str, object] = {
        "event_id": event_id,
        "user_id": user_id,
        "occurred_at": event.occurred_at.isoformat(),
        "prompt": event.prompt,
        "proposed": event.proposed,
        "edited": event.edited,
    }
    return json.dumps(fields).encode() + b"\n"


def run_to_end(settings: Settings, lines: Iterable[bytes]) -> Watch:
    """Run the daemon until these events are finished. Raises FatalError if it ends with an unfinished event."""
    assert settings.source.path is not None  # noqa: S101 - of `daemon_settings`
    given = list(lines)
    settings.source.path.write_bytes(b"".join(given))
    watch = Watch()
    build_daemon(settings, watch).run()
    if watch.finished_events != len(given):
        raise FatalError(f"the daemon of the bench finished {watch.finished_events} of {len(given)} events")
    return watch


def commit_share(folder: Path, model: str, events: Sequence[EditEvent]) -> float:
    """Return the seconds in saves and publications over wall time, in a burst of events, with the defaults.

    Both run beside the training of the next step. All of their seconds count, so the share is larger than the cost.
    """
    settings = daemon_settings(folder, model, secret=secrets.token_hex(32))
    lines = [
        event_line(events[(user + number) % len(events)], f"{user}-{number}", f"user-{user}")
        for number in range(ROUNDS)
        for user in range(len(events))
    ]
    watch = run_to_end(settings, lines)
    return (watch.storing + watch.publishing) / watch.wall


def latencies_beyond(folder: Path, model: str, events: Sequence[EditEvent]) -> list[float]:
    """Return for single edits of a user the seconds from line to published version, minus flush window and step."""
    settings = daemon_settings(
        folder,
        model,
        secret=secrets.token_hex(32),
        source=SourceSettings(kind="jsonl", path=folder / "events.jsonl", follow=True),
        batching=BatchingSettings(flush_after_seconds=FLUSH_SECONDS),
    )
    path = folder / "events.jsonl"
    path.touch()
    watch = Watch()
    beyond = []
    with _running(settings, watch), path.open("ab", buffering=0) as file:
        for number in range(EDITS):
            written = time.monotonic()
            file.write(event_line(events[number % len(events)], str(number), "user"))
            try:
                out = watch.out.get(timeout=PATIENCE_SECONDS)
            except Empty:
                raise FatalError("the daemon of the bench published no version") from None
            beyond.append(out - written - FLUSH_SECONDS - watch.steps[-1])
    return beyond[1:]


@contextmanager
def _running(settings: Settings, watch: Watch) -> Iterator[None]:
    daemon = build_daemon(settings, watch)
    with ThreadPoolExecutor(1, "daemon") as thread:
        running = thread.submit(daemon.run)
        try:
            yield
        finally:
            daemon.request_stop()
            running.result()
