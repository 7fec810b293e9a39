"""`corlld dead-letters list|show|replay`: what was set aside, why, and the way back to the input."""

import argparse
import functools
import json
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from corlld.commands.letter_selection import add_filters, reading, wanted_by
from corlld.commands.shared import (
    REACH_SECONDS,
    add_config,
    add_parser,
    file_path,
    load,
    stderr_console,
    stdout_console,
)
from corlld.durable import UserState
from corlld.errors import ConfigurationError, ExitCode, FatalError
from corlld.settings.sections import Settings
from corlld.system.plurals import counted
from corlld.system.progress import shown

if TYPE_CHECKING:
    from corlld.commands.letter_replay import Outbox

NAME = "dead-letters"
HELP = "list, show and replay the records that were set aside"
DESCRIPTION = (
    "List, show and replay the records that were set aside. Letters are read from their topic (for source.kind jsonl: "
    "from their file), from its beginning to its present end. No group is joined and nothing is committed or changed: "
    "the daemon may run meanwhile."
)
EPILOG = """\
examples:
  corlld dead-letters list                  counts by reason
  corlld dead-letters show --reason not_json
  corlld dead-letters replay --reason state_unreadable
                                            what would be sent; --yes sends it
"""

LIST = "count the letters by reason"
LIST_DESCRIPTION = (
    "Count the letters by reason: letters, users by pseudonym, the first and the last that was stored. Copies of a "
    "letter are counted once. A letter whose record named no readable key has no user; neither has a letter of a file, "
    "unless its user's state could not be read."
)
LIST_EPILOG = """\
examples:
  corlld dead-letters list
  corlld dead-letters list --since 2026-01-31T00:00:00Z --json
  corlld dead-letters list --user - < user_id.txt
"""

SHOW = "show letters: place, reason and headers"
SHOW_DESCRIPTION = (
    "Show letters: place, reason and headers. Without --payload nothing of the record itself is printed. "
    "With it, the raw user id and the texts of the user are printed: mind who sees the terminal and the file."
)
SHOW_EPILOG = """\
examples:
  corlld dead-letters show edits-3-41       the letter of this record
  corlld dead-letters show --reason missing_field
  corlld dead-letters show --json --payload --reason missing_field |
      jq -c '{key, event: (.payload | fromjson | .edited //= .proposed)}' \\
      > repaired.jsonl                      a file for `replay --repaired`

The exit code is 65 if no letter matches.
"""

REPLAY = "send letters back to the input, with the same event ids"
REPLAY_DESCRIPTION = (
    "Send letters back to kafka.topic: the record's own value and headers, keyed by its user, in the order of the "
    "records. Without --yes nothing is sent, and what would be sent is printed. An event that is still invalid is not "
    "sent, but listed. For source.kind jsonl, --to writes a new file instead: the input file belongs to the program "
    "that writes it, so corlld does not append to it. Append the new file yourself, or `corlld send` it."
)
REPLAY_EPILOG = """\
examples:
  corlld dead-letters replay --reason state_unreadable         look first
  corlld dead-letters replay --reason state_unreadable --yes
  corlld dead-letters replay --repaired repaired.jsonl --yes
  corlld dead-letters replay --to again.jsonl                  from a file

Replaying twice is harmless while the user's state remembers the event ids: the
last state.recent_event_ids of a user and the state.older_event_ids before. The
daemon applies an event id once. What a state knows by its id is left out here
already. Letters are not marked or removed. An
erasure without an id (a record without a value) erases again each time.

What was erased stays erased, as far as the users' states tell: a letter that
may be older than an erasure of its user is left out. The states do not know of
an erasure that the daemon has not read yet, so replay when the lag is 0. They
forget it when a user is back who was erased before the first version.

Letters of another topic, or of users whose pseudonyms were made with another
identity.secret, are listed and not sent: another deployment set them aside.

Whether the model has a chat template is not looked at: letters of the reason
no_chat_template go back.

exit codes:
  0    all letters that match are acknowledged, learnt or erased; without --yes:
       they can be sent
  2    a wrong command line, or a file that exists or can't be read
  65   a letter is still invalid, has no payload, or belongs to a state that
       can't be read (the others were sent); a repaired event is wrong or
       belongs to no letter (nothing was sent); there is no state store; or a
       record is larger than the topic allows
  69   no broker, no topic, or the broker stopped acknowledging
  73   a file can't be written
  78   wrong settings, another identity.secret than the state store's, or the
       broker refuses the settings
  130  interrupted: the number of acknowledged events is printed
"""


STATES_CACHED = 1_000  # without tensors, some kB each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listing = add_parser(actions, "list", LIST, LIST_DESCRIPTION, LIST_EPILOG)
    listing.set_defaults(action=_list)
    show = add_parser(actions, "show", SHOW, SHOW_DESCRIPTION, SHOW_EPILOG)
    show.set_defaults(action=_show)
    show.add_argument(
        "letter", nargs="?", metavar="LETTER", help="a letter's key, or TOPIC-PARTITION-OFFSET of its record"
    )
    show.add_argument("--payload", action="store_true", help="print the record's own bytes too: ids and texts of users")
    for action in (listing, show):
        action.add_argument("--json", action="store_true", help="print JSON; `show`: one object per line")
    replay = add_parser(actions, "replay", REPLAY, REPLAY_DESCRIPTION, REPLAY_EPILOG)
    replay.set_defaults(action=_replay)
    replay.add_argument(
        "--repaired",
        metavar="FILE",
        help="send only the letters that this file repairs, as it has them. Each line is the repaired event, which "
        'names its letter by event_id and user, or `{"key": KEY_OF_THE_LETTER, "event": EVENT}`; `-` is standard '
        "input",
    )
    where = replay.add_mutually_exclusive_group()
    where.add_argument("--yes", action="store_true", help="send to kafka.topic")
    where.add_argument("--to", type=file_path, metavar="FILE", help="source.kind jsonl: write to this new file")
    replay.add_argument(
        "--include-erased",
        action="store_true",
        help="do not look at the users' states: this sends what was learnt or erased already, too",
    )
    for action in (listing, show, replay):
        add_config(action)
        add_filters(action)


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises FatalError for what can't be read or sent."""
    action: Callable[[argparse.Namespace, Settings], int] = arguments.action
    return action(arguments, load(arguments, quiet=True))


def _list(arguments: argparse.Namespace, settings: Settings) -> int:
    from corlld.commands.letter_views import count, counts_table

    with reading(settings, wanted_by(arguments, settings), stderr_console()) as letters:
        counts = count(letters)
    total = sum(each.letters for each in counts.values())
    if arguments.json:
        reasons = {reason: each.row() for reason, each in counts.items()}
        figures = {"letters": total, "copies": letters.copies, "foreign": letters.foreign, "reasons": reasons}
        print(json.dumps({"place": letters.place} | figures, indent=2))
        return ExitCode.OK
    if counts:
        stdout_console().print(counts_table(counts))
    print(f"{counted(total, 'dead letter')} in {letters.place}" + _beside(letters.copies, letters.foreign))
    return ExitCode.OK


def _beside(copies: int, foreign: int) -> str:
    parts = [f"copies beside them: {copies}"] if copies else []
    if foreign:
        parts.append(f"not of corlld: {foreign}")
    return f" ({', '.join(parts)})" if parts else ""


def _show(arguments: argparse.Namespace, settings: Settings) -> int:
    from corlld.commands.letter_views import letter_lines, letter_row

    shown = 0
    with reading(settings, wanted_by(arguments, settings), stderr_console()) as letters:
        for letter in letters:
            shown += 1
            if arguments.json:
                print(json.dumps(letter_row(letter, payload=arguments.payload)))
            else:
                print("\n".join(letter_lines(letter, payload=arguments.payload)))
    if not shown:
        raise FatalError(f"{letters.place}: no dead letter matches", ExitCode.DATA)
    return ExitCode.OK


def _replay(arguments: argparse.Namespace, settings: Settings) -> int:
    from corlld.assembly import build_input, pseudonyms
    from corlld.commands.letter_judgement import Judge, Verdict
    from corlld.commands.letter_replay import Outbox, exit_code_of, gather
    from corlld.commands.repairs import read_repairs
    from corlld.events.decoder import EventDecoder

    to_topic = build_input(settings).can_be_sent_to
    _check_destination(arguments, to_topic=to_topic)
    names = pseudonyms(settings)
    # Only the daemon knows whether its model takes messages. A record that had no key gets its user's.
    decoder = EventDecoder(settings.events, supports_messages=True, key_required=False)
    repairs = None if arguments.repaired is None else read_repairs(arguments.repaired, decoder, names)
    states = None if arguments.include_erased else _states(settings, names.fingerprint)
    with closing(Outbox()) as outbox:
        with reading(settings, wanted_by(arguments, settings), stderr_console()) as letters:
            judge = Judge(decoder, names, states, repairs, settings.kafka.topic if to_topic else None)
            verdicts, lines = gather(letters, judge, outbox)
        if repairs is not None:
            repairs.refuse_unused()
        for line in lines:
            print(f"not sent: {line}")
        for verdict, number in verdicts.most_common():
            if verdict is not Verdict.SEND:
                print(f"{counted(number, 'letter')}: {verdict}")
        print(_deliver(outbox, arguments, settings))
    return exit_code_of(verdicts)


def _check_destination(arguments: argparse.Namespace, *, to_topic: bool) -> None:
    """Raise FatalError if the command line names another kind of destination than the input has."""
    if arguments.to is not None and to_topic:
        raise FatalError("--to is for source.kind jsonl: --yes sends to kafka.topic", ExitCode.USAGE)
    if arguments.yes and not to_topic:
        raise FatalError("--yes needs a topic as the input: --to FILE writes a file that can be sent", ExitCode.USAGE)


def _states(settings: Settings, fingerprint: str) -> Callable[[str], UserState | None]:
    """Return what loads a user's state without its tensors.

    Raises ConfigurationError if the store was made with another secret, and FatalError if there is no store: then
    nobody knows what was erased.
    """
    from corlld.assembly import build_store, no_store_yet

    store = build_store(settings)
    found = store.secret_fingerprint()
    if found is None:
        raise FatalError(
            f"state store: {no_store_yet(settings)}. Without it nobody knows what was erased: replay where the daemon "
            "runs, or with --include-erased",
            ExitCode.DATA,
        )
    if found != fingerprint:
        raise ConfigurationError(
            "the store's pseudonyms were made with another identity.secret: with this one, no user can be found"
        )
    return functools.lru_cache(STATES_CACHED)(store.load_header)


def _deliver(outbox: "Outbox", arguments: argparse.Namespace, settings: Settings) -> str:
    """Send or write what is in the outbox, if the command line asks for it. Returns what was done, as a sentence."""
    from corlld.assembly import build_event_producer
    from corlld.commands.letter_replay import send_back, write_back

    if not outbox:
        return "nothing to send"
    if arguments.to is not None:
        write_back(outbox, arguments.to)
        return f"{outbox}: written to {arguments.to}"
    if not arguments.yes:
        return f"{outbox}: nothing was sent yet; --yes sends to the topic, --to FILE writes a file (source.kind jsonl)"
    console = stderr_console()
    with shown(console, f"reaching topic {settings.kafka.topic}"):
        producer = build_event_producer(settings, settings.operations.startup_timeout_seconds, REACH_SECONDS)
    try:
        where = counted(len(send_back(outbox, producer, console)), "partition")
    finally:
        producer.close(0)  # events that are not acknowledged by now were given up
    return f"{outbox}: acknowledged by all replicas, in {where} of topic {settings.kafka.topic}"
