"""Runs the repair of states: from what was found, over the input, to the store and back to the input."""

from contextlib import closing
from typing import TYPE_CHECKING

from rich.console import Console

from corlld.assembly import build_event_producer, build_input, pseudonyms
from corlld.commands.letter_replay import Outbox, send_back
from corlld.commands.letter_selection import REACH_SECONDS, Wanted, reading
from corlld.commands.state_repair import Findings, finish, gather, restore
from corlld.errors import InvalidReason
from corlld.events.decoder import EventDecoder
from corlld.settings.sections import Settings
from corlld.system.plurals import counted
from corlld.system.progress import Advance

if TYPE_CHECKING:
    from corlld.assembly import AnyStore

_WANTED = Wanted(reasons=frozenset({InvalidReason.STATE_UNREADABLE.value}))


def repair(settings: Settings, store: "AnyStore", findings: Findings, *, yes: bool, console: Console) -> None:
    """Gather what the states lack, restore the states, and send it; or print what would be done.

    Until a state is restored, a daemon that runs sets the user's records aside. So what the states lack is gathered
    once more afterwards.

    Raises FatalError if the input can't be read or sent to, KeyboardInterrupt if a signal asked to stop.
    """
    timeout = min(REACH_SECONDS, settings.operations.startup_timeout_seconds)
    repairs = list(findings.repairs.values())
    with closing(Outbox()) as outbox:
        missing = _gather(settings, store, findings, outbox, console, timeout)
        if missing:
            print(
                f"{counted(missing, 'offset')} between the states and the commits are gone from the topic, of "
                "all users together: what was theirs is missing for good, but for dead letters"
            )
        if not yes:
            print(f"{_summary(findings, outbox)} to send: nothing was changed yet; --yes repairs")
            return
    # The producer is reached first: a state whose records can't be sent stays as it is.
    producer = build_event_producer(settings, timeout)
    try:
        for uid in restore(store, repairs):
            print(f"{uid}: restored")
        with closing(Outbox()) as outbox:
            _gather(settings, store, findings, outbox, console, timeout)
            send_back(outbox, producer, console)
            done = _summary(findings, outbox)
    finally:
        producer.close(0)
    finish(store, repairs)
    print(f"repaired: {done} sent to topic {settings.kafka.topic}")


def _gather(
    settings: Settings, store: "AnyStore", findings: Findings, outbox: Outbox, console: Console, timeout: float
) -> int:
    """Put what the states lack into the outbox. Returns how many offsets are gone from the topic.

    Raises FatalError if the input can't be read.
    """
    the_input, names = build_input(settings), pseudonyms(settings)
    decoder = EventDecoder(settings.events, supports_messages=True, key_required=the_input.has_keys)
    with (
        the_input.committed_records(findings.starts, store, timeout) as stream,
        reading(settings, _WANTED, console) as letters,
        Advance(console, stream.steps, "records") as advance,
    ):
        gather(findings, stream, letters, decoder, names, outbox, advance)
    return stream.missing


def _summary(findings: Findings, outbox: Outbox) -> str:
    states = counted(len(findings.repairs), "state")
    return f"{states} from the generation before, and {counted(len(outbox), 'record')}"
