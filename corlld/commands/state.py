"""`corlld state show|verify|repair|export|import`: looks into the state store, mends it, copies it."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

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

SHOW = "show versions, applied offsets, recent event ids, counts and prequential figures"
SHOW_DESCRIPTION = (
    "Show each user's state: version, applied offsets, recent event ids, counts and prequential figures. "
    "Without a user: a line per user. Then states are not read whole: damage that leaves a file's header and length as "
    "they were is found by `verify`."
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
    "Read every state as the daemon would, the generation before it, and the newest published version of each user, "
    "and compare checksums. Name versions that are newer than their states, and files that may hold what was erased. "
    "Nothing is changed."
)
VERIFY_EPILOG = """\
examples:
  corlld state verify
  corlld state verify ann

The exit code is 65 if anything is wrong. The others are in `corlld --help`.
"""

REPAIR = "mend states that can't be read, from the generation before and the user's records"
REPAIR_DESCRIPTION = (
    "Mend states that can't be read. The generation before becomes the state. The user's records that it lacks are "
    "sent to kafka.topic once more: those of the topic up to the group's commits, and dead letters that the topic has "
    "no longer. Without --yes nothing is changed, and what would be done is printed."
)
REPAIR_EPILOG = """\
examples:
  corlld state repair                  look at all users first
  corlld state repair --uid UID --yes

Let the daemon run: it learns what is sent, and an event that a state knows is
not learnt twice. Before a user's records are sent, the repair waits until the
group has committed what was in the user's partitions when the states were
restored. Other partitions hold nobody up for longer than 10 seconds. Records
that retention or compaction has taken from the topic are missing from the
state for good, unless they are dead letters: their number is printed. A repair
that was interrupted goes on when it is run again.

exit codes:
  0    nothing is to be repaired, or everything was
  65   a state has no generation before, or one that can't be read either, or
       answers with an error; or the commits of a partition stand still: its
       users are not repaired, so run the repair again when its lag is 0;
       without --yes: there is something to repair; or the input is a file:
       what to do by hand is printed, step by step
  69   no broker, no topic or no state store, or the broker stopped acknowledging
  130  interrupted
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

A backup holds what a user may ask you to erase. Bring it up to date after an
erasure (--replace), or remove it. A copy of all users has the notes on those who are still to be
announced too. It has not the journal of attempts: with the copy, crashes are
counted anew, and a dead letter may be sent twice.

The exit code is 65 if a state could not be copied. The others are in
`corlld --help`.
"""

IMPORT = "copy the states of an exported folder into the store"
IMPORT_DESCRIPTION = (
    "Copy the states of a folder that `export` made into the store that the settings name: a folder, or a bucket with "
    "state.url. Stop the daemons first. What the store has erased is not brought back, also if the user came back. "
    "Versions go on above all that were ever out. With --replace also a state that can't be read is written over: an "
    "erasure that it alone knew is not seen then. Set identity.secret: without it, an erasure of a user who had no "
    "version yet is not seen once the user came back."
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    show = add_parser(actions, "show", SHOW, SHOW_DESCRIPTION, SHOW_EPILOG)
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(action=_show)
    verify = add_parser(actions, "verify", VERIFY, VERIFY_DESCRIPTION, VERIFY_EPILOG)
    verify.set_defaults(action=_verify)
    repair = add_parser(actions, "repair", REPAIR, REPAIR_DESCRIPTION, REPAIR_EPILOG)
    repair.add_argument("--yes", action="store_true", help="repair; without it nothing is changed")
    repair.set_defaults(action=_repair)
    export = add_parser(actions, "export", EXPORT, EXPORT_DESCRIPTION, EXPORT_EPILOG)
    export.set_defaults(action=_export)
    importing = add_parser(actions, "import", IMPORT, IMPORT_DESCRIPTION, IMPORT_EPILOG)
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
