"""A closed loop: a model drafts with each user's newest adapter, simulated users edit, and the daemon learns from it.

The daemon is the same that `corlld run` starts. It runs in a thread of its own, on a file that grows. The loop here
writes events to that file, and reads what was published; it knows nothing else of the daemon.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from corlld.assembly import build_daemon, pseudonyms
from corlld.durable import Statistics, UserState
from corlld.errors import CorlldError
from corlld.observer import Observer
from corlld.publishing.peft_format import adapter_name
from corlld.records import Arrival, EditEvent, PairOutcome, UpdateOutcome
from corlld.settings.sections import Settings, SourceSettings
from corlld.simulation.editors import utility
from corlld.simulation.prompts import Prompt

LEARNING_SECONDS = 600.0  # a round that takes longer is taken to be stuck


class Draft(Protocol):
    """A drafted text. truncated: it stopped at its length limit."""

    @property
    def text(self) -> str: ...

    @property
    def truncated(self) -> bool: ...


class Engine(Protocol):
    """Serves drafts with users' adapters; see `corlld.simulation.drafting`."""

    def load(self, user: str, adapter: Path) -> None: ...

    def draft(self, requests: Sequence[tuple[str | None, str]]) -> Sequence[Draft]: ...


class Editor(Protocol):
    """A simulated user's way to edit a draft. hidden: the text that the user has in mind."""

    def edit(self, draft: str, hidden: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """One draft and the user's edit of it.

    version: version of the user's adapter that wrote the draft; 0 is the base model.
    """

    user_id: str
    version: int
    prompt: Prompt
    draft: Draft
    edited: str

    @property
    def edit_ratio(self) -> float:
        """Share of the draft that the user changed, 0 to 1."""
        return 1 - utility(self.draft.text, self.edited)

    @property
    def distance(self) -> float:
        """Share of the draft that the user would have to change to get the hidden text, 0 to 1."""
        return 1 - utility(self.draft.text, self.prompt.hidden)


@dataclass
class _Learnt(Observer):
    """Keeps what the daemon's loop has reported, for the thread that waits for it."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    finished_events: int = 0
    versions: dict[str, int] = field(default_factory=dict)  # by uid
    outcomes: dict[str, list[PairOutcome]] = field(default_factory=dict)  # by uid

    def update(self, before: Statistics, state: UserState, events: Sequence[EditEvent], outcome: UpdateOutcome) -> None:
        with self.changed:
            self.outcomes.setdefault(state.uid, []).extend(outcome.pairs)

    def published(self, state: UserState, arrivals: Sequence[Arrival], seconds: float) -> None:
        with self.changed:
            self.versions[state.uid] = state.version

    def finished(self, arrivals: Sequence[Arrival], now: float) -> None:
        with self.changed:
            self.finished_events += len(arrivals)
            self.changed.notify_all()


class ClosedLoop(AbstractContextManager["ClosedLoop"]):
    """Rounds of drafting, editing and learning for some users at once. The daemon runs while the block runs.

    Args:
        settings: with source, state and publishing in folders of this loop; see `loop_settings`.
        engine: makes the drafts.
        prompts: an endless supply per user.
        editors: how each user edits.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        prompts: Mapping[str, Iterator[Prompt]],
        editors: Mapping[str, Editor],
    ) -> None:
        assert settings.source.path is not None  # noqa: S101 - see Args
        self._settings = settings
        self._engine = engine
        self._prompts = prompts
        self._editors = editors
        self._events = settings.source.path
        self._learnt = _Learnt()
        self._thread = ThreadPoolExecutor(1, "daemon")
        self._running: Future[None] | None = None
        self._sent = 0
        names = pseudonyms(settings)
        self.uids = {user: names.uid(user) for user in prompts}

    def __enter__(self) -> Self:
        self._events.touch()
        self._daemon = build_daemon(self._settings, self._learnt)
        self._running = self._thread.submit(self._daemon.run)
        # An end of the daemon must wake the thread that waits for events to finish.
        self._running.add_done_callback(lambda _: self._wake())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._daemon.request_stop()
        self._thread.shutdown()
        if self._running is not None and error is None:
            self._running.result()

    def versions(self) -> dict[str, int]:
        """Return the newest published version per user; 0 before the first."""
        with self._learnt.changed:
            return {user: self._learnt.versions.get(uid, 0) for user, uid in self.uids.items()}

    def outcomes(self, user: str) -> list[PairOutcome]:
        """Return the outcomes of the user's edits so far, in order."""
        with self._learnt.changed:
            return list(self._learnt.outcomes.get(self.uids[user], ()))

    def adapter(self, user: str) -> Path | None:
        """Return the folder of the user's newest adapter; None before the first."""
        version = self.versions()[user]
        return self._settings.publishing.path / adapter_name(self.uids[user], version) if version else None

    def draft_and_edit(self, each: int) -> list[Exchange]:
        """Make `each` drafts per user in one batch, and let the users edit them. Nothing is learnt yet."""
        versions = self.versions()
        asked = [(user, next(self._prompts[user])) for _ in range(each) for user in self.uids]
        drafts = self._engine.draft([(user, prompt.text) for user, prompt in asked])
        return [
            Exchange(user, versions[user], prompt, draft, self._editors[user].edit(draft.text, prompt.hidden))
            for (user, prompt), draft in zip(asked, drafts, strict=True)
        ]

    def learn(self, exchanges: Sequence[Exchange]) -> None:
        """Send the edits to the daemon, wait until they are learnt, and serve the new adapters.

        Raises the error that ended the daemon; CorlldError if it takes too long.
        """
        with self._events.open("a", encoding="utf-8") as file:
            for exchange in exchanges:
                self._sent += 1
                file.write(json.dumps(_event(exchange, self._sent)) + "\n")
        with self._learnt.changed:
            done = self._learnt.changed.wait_for(self._all_finished_or_ended, LEARNING_SECONDS)
        if self._running is not None and self._running.done():
            self._running.result()
            raise CorlldError("the daemon ended before it had learnt from every edit")
        if not done:
            raise CorlldError(f"the daemon has not learnt from {self._sent} edits within {LEARNING_SECONDS:g} s")
        for user in self.uids:
            if (folder := self.adapter(user)) is not None:
                self._engine.load(user, folder)

    def _all_finished_or_ended(self) -> bool:
        return self._learnt.finished_events >= self._sent or (self._running is not None and self._running.done())

    def _wake(self) -> None:
        with self._learnt.changed:
            self._learnt.changed.notify_all()


def _event(exchange: Exchange, number: int) -> dict[str, object]:
    return {
        "event_id": f"{exchange.user_id}-{number}",
        "user_id": exchange.user_id,
        "occurred_at": datetime.now(UTC).isoformat(),
        "prompt": exchange.prompt.text,
        "proposed": exchange.draft.text,
        "edited": exchange.edited,
        "adapter_version": exchange.version,
        "truncated": exchange.draft.truncated,
    }


def loop_settings(settings: Settings, folder: Path, each: int) -> Settings:
    """Return `settings` with all files below `folder`, and one micro-batch per round of `each` drafts."""
    return settings.model_copy(
        update={
            "source": SourceSettings(kind="jsonl", path=folder / "edits.jsonl", follow=True),
            "batching": settings.batching.model_copy(update={"max_events": each, "flush_after_seconds": 1.0}),
            "state": settings.state.model_copy(update={"path": folder / "state", "url": None}),
            "snapshot": settings.snapshot.model_copy(update={"every_updates": 1}),  # a round waits for its version
            "publishing": settings.publishing.model_copy(
                # The engine asks for the newest version alone.
                update={"path": folder / "adapters", "enabled": True, "announce_topic": None, "keep_seconds": 0.0}
            ),
            "dead_letters": settings.dead_letters.model_copy(update={"path": None}),
        }
    )
