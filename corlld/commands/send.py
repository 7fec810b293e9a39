"""`corlld send`: events from a file to the topic. The whole file is validated before the first event is sent."""

import argparse
import threading
from collections import Counter
from collections.abc import Callable
from typing import IO

from rich.console import Console

from corlld.commands.events_file import STANDARD_INPUT, Contents, event_of, numbered_lines, opened, validate
from corlld.commands.shared import REACH_SECONDS, add_config, load, stderr_console
from corlld.commands.under_way import EventProducer, Problem, UnderWay
from corlld.errors import ExitCode, FatalError, InvalidEvent
from corlld.events.decoder import EventDecoder
from corlld.settings.sections import Settings
from corlld.system.plurals import counted
from corlld.system.progress import Advance, shown
from corlld.system.signals import stop_on_signals

NAME = "send"
HELP = "validate a file of edit events, and send them to kafka.topic"
DESCRIPTION = (
    "Validate a file of edit events, and send them to kafka.topic. Every line passes the decoder of the daemon before "
    "the first event is sent. If a line is wrong, nothing is sent, and its number, the reason and the field are "
    "printed. Each event's key is its user_id in UTF-8, so the events of a user keep their order. "
    "All replicas acknowledge. CloudEvents in structured mode (JSON with `specversion`) are sent as they are."
)
EPILOG = """\
examples:
  corlld send --dry-run edits.jsonl      is every line an event?
  corlld send edits.jsonl                with /etc/corlld/corlld.toml
  zcat edits.jsonl.gz | corlld send -    a pipe is copied first (privately)
  CORLLD_KAFKA__BOOTSTRAP_SERVERS=broker:9092 corlld send edits.jsonl

exit codes:
  0    all events are acknowledged; with --dry-run: all are valid
  2    no such file, a folder, or a wrong command line
  65   a line is not a valid event, or the file is no lines of JSON (nothing was
       sent); the file changed while it was sent; or a record is larger than
       the topic allows
  69   no broker, no topic, or the broker stopped acknowledging
  73   the temporary copy of standard input can't be written
  78   wrong settings, or the broker refuses them
  130  interrupted: the number of acknowledged events is printed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    add_config(parser)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a file with one event per line (see Events in deploy/README.md); `-` is standard input",
    )
    parser.add_argument("--dry-run", action="store_true", help="validate only; this needs no broker")


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises what `send_file` raises."""
    settings = load(arguments, quiet=True)
    print(send_file(settings, arguments.file, dry_run=arguments.dry_run, console=stderr_console()))
    return ExitCode.OK


def send_file(settings: Settings, name: str, *, dry_run: bool, console: Console) -> str:
    """Validate the input and send it. Returns what was done, as a sentence.

    Args:
        settings: `kafka` and `events` are used; with `dry_run` no broker is needed.
        name: a file, or `-`.
        dry_run: validate only.
        console: where progress is shown.

    Raises FatalError for an input, a broker or a topic that can't be used, and KeyboardInterrupt as `send` does.
    """
    # A file has no keys, and only the daemon knows whether its model takes messages.
    decoder = EventDecoder(settings.events, supports_messages=True, key_required=False)
    stop = threading.Event()
    with opened(name) as file:
        start = file.tell()
        title = "standard input" if name == STANDARD_INPUT else name
        try:
            contents = validate(file, title, decoder)
        except FatalError as error:
            raise error if dry_run else FatalError(f"{error}\nnothing was sent", error.exit_code) from None
        if dry_run:
            return f"{contents}: valid (--dry-run)"

        from corlld.assembly import build_event_producer

        with shown(console, f"reaching topic {settings.kafka.topic}"):
            producer = build_event_producer(settings, settings.operations.startup_timeout_seconds, REACH_SECONDS)
        try:
            file.seek(start)
            with stop_on_signals(stop.set):
                acknowledged = send(
                    file,
                    title,
                    decoder,
                    contents,
                    producer,
                    stopped=stop.is_set,
                    ids_remembered=settings.state.recent_event_ids + settings.state.older_event_ids,
                    console=console,
                )
        finally:
            producer.close(0)  # events that are not acknowledged by now were given up
    where = counted(len(acknowledged), "partition")
    return f"{contents}: acknowledged by all replicas, in {where} of topic {settings.kafka.topic}"


def send(
    file: IO[bytes],
    name: str,
    decoder: EventDecoder,
    contents: Contents,
    producer: EventProducer,
    *,
    stopped: Callable[[], bool],
    ids_remembered: int,
    console: Console,
) -> Counter[int]:
    """Send the events that `validate` saw, in order, and return the number of events per partition.

    Args:
        file: at the position where `validate` began.
        name: of the file, for messages.
        decoder: the same as for `validate`.
        contents: what `validate` found.
        producer: takes the events.
        stopped: true once a signal asks to stop.
        ids_remembered: `state.recent_event_ids` and `state.older_event_ids`. A user with more events than that can't be
            sent again as a whole: the daemon would apply the earliest events twice.
        console: where progress is shown.

    Raises FatalError if an event was not acknowledged or the file changed, and KeyboardInterrupt if it was stopped.
    Both say how many events were acknowledged, and how to send the rest.
    """
    with Advance(console, contents.events) as advance:
        under_way = UnderWay(advance)
        changed = _hand_over(file, decoder, contents, producer, under_way, stopped)
        problem = under_way.settle(stopped) or changed
    acknowledged = under_way.acknowledged.total()
    if acknowledged == contents.events and problem is None:
        return under_way.acknowledged
    done = f"{acknowledged:,} of {counted(contents.events, 'event')} acknowledged"
    again = _how_to_send_again(contents, under_way.through, ids_remembered)
    if problem is None:
        raise KeyboardInterrupt(f"interrupted: {done}\n{again}")
    what, code = problem
    raise FatalError(f"{name}: {what}; {done}\n{again}", code)


def _hand_over(
    file: IO[bytes],
    decoder: EventDecoder,
    contents: Contents,
    producer: EventProducer,
    under_way: UnderWay,
    stopped: Callable[[], bool],
) -> Problem | None:
    """Hand all events to the producer, until one is refused. Returns a problem if the file has changed."""
    changed = ("the file was changed while it was sent", ExitCode.DATA)
    sent = 0
    for number, line in numbered_lines(file):
        if number > contents.lines:  # it grew
            break
        try:
            event = event_of(decoder, line)
        except InvalidEvent:
            return changed
        if event is None:
            continue
        while not (under_way.has_room or under_way.refused or stopped()):
            under_way.wait()
        if under_way.refused or stopped():
            return None
        under_way.add(number, len(line), producer.send(event.user_id.encode(), line))
        sent += 1
    return None if sent == contents.events else changed


def _how_to_send_again(contents: Contents, through_line: int, ids_remembered: int) -> str:
    if contents.most_of_one_user <= ids_remembered:
        return "sending all of it again is safe: an event id is applied once"
    return (
        f"send it again without its first {counted(through_line, 'line')}, which are acknowledged: the daemon "
        f"recognises a duplicate by the user's last {counted(ids_remembered, 'event id')}, and a user of this file has "
        f"{counted(contents.most_of_one_user, 'event')}"
    )
