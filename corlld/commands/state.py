"""`corlld state show|verify|repair|export|import`: looks into the state store, mends it, copies it."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from corlld.commands import state_help
from corlld.commands.chosen_user import NO_STATE, add_user, find_store, uid_of
from corlld.commands.shared import add_config, add_parser, file_path, load, stderr_console, stdout_console
from corlld.errors import ConfigurationError, ExitCode, FatalError
from corlld.system.plurals import counted
from corlld.system.progress import Advance

if TYPE_CHECKING:
    from corlld.assembly import AnyStore
    from corlld.settings.sections import Settings

NAME = "state"
HELP = "look into the state store, verify, repair and copy it"
DESCRIPTION = (
    "Look into the state store, verify, repair or copy it. Only `repair` and `import` change the store. Stop the "
    "daemons before `import`; during the others they may run."
)
EPILOG = """\
examples:
  corlld state show             a line per user
  corlld state show ann         one user's state, in full
  corlld state verify           read every state and newest version, bit for bit
  corlld state repair           mend what can't be read
  corlld state export /backup/corlld
  corlld state import /backup/corlld
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    show = add_parser(actions, "show", state_help.SHOW, state_help.SHOW_DESCRIPTION, state_help.SHOW_EPILOG)
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(action=_show)
    verify = add_parser(actions, "verify", state_help.VERIFY, state_help.VERIFY_DESCRIPTION, state_help.VERIFY_EPILOG)
    verify.set_defaults(action=_verify)
    repair = add_parser(actions, "repair", state_help.REPAIR, state_help.REPAIR_DESCRIPTION, state_help.REPAIR_EPILOG)
    repair.add_argument("--yes", action="store_true", help="repair; without it nothing is changed")
    repair.set_defaults(action=_repair)
    export = add_parser(actions, "export", state_help.EXPORT, state_help.EXPORT_DESCRIPTION, state_help.EXPORT_EPILOG)
    export.set_defaults(action=_export)
    importing = add_parser(
        actions, "import", state_help.IMPORT, state_help.IMPORT_DESCRIPTION, state_help.IMPORT_EPILOG
    )
    importing.set_defaults(action=_import)
    for action in (export, importing):
        action.add_argument("folder", type=file_path, metavar="FOLDER", help="the folder of the copy")
        action.add_argument("--replace", action="store_true", help="write over other states of the same users")
    for action in (show, verify, repair, export, importing):
        add_config(action)
        add_user(action, required=False)


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises FatalError without a store, and ConfigurationError if it has another secret."""
    action: Callable[[argparse.Namespace, Settings], int] = arguments.action
    return action(arguments, load(arguments))


def _show(arguments: argparse.Namespace, settings: "Settings") -> int:
    from corlld.assembly import build_target
    from corlld.commands.state_views import show_states

    store, uid = find_store(settings, arguments)
    target = build_target(settings) if settings.publishing.enabled else None
    return show_states(store, uid, target, as_json=arguments.json, console=stdout_console())


def _verify(arguments: argparse.Namespace, settings: "Settings") -> int:
    from corlld.assembly import build_target
    from corlld.commands.state_verify import SHOWN_PROBLEMS, verify

    store, uid = find_store(settings, arguments)
    uids = _uids(store, uid)
    target = build_target(settings) if settings.publishing.enabled else None
    with Advance(stderr_console(), len(uids), "users") as advance:
        found = verify(store, target, uids, advance, everybody=uid is None)
    for problem in found.problems[:SHOWN_PROBLEMS]:
        print(problem)
    if len(found.problems) > SHOWN_PROBLEMS:
        print(f"... and {len(found.problems) - SHOWN_PROBLEMS} more")
    print(
        f"{counted(found.users, 'user')} ({found.erased} erased), {counted(found.versions, 'published version')}"
        f"{f' ({found.not_out} not out yet)' if found.not_out else ''}: "
        f"{counted(len(found.problems), 'problem')}"
    )
    return ExitCode.DATA if found.problems else ExitCode.OK


def _repair(arguments: argparse.Namespace, settings: "Settings") -> int:
    from corlld.assembly import build_input
    from corlld.commands.repair_notes import finish
    from corlld.commands.repair_run import repair
    from corlld.commands.state_repair import look

    store, uid = find_store(settings, arguments)
    uids = _uids(store, uid)
    with Advance(stderr_console(), len(uids), "users") as advance:
        findings = look(store, uids, advance)
    for sentence in findings.hopeless:
        print(sentence)
    for uid, why in findings.stale.items():
        print(f"{uid}: {why}{': its note is removed' if arguments.yes else ''}")
    if arguments.yes:
        finish(store, findings.stale)
    by_hand = findings.hopeless and not build_input(settings).can_be_sent_to
    if not findings.repairs and not by_hand:
        print(_nothing_repaired(len(uids), len(findings.hopeless)))
    else:
        repair(settings, store, findings, yes=arguments.yes, console=stderr_console())
    unfinished = findings.hopeless or (findings.repairs and not arguments.yes)
    return ExitCode.DATA if unfinished else ExitCode.OK


def _nothing_repaired(users: int, hopeless: int) -> str:
    """Return the summary of a look that found nothing to repair."""
    if not hopeless:
        return f"{counted(users, 'user')}: nothing to repair"
    if hopeless == users:
        return f"{counted(users, 'user')}: can't be repaired"
    return f"{counted(users, 'user')}: nothing to repair, {hopeless:,} can't be repaired"


def _export(arguments: argparse.Namespace, settings: "Settings") -> int:
    from corlld.assembly import build_folder_store, build_store

    _refuse_other_folder(arguments.folder, settings)
    return _copy(arguments, settings, build_store(settings), build_folder_store(settings, arguments.folder))


def _import(arguments: argparse.Namespace, settings: "Settings") -> int:
    from corlld.assembly import build_folder_store, build_store, pseudonyms

    folder = build_folder_store(settings, arguments.folder)
    if (found := folder.secret_fingerprint()) is None:
        raise FatalError(f"{arguments.folder} is no exported state store: store.json is not there", ExitCode.DATA)
    if settings.identity.secret is not None and found != pseudonyms(settings).fingerprint:
        raise ConfigurationError(
            f"the states in {arguments.folder} were made with another identity.secret: with this one, no user would "
            "be found again"
        )
    return _copy(arguments, settings, folder, build_store(settings), from_backup=True)


def _refuse_other_folder(folder: Path, settings: "Settings") -> None:
    """Raise FatalError for a folder that holds something else, or that lies in the store itself."""
    if settings.state.url is None and folder.resolve().is_relative_to(settings.state.path.resolve()):
        raise FatalError(f"{folder} is in the state store itself: name a folder elsewhere", ExitCode.USAGE)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "store.json").exists():
        raise FatalError(f"{folder} holds something else: name a new folder, or an earlier export", ExitCode.USAGE)


def _copy(
    arguments: argparse.Namespace,
    settings: "Settings",
    source: "AnyStore",
    destination: "AnyStore",
    *,
    from_backup: bool = False,
) -> int:
    from corlld.assembly import pseudonyms
    from corlld.commands.state_copies import UNFINISHED, copy_notes, copy_positions, copy_states, open_copy

    uid = uid_of(arguments, settings, source)
    uids = _uids(source, uid)
    open_copy(source, destination, where=str(arguments.folder))
    names = None if settings.identity.secret is None else pseudonyms(settings)
    if names is not None and names.fingerprint != source.secret_fingerprint():
        names = None
    with Advance(stderr_console(), len(uids), "users") as advance:
        counts, left = copy_states(
            source,
            destination,
            uids,
            advance,
            replace_others=arguments.replace,
            hashed=None if names is None else names.event_id_hash,
            from_backup=from_backup,
        )
    copy_positions(source, destination)
    notes = copy_notes(source, destination) if uid is None else []
    for line in (*left, *notes):
        print(line)
    for outcome, number in counts.most_common():
        print(f"{counted(number, 'user')}: {outcome}")
    return ExitCode.DATA if notes or UNFINISHED & counts.keys() else ExitCode.OK


def _uids(store: "AnyStore", uid: str | None) -> list[str]:
    """Return the users to work on: one, or all. Raises FatalError for a user without a state."""
    uids = list(store.uids())  # pseudonyms alone: the bar needs their number
    if uid is None:
        return uids
    if uid not in uids:
        raise FatalError(NO_STATE, ExitCode.DATA)
    return [uid]
