"""Runs the repair of states: from what was found, over the input, to the store and back to the input."""

import math
import time
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from rich.console import Console

from corlld.assembly import build_event_producer, build_input, pseudonyms
from corlld.commands.letter_replay import Outbox, send_back
from corlld.commands.letter_selection import Wanted, reading
from corlld.commands.shared import REACH_SECONDS
from corlld.commands.state_repair import Findings, finish, gather, restore
from corlld.errors import ExitCode, FatalError, InvalidReason
from corlld.events.decoder import EventDecoder
from corlld.settings.sections import Settings
from corlld.system.plurals import counted
from corlld.system.progress import Advance

if TYPE_CHECKING:
    from corlld.assembly import AnyStore

STANDSTILL_SECONDS = 60.0  # longer than a daemon gathers edits and keeps an update unsaved, by default
LOOK_SECONDS = 1.0

_WANTED = Wanted(reasons=frozenset({InvalidReason.STATE_UNREADABLE.value}))


def repair(settings: Settings, store: "AnyStore", findings: Findings, *, yes: bool, console: Console) -> None:
    """Gather what the states lack, restore the states, and send it; or print what would be done.

    Until a state is restored, a daemon that runs sets the user's records aside. So what the states lack is gathered
    once more afterwards.

    Raises FatalError if the input can't be read or sent to, or the group does not commit what it has set aside, and
    KeyboardInterrupt if a signal asked to stop.
    """
    timeout = settings.operations.startup_timeout_seconds
    with closing(Outbox()) as outbox:
        missing, lost = _gather(settings, store, findings, outbox, console, timeout)
        if lost:
            print(f"{counted(lost, 'dead letter')} without payload: what they held can't be read from the topic")
        if missing:
            print(
                f"{counted(missing, 'offset')} between the states and the commits are gone from the topic, of "
                "all users together: what was theirs is missing for good, but for dead letters"
            )
        if not yes:
            print(f"{_summary(findings, outbox)} to send: nothing was changed yet; --yes repairs")
            return
    # The producer is reached first: a state whose records can't be sent stays as it is.
    producer = build_event_producer(settings, timeout, REACH_SECONDS)
    try:
        if (owner := store.identity()) is not None:
            store.open(owner, must_exist=True)  # `store.json` gets today's format before the first state does
        hopeless = len(findings.hopeless)
        for uid in restore(store, findings):
            print(f"{uid}: restored")
        for sentence in findings.hopeless[hopeless:]:
            print(sentence)
        _wait_for_commits(settings, store, findings, console, timeout)
        with closing(Outbox()) as outbox:
            _gather(settings, store, findings, outbox, console, timeout)
            send_back(outbox, producer, console)
            done = _summary(findings, outbox)
    finally:
        producer.close(0)
    finish(store, findings.repairs.values())
    print(f"repaired: {done} sent to topic {settings.kafka.topic}")


def _gather(
    settings: Settings, store: "AnyStore", findings: Findings, outbox: Outbox, console: Console, timeout: float
) -> tuple[int, int]:
    """Put what the states lack into the outbox. Returns how many offsets are gone from the topic, and lost letters.

    Raises FatalError if the input can't be read.
    """
    the_input, names = build_input(settings, REACH_SECONDS), pseudonyms(settings)
    decoder = EventDecoder(settings.events, supports_messages=True, key_required=the_input.has_keys)
    with (
        the_input.committed_records(findings.starts, store, timeout) as stream,
        reading(settings, _WANTED, console) as letters,
        Advance(console, stream.steps, "records") as advance,
    ):
        lost = gather(findings, stream, letters, decoder, names, outbox, advance)
    return stream.missing, lost


def _wait_for_commits(
    settings: Settings, store: "AnyStore", findings: Findings, console: Console, timeout: float
) -> None:
    """Wait until the group has committed what is in the topic now.

    Of these records a daemon, or the one before it, may have set some aside and not committed them yet. They would be
    passed over: they are no dead letters with a payload, and not among what is committed.

    Raises FatalError if the commits stand still.
    """
    the_input = build_input(settings, REACH_SECONDS)
    ends: Mapping[int, int] | None = None
    behind: Mapping[int, int] = {}
    deadline = math.inf
    while True:
        with the_input.committed_records(findings.starts, store, timeout) as stream:
            ends = ends if ends is not None else stream.ends
            before, behind = behind, stream.behind(ends)
        if not behind:
            return
        if behind != before:
            console.print(f"waiting for the group to commit {counted(sum(behind.values()), 'offset')}")
            deadline = time.monotonic() + STANDSTILL_SECONDS
        if time.monotonic() >= deadline:
            raise FatalError(
                f"nothing was sent yet: group {settings.kafka.group_id} has not committed "
                f"{counted(sum(behind.values()), 'offset')} from before the states were restored, in partitions "
                f"{', '.join(map(str, behind))}. Have a daemon run; if one does, its /readyz says what it waits for. "
                "Run the repair again when the lag of these partitions is 0: it goes on",
                ExitCode.DATA,
            )
        time.sleep(LOOK_SECONDS)  # the broker tells nobody that a group has committed


def _summary(findings: Findings, outbox: Outbox) -> str:
    states = counted(len(findings.repairs), "state")
    return f"{states} from the generation before, and {counted(len(outbox), 'record')}"
