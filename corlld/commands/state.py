"""`corlld state show|verify|export|import`: looks into the state store, and copies it."""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from rich import box
from rich.console import Console
from rich.table import Table

from corlld.commands.events_file import counted
from corlld.commands.shared import (
    add_config,
    add_parser,
    file_path,
    load,
    read_user,
    stderr_console,
    stdout_console,
)
from corlld.durable import Statistics, UserState
from corlld.errors import ConfigurationError, ExitCode, FatalError, StateUnreadable
from corlld.system.progress import Advance

if TYPE_CHECKING:
    from corlld.assembly import AnyStore
    from corlld.settings.sections import Settings

NAME = "state"
HELP = "look into the state store, verify it, copy it"
DESCRIPTION = (
    "Look into the state store, verify it, or copy it. Only `import` changes the store; during the others the daemon "
    "may run."
)
EPILOG = """\
examples:
  corlld state show             a line per user
  corlld state show ann         one user's state, in full
  corlld state verify           read every state and newest version, bit for bit
  corlld state export /backup/corlld
  corlld state import /backup/corlld
"""

SHOW = "show versions, applied offsets, recent event ids, counts and prequential figures"
SHOW_DESCRIPTION = (
    "Show each user's state: version, applied offsets, recent event ids, counts and prequential figures. "
    "Without a user: a line per user."
)
SHOW_EPILOG = """\
examples:
  corlld state show
  corlld state show ann
  corlld state show - --json < user_id.txt

The exit code is 65 if there is no store, no such user, or a state that can't
be read. The others are in `corlld --help`.
"""

VERIFY = "read every state and every newest published version, and compare checksums"
VERIFY_DESCRIPTION = (
    "Read every state as the daemon would, and the newest published version of each user, and compare checksums. "
    "Nothing is changed."
)
VERIFY_EPILOG = """\
examples:
  corlld state verify
  corlld state verify ann

The exit code is 65 if anything is wrong. The others are in `corlld --help`.
"""

EXPORT = "copy the store to a folder"
EXPORT_DESCRIPTION = (
    "Copy the states to a folder, which is then a state store itself: a backup, or the way from a bucket to a folder. "
    "A second export to the same folder copies what has changed with --replace. The secret is not in it: keep "
    "identity.secret too, or the users can't be found again."
)
EXPORT_EPILOG = """\
examples:
  corlld state export /backup/corlld
  corlld state export /backup/corlld --replace     bring a backup up to date
  corlld state export /backup/ann ann              one user

A backup holds what a user may ask you to erase. Replace it after an erasure,
or remove it.

The exit code is 65 if a state could not be copied. The others are in
`corlld --help`.
"""

IMPORT = "copy the states of an exported folder into the store"
IMPORT_DESCRIPTION = (
    "Copy the states of a folder that `export` made into the store that the settings name: a folder, or a bucket with "
    "state.url. Stop the daemons first. Whom the store has erased is not brought back. Versions go on above all that "
    "were ever out."
)
IMPORT_EPILOG = """\
examples:
  corlld state import /backup/corlld
  corlld state import /backup/corlld --replace     over what is there
  corlld state import /backup/corlld ann           one user

The daemon learns again from the records that it has committed since the export
only if they are sent again: for a whole store, reset the group's offsets to
those of the export's time; events that a state knows are not applied twice.

The exit code is 65 if a state could not be copied. The others are in
`corlld --help`.
"""

WIDE_CHARS = 100  # a narrower terminal has no room for whole pseudonyms beside the figures


class ReadableStore(Protocol):
    """A state store, as far as it is read here; see `StateStore`."""

    def load(self, uid: str) -> tuple[UserState | None, str]: ...

    def load_header(self, uid: str) -> UserState | None: ...

    def uids(self) -> Iterator[str]: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    show = add_parser(actions, "show", SHOW, SHOW_DESCRIPTION, SHOW_EPILOG)
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(action=_show)
    verify = add_parser(actions, "verify", VERIFY, VERIFY_DESCRIPTION, VERIFY_EPILOG)
    verify.set_defaults(action=_verify)
    export = add_parser(actions, "export", EXPORT, EXPORT_DESCRIPTION, EXPORT_EPILOG)
    export.set_defaults(action=_export)
    importing = add_parser(actions, "import", IMPORT, IMPORT_DESCRIPTION, IMPORT_EPILOG)
    importing.set_defaults(action=_import)
    for action in (export, importing):
        action.add_argument("folder", type=file_path, metavar="FOLDER", help="the folder of the copy")
        action.add_argument("--replace", action="store_true", help="write over other states of the same users")
    for action in (show, verify, export, importing):
        add_config(action)
        who = action.add_mutually_exclusive_group()
        who.add_argument(
            "user", nargs="?", metavar="USER", help="only this user, by user_id; `-` reads it from standard input"
        )
        who.add_argument("--uid", help="only this user, by pseudonym")


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises FatalError without a store, and ConfigurationError if it has another secret."""
    action: Callable[[argparse.Namespace, Settings], int] = arguments.action
    return action(arguments, load(arguments))


def _show(arguments: argparse.Namespace, settings: "Settings") -> int:
    from corlld.assembly import build_store

    store = build_store(settings)
    uid = _uid(arguments, settings, store.secret_fingerprint())
    return show_states(store, uid, as_json=arguments.json, console=stdout_console())


def _verify(arguments: argparse.Namespace, settings: "Settings") -> int:
    from corlld.assembly import build_store, build_target
    from corlld.commands.state_verify import SHOWN_PROBLEMS, verify

    store = build_store(settings)
    uids = _uids(store, _uid(arguments, settings, store.secret_fingerprint()))
    target = build_target(settings) if settings.publishing.enabled else None
    with Advance(stderr_console(), len(uids), "users") as advance:
        found = verify(store, target, uids, advance)
    for problem in found.problems[:SHOWN_PROBLEMS]:
        print(problem)
    if len(found.problems) > SHOWN_PROBLEMS:
        print(f"... and {len(found.problems) - SHOWN_PROBLEMS} more")
    print(
        f"{counted(found.users, 'user')} ({found.erased} erased), {counted(found.versions, 'published version')}: "
        f"{counted(len(found.problems), 'problem')}"
    )
    return ExitCode.DATA if found.problems else ExitCode.OK


def _export(arguments: argparse.Namespace, settings: "Settings") -> int:
    from corlld.assembly import build_folder_store, build_store

    return _copy(arguments, settings, build_store(settings), build_folder_store(settings, arguments.folder))


def _import(arguments: argparse.Namespace, settings: "Settings") -> int:
    from corlld.assembly import build_folder_store, build_store

    return _copy(arguments, settings, build_folder_store(settings, arguments.folder), build_store(settings))


def _copy(arguments: argparse.Namespace, settings: "Settings", source: "AnyStore", destination: "AnyStore") -> int:
    from corlld.commands.state_copies import UNFINISHED, copy_positions, copy_states, open_copy

    uids = _uids(source, _uid(arguments, settings, source.secret_fingerprint()))
    open_copy(source, destination, where=str(arguments.folder))
    with Advance(stderr_console(), len(uids), "users") as advance:
        counts, left = copy_states(source, destination, uids, advance, replace_others=arguments.replace)
    copy_positions(source, destination)
    for line in left:
        print(line)
    for outcome, number in counts.most_common():
        print(f"{counted(number, 'user')}: {outcome}")
    return ExitCode.DATA if any(counts[outcome] for outcome in UNFINISHED) else ExitCode.OK


def _uid(arguments: argparse.Namespace, settings: "Settings", fingerprint: str | None) -> str | None:
    """Return the pseudonym of the user that the command line names; None for all users.

    Raises FatalError without a store, and ConfigurationError if it has another secret.
    """
    from corlld.assembly import no_store_yet, pseudonyms

    uid: str | None = arguments.uid
    if arguments.user is not None:
        names = pseudonyms(settings)
        if fingerprint not in (None, names.fingerprint):
            raise ConfigurationError(
                "the store's pseudonyms were made with another identity.secret: with this one, no user can be found"
            )
        uid = names.uid(read_user(arguments.user))
    if fingerprint is None:
        raise FatalError(f"state store: {no_store_yet(settings)}", ExitCode.DATA)
    return uid


def _uids(store: "AnyStore", uid: str | None) -> list[str]:
    """Return the users to work on: one, or all. Raises FatalError for a user without a state."""
    uids = list(store.uids())  # pseudonyms alone: the bar needs their number
    if uid is None:
        return uids
    if uid not in uids:
        raise FatalError("the store has no state of this user", ExitCode.DATA)
    return [uid]


def show_states(store: ReadableStore, uid: str | None, *, as_json: bool, console: Console) -> int:
    """Show one user's state in full, or a line per user.

    Args:
        store: need not be opened.
        uid: the user, whose whole state is checked. None: all users, of whose states only the headers are read.
        as_json: print JSON to standard output.
        console: takes the text otherwise.

    Returns the exit code: DATA if a state can't be read. Raises FatalError for a user without a state.
    """
    rows = [_row(store, uid)] if uid is not None else [_row(store, each, header=True) for each in store.uids()]
    if as_json:
        # Printed without the console, which would wrap or colour it.
        print(json.dumps(rows[0] if uid is not None else rows, indent=2, sort_keys=True))
    elif uid is not None:
        widest = max(map(len, rows[0]))
        for name, value in rows[0].items():
            text = json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)
            console.print(f"{name:{widest}}  {text}", markup=False)
    else:
        console.print(_table(rows, uid_digits=32 if console.width >= WIDE_CHARS else 12))
    return ExitCode.DATA if any("unreadable" in row for row in rows) else ExitCode.OK


def _row(store: ReadableStore, uid: str, *, header: bool = False) -> dict[str, Any]:
    try:
        state = store.load_header(uid) if header else store.load(uid)[0]
    except StateUnreadable as error:
        return {"uid": uid, "unreadable": str(error)}
    except ValueError as error:
        raise FatalError(f"--uid: {error}", ExitCode.USAGE) from None
    if state is None:
        raise FatalError("the store has no state of this user", ExitCode.DATA)
    return {
        "uid": uid,
        "version": state.version,
        "published": state.release.version if state.release else None,
        "erased": state.erased,
        "applied": dict(state.applied),
        "recent_event_ids": list(state.recent_event_ids),
        "statistics": asdict(state.statistics),
        "accuracy": _ratio(state.statistics.prequential_correct, state.statistics.prequential_pairs),
        "mean_margin_nats": _ratio(state.statistics.prequential_margin_sum, state.statistics.prequential_pairs),
        "base_accuracy": _ratio(state.statistics.base_correct, state.statistics.base_pairs),
        "edit_ratio": _edit_ratio(state.statistics),
        "first_drafts_repetition": _ratio(
            state.statistics.first_drafts.repetition_sum, state.statistics.first_drafts.events
        ),
    }


def _edit_ratio(statistics: Statistics) -> float | None:
    drafts = statistics.drafts.values()
    return _ratio(sum(figures.edit_ratio_sum for figures in drafts), sum(figures.events for figures in drafts))


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None


def _table(rows: list[dict[str, Any]], uid_digits: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("uid", "version", "events", "pairs", "accepted", "rejected", "accuracy", "margin", "edit ratio"):
        table.add_column(column, justify="left" if column == "uid" else "right", no_wrap=True)
    for row in rows:
        if "unreadable" in row:
            table.add_row(row["uid"][:uid_digits], "unreadable")
            continue
        statistics = row["statistics"]
        table.add_row(
            row["uid"][:uid_digits],
            "erased" if row["erased"] else str(row["version"]),
            str(statistics["events"]),
            str(statistics["pairs_applied"]),
            str(statistics["acceptances"]),
            str(sum(statistics["rejected"].values())),
            *(_short(row[name]) for name in ("accuracy", "mean_margin_nats", "edit_ratio")),
        )
    return table


def _short(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"
