"""`corlld replay`: an archive of events through the daemon's own loop, on a temporary store."""

import argparse
import io
import secrets
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from corlld.commands.replay_as_one import as_one_user, export, refuse_used, without_erased
from corlld.commands.replay_summary import UserRecord, summarise, summary_table, to_json
from corlld.commands.shared import (
    add_config,
    file_path,
    load,
    positive,
    print_table,
    stderr_console,
    stdout_console,
)
from corlld.durable import Statistics, UserState
from corlld.errors import ExitCode, FatalError, InvalidEvent
from corlld.events.decoder import EventDecoder
from corlld.observer import Observer
from corlld.records import Arrival, DeadLetter, EditEvent, UpdateOutcome
from corlld.settings.sections import (
    DeadLetterSettings,
    ExperimentSettings,
    IdentitySettings,
    Settings,
    SnapshotSettings,
    SourceSettings,
    StateSettings,
)
from corlld.simulation.baselines import WordCountPerceptron, longer_wins
from corlld.system.formats import refuse_other_formats
from corlld.system.lines import texts
from corlld.system.progress import Advance, shown

NAME = "replay"
HELP = "replay an archive of events through the daemon's loop, and summarise each user"
DESCRIPTION = (
    "Replay an archive of events through the daemon's loop, and summarise each user: how often the adapter preferred "
    "the edited text before it learnt from it. The replay has a temporary store and publishes nothing."
)
EPILOG = """\
examples:
  corlld replay edits.jsonl                      all users
  corlld replay --users 10 --limit 200 edits.jsonl
  corlld replay --json edits.jsonl > summary.json
  corlld replay --shared --export style edits.jsonl
                                 one adapter for all users, for new users to
                                 begin from: adapter.start_path = "style"

With --shared an erasure takes away its user's edits before it. A later erasure
does not change what was exported: export again from what may still be learnt.
The exit code is 65 if the archive has no usable event, and 2 if it can't be
read. The others are in `corlld --help`.
"""

NEVER_UPDATES = 10**9
NEVER_SECONDS = 1e9  # an archive has no "now": micro-batches are cut by size only, so that a replay is repeatable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    add_config(parser)
    parser.add_argument(
        "file",
        type=file_path,
        metavar="FILE.jsonl",
        help="a file with one event per line (see Events in deploy/README.md)",
    )
    parser.add_argument("--users", type=positive, metavar="N", help="replay only the N users with the most events")
    parser.add_argument("--limit", type=positive, metavar="N", help="replay only the first N events per user")
    parser.add_argument("--shared", action="store_true", help="learn one adapter from the edits of all users")
    parser.add_argument(
        "--export", type=file_path, metavar="FOLDER", help="with --shared: write that adapter, as PEFT has it, here"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--show-users", action="store_true", help="show the raw user ids of the archive")


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises what `replay` raises."""
    if arguments.export is not None:
        if not arguments.shared:
            raise FatalError("--export: needs --shared, since only a single adapter can be exported", ExitCode.USAGE)
        refuse_used(arguments.export)
    settings = load(arguments, quiet=True)
    choice = Choice(arguments.users, arguments.limit, arguments.shared, arguments.export)
    summary = replay(settings, arguments.file, choice, console=stderr_console())
    if arguments.json:
        print(to_json(summary, show_users=arguments.show_users))
    else:
        whole, narrow = (summary_table(summary, show_users=arguments.show_users, narrow=each) for each in (False, True))
        print_table(stdout_console(), whole, narrow)
        if settings.identity.secret is None and not arguments.show_users:
            print("these pseudonyms are of this replay alone: identity.secret is not set")
        for reason, count in summary["dead_letters"].items():
            print(f"set aside: {count} {reason}")
        if arguments.export is not None:
            print(f"exported to {arguments.export}, digest {summary['exported']['digest']}")
    return ExitCode.OK


@dataclass(frozen=True, slots=True)
class Choice:
    """The events that are replayed, and the users of the adapters.

    users: only so many users, those with the most events; None: all. limit: only the first so many events per user;
    None: all. shared: one adapter for all users. export: the folder for it, if any.
    """

    users: int | None = None
    limit: int | None = None
    shared: bool = False
    export: Path | None = None


class Recorder(Observer):
    """Keep every outcome, and move the progress bar."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self.users: dict[str, UserRecord] = {}
        self.dead_letters: Counter[str] = Counter()

    def dead_letter(self, letter: DeadLetter) -> None:
        """See `Observer`."""
        self.dead_letters[letter.error.reason.value] += 1
        self._advance(1)

    def update(self, before: Statistics, state: UserState, events: Sequence[EditEvent], outcome: UpdateOutcome) -> None:
        """See `Observer`."""
        if not events:
            return
        record = self.users.setdefault(state.uid, UserRecord(events[0].user_id))
        record.events += events
        record.pairs += outcome.pairs
        record.version = state.version

    def finished(self, arrivals: Sequence[Arrival], now: float) -> None:
        """See `Observer`."""
        self._advance(len(arrivals))

    def judge_baselines(self) -> None:
        """Score the simple rules, test then train, on exactly the pairs that have a margin."""
        for record in self.users.values():
            perceptron = WordCountPerceptron()
            scored = [e for e, p in zip(record.events, record.pairs, strict=True) if p.margin is not None]
            record.perceptron = [perceptron.prequential(event) for event in scored]
            record.longer = [longer_wins(event) for event in scored]


def read_lines(archive: Path) -> list[bytes]:
    """Return the lines of the archive.

    Raises FatalError for a file that can't be read, or is in another format.
    """
    try:
        file = io.BytesIO(archive.read_bytes())  # a pipe can't be looked at twice
    except OSError as error:
        raise FatalError(
            f"{archive}: {error.strerror}; `corlld replay` needs a file of events", ExitCode.USAGE
        ) from None
    refuse_other_formats(file, str(archive))
    return list(texts(file))


def select_lines(lines: Sequence[bytes], decoder: EventDecoder, choice: Choice) -> list[bytes]:
    """Select the lines of the chosen users and events, in their order.

    Invalid lines are selected too: the loop sets them aside and counts them.

    Args:
        lines: of the archive.
        decoder: finds the user of a line.
        choice: says which.
    """
    if choice.shared:  # first of all: no limit may keep an edit and leave out its erasure
        lines = without_erased(lines, decoder)
    owners: list[str | None] = []
    for line in lines:
        try:
            owners.append(decoder.decode(None, line, ()).user_id)
        except InvalidEvent:
            owners.append(None)
    chosen = [user for user, _ in Counter(owner for owner in owners if owner is not None).most_common(choice.users)]
    left = {user: choice.limit if choice.limit is not None else len(lines) for user in chosen}
    kept = []
    for line, owner in zip(lines, owners, strict=True):
        if owner is None:
            if line.strip():
                kept.append(line)
        elif left.get(owner, 0) > 0:
            left[owner] -= 1
            kept.append(line)
    return as_one_user(kept, decoder) if choice.shared else kept


def replay_settings(settings: Settings, folder: Path, *, publish: bool = False) -> Settings:
    """Return the same settings with a store of their own: a replay never touches the configured states or adapters.

    publish: each user's newest state is published below the folder, once, at the end.
    """
    publishing = {"enabled": publish, "path": folder / "adapters", "announce_topic": None}
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
                older_event_ids=settings.state.older_event_ids,
            ),
            "snapshot": SnapshotSettings(every_updates=NEVER_UPDATES, every_seconds=NEVER_SECONDS)
            if publish
            else settings.snapshot,
            "publishing": settings.publishing.model_copy(update=publishing),
            "experiment": ExperimentSettings(),  # every user learns by [learning]
        }
    )


def replay(settings: Settings, archive: Path, choice: Choice, *, console: Console) -> dict[str, Any]:
    """Run the archive through the loop, and return the summary of `summarise`.

    Args:
        settings: model, learning, guard and batching are used; the state goes to a temporary folder.
        archive: a file with one event per line.
        choice: the part of the archive, and who shares an adapter.
        console: where progress is shown.

    Raises FatalError for an archive that can't be read, has no usable event, or gives no adapter to export.
    """
    from corlld.assembly import build_daemon
    from corlld.system.signals import stop_on_signals

    decoder = EventDecoder(settings.events, supports_messages=True, key_required=False)
    lines = select_lines(read_lines(archive), decoder, choice)
    exported = {}
    with tempfile.TemporaryDirectory(prefix="corlld-replay-") as name:
        folder = Path(name)
        (folder / "events.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        advance = Advance(console, len(lines))
        recorder = Recorder(advance)
        with shown(console, "loading the model"):
            daemon = build_daemon(replay_settings(settings, folder, publish=choice.export is not None), recorder)
        with advance, stop_on_signals(daemon.request_stop):
            daemon.run()
        if not recorder.users:
            reasons = ", ".join(f"{count} {reason}" for reason, count in recorder.dead_letters.items())
            raise FatalError(f"{archive}: it has no usable event" + (f" ({reasons})" if reasons else ""), ExitCode.DATA)
        if choice.export is not None:
            digest = export(folder / "adapters", choice.export)
            exported = {"exported": {"folder": str(choice.export), "digest": digest}}
    recorder.judge_baselines()
    return {**summarise(recorder.users, recorder.dead_letters), **exported}
