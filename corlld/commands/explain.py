"""`corlld explain`: the story of a user in a page. What its figures mean is in `explanation`."""

import argparse
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Protocol

from rich import box
from rich.console import Console
from rich.table import Table

from corlld.commands.chosen_user import NO_STATE, add_user, find_store
from corlld.commands.explanation import Explanation, Mean, explain, meaning
from corlld.commands.shared import add_config, load, stdout_console
from corlld.durable import StoreIdentity, UserState
from corlld.errors import ExitCode, FatalError, StateUnreadable
from corlld.experiment.arms import Arms
from corlld.system.plurals import counted

NAME = "explain"
HELP = "tell whether a user's adapter learns, and what the figures mean"
DESCRIPTION = (
    "Tell the story of a user in a page: edits and what became of them, the edit ratio of the drafts by version, what "
    "the figures mean. No text of the user is read or printed. Nothing is changed, and the daemon may run meanwhile."
)
EPILOG = """\
examples:
  corlld explain ann
  corlld explain --uid 0123456789abcdef0123456789abcdef --json

Each band holds the true mean in 95 % of cases, or more (Chernoff-Hoeffding
bound), if the drafts are independent of each other. Looking again and again
makes a wrong verdict more likely than that.
The exit code is 65 if there is no store, no such user, or a state that can't
be read. The others are in `corlld --help`.
"""

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))


class StoreOfUser(Protocol):
    """A state store, as far as it is read here; see `StateStore`."""

    def load(self, uid: str) -> tuple[UserState | None, str]: ...

    def stored_at(self, uid: str) -> float | None: ...

    def identity(self) -> StoreIdentity | None: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    add_config(parser)
    add_user(parser, required=True)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises what `find_store` and `explain_user` raise."""
    settings = load(arguments)
    store, uid = find_store(settings, arguments)
    assert uid is not None  # noqa: S101 - a user is required
    arms = Arms(settings.experiment, settings.learning, settings.guard)
    return explain_user(store, uid, arms, as_json=arguments.json, console=stdout_console(), now=time.time())


def explain_user(store: StoreOfUser, uid: str, arms: Arms, *, as_json: bool, console: Console, now: float) -> int:
    """Print the story of a user.

    Args:
        store: need not be opened.
        uid: the user's pseudonym.
        arms: those of the settings.
        as_json: print JSON to standard output.
        console: takes the page otherwise.
        now: unix time.

    Raises FatalError for a user without a state, and for a state that can't be read.
    """
    try:
        state, stored_at = store.load(uid)[0], store.stored_at(uid)
    except StateUnreadable as error:
        raise FatalError(str(error), ExitCode.DATA) from None
    except ValueError as error:
        raise FatalError(f"--uid: {error}", ExitCode.USAGE) from None
    if state is None:
        raise FatalError(NO_STATE, ExitCode.DATA)
    identity = store.identity()
    start = None if identity is None else identity.start_adapter
    told = explain(state, arms, start)
    if as_json:
        # Printed without the console, which would wrap or colour it.
        print(json.dumps(_as_json(state, told, start, stored_at), indent=2, sort_keys=True))
    else:
        _print_page(console, state, told, None if stored_at is None else (stored_at, now))
    return ExitCode.OK


def _as_json(state: UserState, told: Explanation, start: str | None, stored_at: float | None) -> dict[str, Any]:
    figures = state.statistics
    return {
        "uid": state.uid,
        "version": state.version,
        "published": state.release.version if state.release else None,
        "erased": state.erased,
        "arm": state.arm,
        "start_adapter": state.adapter.start if state.adapter else None,
        "start_adapter_of_new_users": start,
        "stored_at": None if stored_at is None else datetime.fromtimestamp(stored_at, UTC).isoformat(),
        "edits": {
            "events": figures.events,
            "learnt": figures.pairs_applied,
            "updates": figures.updates,
            "accepted": figures.acceptances,
            "no_difference": figures.no_difference,
            "rejected": dict(figures.rejected),
        },
        **asdict(told),
    }


def _print_page(console: Console, state: UserState, told: Explanation, times: tuple[float, float] | None) -> None:
    """Print the page. times: when the state was stored, and now."""

    def line(text: str = "") -> None:
        console.print(text, markup=False)

    version = "no version yet" if not state.version else f"version {state.version}"
    line(f"user {state.uid}, {version}{_published(state)}")
    if state.adapter is not None and state.adapter.start is not None:
        line(f"began from the start adapter {state.adapter.start[:12]}")
    if state.arm is not None:
        line(f"arm {state.arm}")
    if times is not None:
        when = datetime.fromtimestamp(times[0], UTC).strftime("%Y-%m-%d %H:%M UTC")
        line(f"last change of the state: {when} ({_ago(times[1] - times[0])})")
    line()
    for sentence in told.sentences:
        line(sentence)
    if state.erased:
        return
    console.print(_edits_table(state))
    if told.drafts:
        console.print(_drafts_table(told))


def _published(state: UserState) -> str:
    return "" if state.release is None or state.release.version == state.version else ", the newest one is not out"


def _ago(seconds: float) -> str:
    for unit, length in _UNITS:
        if (count := int(seconds // length)) >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "less than a minute ago"


def _edits_table(state: UserState) -> Table:
    figures = state.statistics
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("edits")
    table.add_column(str(figures.events), justify="right")
    table.add_column("")
    table.add_row("learnt", str(figures.pairs_applied), f"in {counted(figures.updates, 'update')}")
    table.add_row("accepted", str(figures.acceptances), "the draft was kept as it was")
    table.add_row("no difference", str(figures.no_difference), "texts differ, their tokens do not")
    for reason, count in sorted(figures.rejected.items(), key=lambda item: -item[1]):
        table.add_row(f"rejected: {reason}", str(count), meaning(reason))
    return table


def _drafts_table(told: Explanation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("drafts of version", "drafts", "accepted", "edit ratio", "95 % band"):
        table.add_column(title, justify="left" if title == "drafts of version" else "right", no_wrap=True)
    for row in told.drafts:
        ratio = row.edit_ratio
        table.add_row(row.versions, str(ratio.count), str(row.accepted), f"{ratio.value:.2f}", _band(ratio))
    return table


def _band(mean: Mean) -> str:
    return f"{mean.low:.2f} to {mean.high:.2f}"
