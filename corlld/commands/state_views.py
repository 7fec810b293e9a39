"""Shows stored states: one user's in full, or a line per user."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from rich import box
from rich.console import Console
from rich.table import Table

from corlld.commands.chosen_user import NO_STATE
from corlld.commands.out_of_reach import OutOfReach
from corlld.commands.shared import SHORT_UID, WHOLE_UID, print_table
from corlld.durable import Statistics, UserState
from corlld.errors import ExitCode, FatalError, RetriableError, StateUnreadable
from corlld.loop.event_ids import HASH_BYTES

_COUNTS = ("events", "pairs_applied", "acceptances", "no_difference", "rejected", "updates")
_COLUMNS = ("version", "events", "pairs", "accepted", "rejected", "accuracy", "margin", "rise", "edit ratio")
_FEW_COLUMNS = ("version", "events", "rejected", "rise", "edit ratio")  # what fits 80 columns
_ADVICE = "`corlld state verify` says what to do"


class ReadableStore(Protocol):
    """A state store, as far as it is read here; see `StateStore`."""

    def load(self, uid: str) -> tuple[UserState | None, str]: ...

    def load_header(self, uid: str, *, check_length: bool = False) -> UserState | None: ...

    def uids(self) -> Iterator[str]: ...


class SeenTarget(Protocol):
    """A publishing target, as far as it is looked at here; see `Target`."""

    def newest(self, uid: str) -> int: ...


def show_states(
    store: ReadableStore, uid: str | None, target: SeenTarget | None = None, *, as_json: bool, console: Console
) -> int:
    """Show one user's state, or a line per user.

    Args:
        store: need not be opened.
        uid: the user, whose whole state is checked. None: all users, whose states' headers and lengths are checked.
        target: shows versions that are out and newer than their states. None: they are not looked for.
        as_json: print JSON to standard output.
        console: takes the text otherwise.

    Returns the exit code: DATA if a state can't be read.

    Raises FatalError for a user without a state, RetriableError if the store is away. If the target is, that is shown.
    """
    rows = [_row(store, uid, target)] if uid is not None else _rows(store, target)
    if as_json:
        # Printed without the console, which would wrap or colour it.
        print(json.dumps(rows[0] if uid is not None else rows, indent=2, sort_keys=True))
    elif uid is not None:
        lines = _lines(rows[0])
        widest = max(map(len, lines))
        for name, text in lines.items():
            console.print(f"{name:{widest}}  {text}", markup=False)
    else:
        narrow = _table(rows, _FEW_COLUMNS, uid_digits=SHORT_UID)
        print_table(console, _table(rows, _COLUMNS, uid_digits=WHOLE_UID), narrow)
        for line in _notes(rows):
            console.print(line, markup=False)
    return ExitCode.DATA if any("unreadable" in row for row in rows) else ExitCode.OK


def newer_out(state: UserState, newest: int) -> bool:
    """Return whether a version is out that the state did not make: an older backup of the state was restored.

    newest: the newest version that is out; 0 for none.
    """
    return newest > max(0 if state.release is None else state.release.version, state.erased_through)


def _rows(store: ReadableStore, target: SeenTarget | None) -> list[dict[str, Any]]:
    out_of_reach = OutOfReach()
    rows = []
    for uid in store.uids():
        try:
            rows.append(_row(store, uid, target, header=True))
            out_of_reach.served()
        except RetriableError as error:
            out_of_reach.note(uid, error)
            rows.append({"uid": uid, "unreadable": str(error)})
    out_of_reach.finish()
    return rows


def _row(store: ReadableStore, uid: str, target: SeenTarget | None, *, header: bool = False) -> dict[str, Any]:
    try:
        state = store.load_header(uid, check_length=True) if header else store.load(uid)[0]
    except StateUnreadable as error:
        return {"uid": uid, "unreadable": str(error)}
    except ValueError as error:
        raise FatalError(f"--uid: {error}", ExitCode.USAGE) from None
    if state is None:
        raise FatalError(NO_STATE, ExitCode.DATA)
    newest, problem = 0, None
    try:
        newest = target.newest(uid) if target is not None else 0
    except RetriableError as error:  # the state can be shown all the same
        problem = str(error)
    return {
        "uid": uid,
        "version": state.version,
        "published": state.release.version if state.release else None,
        "newer_out": newest if newer_out(state, newest) else None,
        "versions_unreadable": problem,
        "erased": state.erased,
        "arm": state.arm,
        "start_adapter": state.adapter.start if state.adapter else None,
        "applied": dict(state.applied),
        "recent_event_ids": list(state.recent_event_ids),
        "older_event_ids": len(state.older_event_ids) // HASH_BYTES,
        "statistics": asdict(state.statistics),
        "accuracy": _ratio(state.statistics.prequential_correct, state.statistics.prequential_pairs),
        "mean_margin_nats": _ratio(state.statistics.prequential_margin_sum, state.statistics.prequential_pairs),
        "mean_edited_rise_nats": _ratio(state.statistics.edited_rise.nats_sum, state.statistics.edited_rise.pairs),
        "base_accuracy": _ratio(state.statistics.base_correct, state.statistics.base_pairs),
        "edit_ratio": _edit_ratio(state.statistics),
        "first_drafts_repetition": _ratio(
            state.statistics.first_drafts.repetition_sum, state.statistics.first_drafts.events
        ),
    }


def _lines(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what people read of a row: no line for what the user does not have, and no list. JSON has all."""
    lines: dict[str, str] = {}
    for name, value in row.items():
        match name, value:
            case "statistics", _:
                lines |= _lines({count: value[count] for count in _COUNTS})
            case "newer_out", int():
                lines["newer version"] = f"{value} is published, newer than this state: {_ADVICE}"
            case "published", None:
                lines[name] = "nothing yet"
            case _, None | False | {} if not value:
                pass
            case _, True:
                lines[name] = "yes"
            case _, dict():
                lines[name] = ", ".join(f"{key}: {number}" for key, number in value.items())
            case _, list():
                lines[name] = str(len(value))
            case _, float():
                lines[name] = f"{value:.3f}"
            case _:
                lines[name] = str(value)
    return lines


def _edit_ratio(statistics: Statistics) -> float | None:
    drafts = statistics.drafts.values()
    return _ratio(sum(figures.edit_ratio_sum for figures in drafts), sum(figures.events for figures in drafts))


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], uid_digits: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("uid", *columns):
        table.add_column(column, justify="left" if column == "uid" else "right", no_wrap=True)
    for row in rows:
        cells = {"version": "unreadable"} if "unreadable" in row else _cells(row)
        table.add_row(row["uid"][:uid_digits], *(cells.get(column, "") for column in columns))
    return table


def _notes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each mark that `_cells` sets at a version."""
    if any(row.get("newer_out") for row in rows):
        yield f"* published versions are newer than this state: {_ADVICE}"
    problems = [problem for row in rows if (problem := row.get("versions_unreadable"))]
    if problems:
        yield f"? the published versions can't be read: {problems[0]}"


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a state that can be read, by column of `_COLUMNS`."""
    statistics, rise = row["statistics"], row["mean_edited_rise_nats"]
    return {
        "version": ("erased" if row["erased"] else str(row["version"]))
        + ("*" if row["newer_out"] else "?" if row["versions_unreadable"] else ""),
        "events": str(statistics["events"]),
        "pairs": str(statistics["pairs_applied"]),
        "accepted": str(statistics["acceptances"]),
        "rejected": str(sum(statistics["rejected"].values())),
        "accuracy": _short(row["accuracy"]),
        "margin": _short(row["mean_margin_nats"]),
        "rise": "-" if rise is None else f"{rise:+.3f}",
        "edit ratio": _short(row["edit_ratio"]),
    }


def _short(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"
