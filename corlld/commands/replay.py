"""`corlld replay`: an archive through the daemon's own loop, in the foreground, and what can be said afterwards."""

import json
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich import box
from rich.console import Console
from rich.table import Table

from corlld.errors import ExitCode, FatalError, InvalidEvent
from corlld.events.decoder import EventDecoder
from corlld.observer import Observer
from corlld.records import (
    Arrival,
    DeadLetter,
    EditEvent,
    PairOutcome,
    PairStatus,
    Statistics,
    UpdateOutcome,
    UserState,
)
from corlld.settings.sections import (
    DeadLetterSettings,
    IdentitySettings,
    PublishingSettings,
    Settings,
    SourceSettings,
    StateSettings,
)
from corlld.simulation.baselines import WordCountPerceptron, longer_wins
from corlld.statistics import correct_share, edit_ratio
from corlld.system.progress import Advance

NEVER_SECONDS = 1e9  # an archive has no "now": micro-batches are cut by size alone, so that a replay is repeatable


@dataclass
class UserRecord:
    """What one user's events came to, in order."""

    user_id: str
    events: list[EditEvent] = field(default_factory=list)
    pairs: list[PairOutcome] = field(default_factory=list)
    perceptron: list[float] = field(default_factory=list)
    longer: list[float] = field(default_factory=list)
    version: int = 0


class Recorder(Observer):
    """Keeps every outcome, and moves the progress bar."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self.users: dict[str, UserRecord] = {}
        self.dead_letters: Counter[str] = Counter()

    def dead_letter(self, letter: DeadLetter) -> None:
        self.dead_letters[letter.error.reason.value] += 1
        self._advance(1)

    def update(self, before: Statistics, state: UserState, events: Sequence[EditEvent], outcome: UpdateOutcome) -> None:
        if not events:
            return
        record = self.users.setdefault(state.uid, UserRecord(events[0].user_id))
        record.events += events
        record.pairs += outcome.pairs
        record.version = state.version

    def finished(self, arrivals: Sequence[Arrival], duplicates: int, now: float) -> None:
        self._advance(len(arrivals))

    def judge_baselines(self) -> None:
        """Score the simple rules, test then train, on the very pairs that have a margin."""
        for record in self.users.values():
            perceptron = WordCountPerceptron()
            scored = [e for e, p in zip(record.events, record.pairs, strict=True) if p.margin is not None]
            record.perceptron = [perceptron.prequential(event) for event in scored]
            record.longer = [longer_wins(event) for event in scored]


def select_lines(archive: Path, decoder: EventDecoder, users: int | None, limit: int | None) -> list[bytes]:
    """The archive's lines for the `users` with the most edits, at most `limit` of each, in their order.

    Invalid lines stay in: the loop sets them aside and counts them. Raises FatalError for an unreadable file.
    """
    try:
        lines = archive.read_bytes().splitlines()
    except OSError as error:
        raise FatalError(
            f"{archive}: {error.strerror}; `corlld replay` reads a file of events", ExitCode.USAGE
        ) from None
    owners: list[str | None] = []
    for line in lines:
        try:
            owners.append(decoder.decode(None, line, ()).user_id)
        except InvalidEvent:
            owners.append(None)
    chosen = [user for user, _ in Counter(owner for owner in owners if owner is not None).most_common(users)]
    left = {user: limit if limit is not None else len(lines) for user in chosen}
    kept = []
    for line, owner in zip(lines, owners, strict=True):
        if owner is None:
            if line.strip():
                kept.append(line)
        elif left.get(owner, 0) > 0:
            left[owner] -= 1
            kept.append(line)
    return kept


def replay_settings(settings: Settings, folder: Path) -> Settings:
    """The same rule on a store of its own: a replay never touches the configured states or adapters."""
    secret = settings.identity.secret or SecretStr(secrets.token_hex(32))
    return settings.model_copy(
        update={
            "source": SourceSettings(kind="jsonl", path=folder / "events.jsonl"),
            "identity": IdentitySettings(secret=secret),
            "dead_letters": DeadLetterSettings(path=folder / "dead-letters.jsonl", payload=False, max_share=1.0),
            "batching": settings.batching.model_copy(update={"flush_after_seconds": NEVER_SECONDS}),
            "state": StateSettings(
                path=folder / "state",
                host_memory_bytes=settings.state.host_memory_bytes,
                recent_event_ids=settings.state.recent_event_ids,
            ),
            "publishing": PublishingSettings(enabled=False, path=folder / "adapters"),
        }
    )


def replay(
    settings: Settings, archive: Path, *, users: int | None, limit: int | None, console: Console
) -> dict[str, Any]:
    """Run the archive through the loop and return the summary.

    Args:
        settings: model, learning, guard and batching are used; state and publishing go to a temporary folder.
        archive: JSON Lines of events.
        users: only so many users, those with the most events.
        limit: only the first so many events of each.
        console: where progress is shown.
    """
    from corlld.assembly import build_daemon
    from corlld.system.signals import stop_on_signals

    lines = select_lines(
        archive, EventDecoder(settings.events, supports_messages=True, key_required=False), users, limit
    )
    with tempfile.TemporaryDirectory(prefix="corlld-replay-") as name:
        folder = Path(name)
        (folder / "events.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        with Advance(console, len(lines)) as advance:
            recorder = Recorder(advance)
            daemon = build_daemon(replay_settings(settings, folder), recorder)
            with stop_on_signals(daemon.request_stop):
                daemon.run()
    if not recorder.users:
        reasons = ", ".join(f"{count} {reason}" for reason, count in recorder.dead_letters.items())
        raise FatalError(f"{archive}: no usable event in it" + (f" ({reasons})" if reasons else ""), ExitCode.DATA)
    recorder.judge_baselines()
    return summarise(recorder.users, recorder.dead_letters)


def summarise(users: dict[str, UserRecord], dead_letters: Counter[str]) -> dict[str, Any]:
    """The summary, as plain values: one entry a user, the one with the most pairs first."""
    ordered = sorted(users.items(), key=lambda item: (-len(item[1].events), item[0]))
    return {"users": [_user_summary(uid, record) for uid, record in ordered], "dead_letters": dict(dead_letters)}


def _user_summary(uid: str, record: UserRecord) -> dict[str, Any]:
    statuses = Counter(pair.status for pair in record.pairs)
    judged = [p.margin for p in record.pairs if p.margin is not None and p.scored_by_trained]
    base = [p.base_margin for p in record.pairs if p.base_margin is not None]
    ratios = [edit_ratio(event) for event in record.events]
    return {
        "uid": uid,
        "user_id": record.user_id,
        "version": record.version,
        "events": len(record.events),
        "pairs": statuses[PairStatus.APPLIED],
        "acceptances": statuses[PairStatus.ACCEPTANCE],
        "no_difference": statuses[PairStatus.NO_DIFFERENCE],
        "rejected": dict(Counter(p.reason.value for p in record.pairs if p.reason is not None)),
        "prequential_pairs": len(judged),
        "prequential_accuracy": _mean(map(correct_share, judged)),
        "prequential_accuracy_last_quarter": _mean(map(correct_share, _last_quarter(judged))),
        "margin_nats": _mean(judged),
        "margin_nats_last_quarter": _mean(_last_quarter(judged)),
        "base_preference": _mean(map(correct_share, base)),
        "word_count_perceptron": _mean(record.perceptron),
        "longer_wins": _mean(record.longer),
        "edit_ratio": _mean(ratios),
        "edit_ratio_last_quarter": _mean(_last_quarter(ratios)),
    }


def _last_quarter(values: Sequence[float]) -> Sequence[float]:
    return values[len(values) - (len(values) + 3) // 4 :]


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def summary_table(summary: dict[str, Any], *, show_users: bool) -> Table:
    """The summary for people."""
    table = Table(
        title="Prequential figures: each pair was scored before it was learnt from",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("user", no_wrap=True)
    for title in ("pairs", "rejected", "accuracy", "last ¼", "margin", "last ¼", "base", "words", "longer", "edit"):
        table.add_column(title, justify="right", no_wrap=title != "rejected")
    for user in summary["users"]:
        rejected = ", ".join(f"{count} {reason}" for reason, count in user["rejected"].items())
        table.add_row(
            user["user_id"] if show_users else user["uid"][:12],
            str(user["pairs"]),
            rejected or "0",
            *(
                "-" if user[key] is None else f"{user[key]:.2f}"
                for key in (
                    "prequential_accuracy",
                    "prequential_accuracy_last_quarter",
                    "margin_nats",
                    "margin_nats_last_quarter",
                    "base_preference",
                    "word_count_perceptron",
                    "longer_wins",
                    "edit_ratio",
                )
            ),
        )
    table.caption = (
        "accuracy: share of pairs whose margin against the base model prefers the edited text (ties ½).\n"
        "base: the base model's own preference. words, longer: an online word-count perceptron and\n"
        "'the longer one' on the same pairs. margin: nats. edit: mean edit ratio of all events."
    )
    table.caption_justify = "left"
    return table


def to_json(summary: dict[str, Any], *, show_users: bool) -> str:
    """The summary for programs; raw user ids only where they were asked for."""
    users = [{k: v for k, v in user.items() if show_users or k != "user_id"} for user in summary["users"]]
    return json.dumps({**summary, "users": users}, indent=2)
