"""Runs the repair of states: from what was found, over the input, to the store and back to the input."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console

from corlld.assembly import build_event_producer, build_input, pseudonyms
from corlld.commands.lacking_records import gather, untold_partitions
from corlld.commands.letter_replay import Outbox, send_back
from corlld.commands.letter_selection import Wanted, reading
from corlld.commands.repair_findings import Findings, Losses
from corlld.commands.repair_notes import finish, note, take_out_passed
from corlld.commands.shared import REACH_SECONDS
from corlld.commands.state_repair import restore
from corlld.commands.under_way import EventProducer
from corlld.errors import ExitCode, FatalError, InvalidReason
from corlld.events.decoder import EventDecoder
from corlld.records import CommittedRecords
from corlld.settings.sections import Settings
from corlld.system.plurals import counted
from corlld.system.progress import Advance

if TYPE_CHECKING:
    from corlld.assembly import AnyStore

STANDSTILL_SECONDS = 60.0  # longer than a daemon gathers edits and keeps an update unsaved, by default
LOOK_SECONDS = 1.0
# A daemon commits every second. In a partition that no file names it may still be setting a user's first record aside,
# since it had read the state before that was restored.
OTHERS_SECONDS = 10.0

_WANTED = Wanted(reasons=frozenset({InvalidReason.STATE_UNREADABLE.value}))


def repair(settings: Settings, store: "AnyStore", findings: Findings, *, yes: bool, console: Console) -> None:
    """Name the users, gather what their states lack, restore the states, and send it; or print what would be done.

    Until a state is restored, a daemon that runs sets the user's records aside. So what the states lack is gathered
    once more afterwards.

    Raises FatalError if the input can't be read or sent to, if the group does not commit what it has set aside of some
    users, or if something else stores some states meanwhile: all others are repaired then. Raises KeyboardInterrupt if
    a signal asked to stop.
    """
    timeout = settings.operations.startup_timeout_seconds
    site = _Site(settings, store, console, timeout)
    for uid, found in findings.repairs.items():
        print(f"{uid}: {found.problem or 'an interrupted repair goes on'}")
    records = _look_at_input(site, findings)
    if not yes:
        print(f"{_summary(len(findings.repairs), records)} to send: nothing was changed yet; --yes repairs")
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
        _send_what_is_committed(site, findings, producer)
    finally:
        producer.close(0)
    if site.overwritten:
        raise FatalError(
            f"{', '.join(site.overwritten)}: an import or an older corlld has stored the state since it was restored. "
            "Nothing was sent: whether the user was erased meanwhile can't be seen. Stop every older daemon, and send "
            "the user's records since the backup once more if they are missing",
            ExitCode.DATA,
        )


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a repair works.

    timeout: in seconds, for each answer of the cluster. losses: those that were printed. overwritten: users whose
    states an import or an older corlld has stored since they were restored.
    """

    settings: Settings
    store: "AnyStore"
    console: Console
    timeout: float
    losses: Losses = field(default_factory=Losses)
    overwritten: list[str] = field(default_factory=list)


def _look_at_input(site: _Site, findings: Findings) -> int:
    """Print what the states lack for good. Returns how many records would be sent.

    A dead letter may be the first that tells of a partition, of which nothing was read then. So all is read once more
    until no partition is added.

    Raises FatalError if the input can't be read.
    """
    starts: Mapping[str, int] | None = None
    while starts != findings.starts:
        starts = findings.starts
        with closing(Outbox()) as outbox:
            stream, lost = _gather(site, findings, outbox)
            records = len(outbox)
    for sentence in (*untold_partitions(findings, stream), *site.losses.new(findings, stream, lost)):
        print(sentence)
    return records


def _gather(site: _Site, findings: Findings, outbox: Outbox) -> tuple[CommittedRecords, Counter[str]]:
    """Put what the states lack into the outbox. Returns the stream, which was read, and what `gather` returns.

    Raises FatalError if the input can't be read.
    """
    settings = site.settings
    the_input, names = build_input(settings, REACH_SECONDS), pseudonyms(settings)
    decoder = EventDecoder(settings.events, supports_messages=True, key_required=the_input.has_keys)
    with (
        the_input.committed_records(findings.starts, site.store, site.timeout) as stream,
        reading(settings, _WANTED, site.console) as letters,
        Advance(site.console, stream.steps, "records") as advance,
    ):
        lost = gather(findings, stream, letters, decoder, names, outbox, advance)
    return stream, lost


def _send_what_is_committed(site: _Site, findings: Findings, producer: EventProducer) -> None:
    """Send each user's records once the group has committed what is in the user's partitions now.

    Of these records a daemon, or the one before it, may have set some aside and not committed them yet. They would be
    passed over: they are no dead letters with a payload, and not among what is committed. Commits move partition by
    partition, so a user waits for the partitions that hold the user's records. All others are waited for too, but for
    OTHERS_SECONDS at most: then those that are still behind are printed.

    Raises FatalError if the commits stand still. Users who are not repaired by then keep their notes.
    """
    the_input = build_input(site.settings, REACH_SECONDS)
    ends: Mapping[int, int] = {}
    others: Mapping[int, int] | None = None
    waited_for: Mapping[int, int] = {}
    deadline, patient_until = math.inf, time.monotonic() + OTHERS_SECONDS
    states = records = 0
    while findings.repairs:
        with the_input.committed_records(findings.starts, site.store, site.timeout) as stream:
            # The first ends stay, since a busy partition never stands still. Partitions that are found later are added.
            ends = {**stream.ends, **ends}
            others = stream.others if others is None else others
            behind = stream.behind(ends)
            elsewhere = stream.behind({partition: end for partition, end in others.items() if partition not in ends})
        if elsewhere and time.monotonic() < patient_until:
            time.sleep(LOOK_SECONDS)  # as below: only another look shows what was committed
            continue
        ready = findings.take_apart_from({f"{stream.name}/{partition}" for partition in behind})
        if ready.repairs:
            if elsewhere:
                print(_not_looked_at(elsewhere))
                others = {}
            if (sent := _send(site, ready, stream.name, producer)) is None:
                findings.repairs |= ready.repairs
            else:
                states += len(ready.repairs)
                records += sent
            continue  # the commits of others may have moved meanwhile
        if behind != waited_for:
            site.console.print(f"waiting for the group to commit {counted(sum(behind.values()), 'offset')}")
            waited_for, deadline = behind, time.monotonic() + STANDSTILL_SECONDS
        if time.monotonic() >= deadline:
            break
        time.sleep(LOOK_SECONDS)  # the broker tells nobody that a group has committed
    if states:
        print(f"repaired: {_summary(states, records)} sent to topic {site.settings.kafka.topic}")
    if findings.repairs:
        raise _standstill(site, findings, stream.name, behind)


def _send(site: _Site, findings: Findings, topic_name: str, producer: EventProducer) -> int | None:
    """Send what the users' states lack, remove their notes, and print it. Returns the number of records.

    A daemon may have set a user's first record of a partition aside since the last look. None is returned then, the
    place is noted, and nothing is sent: that partition was not read, and what is in it may not be committed yet.

    topic_name: as states call the topic.
    """
    erased, overwritten = take_out_passed(site.store, findings)
    for uid in erased:
        print(f"{uid}: erased since the state was restored: nothing is sent")
    finish(site.store, erased)
    site.overwritten.extend(overwritten)
    if not findings.repairs:
        return 0
    starts = findings.starts
    with closing(Outbox()) as outbox:
        stream, lost = _gather(site, findings, outbox)
        if starts != findings.starts:
            for repair in findings.repairs.values():
                note(site.store, repair)
            return None
        for sentence in site.losses.new(findings, stream, lost):
            print(f"meanwhile: {sentence}")  # retention goes on
        send_back(outbox, producer, site.console)
        finish(site.store, findings.repairs)
        for partition, users in findings.users_by_partition(topic_name).items():
            sent = counted(outbox.by_partition[partition], "record")
            print(f"partition {partition}: {counted(users, 'state')} repaired, {sent} sent")
        return len(outbox)


def _not_looked_at(behind: Mapping[int, int]) -> str:
    return (
        f"not committed yet in partitions {', '.join(map(str, behind))}, which no state names: "
        f"{counted(sum(behind.values()), 'offset')}. If a daemon sets a record of a repaired user aside there, it had "
        "read the state before: `corlld dead-letters replay --reason state_unreadable` sends it"
    )


def _standstill(site: _Site, findings: Findings, topic_name: str, behind: Mapping[int, int]) -> FatalError:
    """Print which states wait for which partition. Return the error. topic_name: as states call the topic."""
    for partition, users in findings.users_by_partition(topic_name).items():
        if partition in behind:
            left = counted(behind[partition], "offset")
            print(f"partition {partition}: {counted(users, 'state')} not repaired yet, {left} not committed")
    return FatalError(
        f"{counted(len(findings.repairs), 'state')} not repaired yet: group {site.settings.kafka.group_id} has not "
        f"committed {counted(sum(behind.values()), 'offset')} from before the states were restored, in partitions "
        f"{', '.join(map(str, behind))}. Have a daemon run; if one does, its /readyz says what it waits for. "
        "Run the repair again when the lag of these partitions is 0: it goes on",
        ExitCode.DATA,
    )


def _summary(states: int, records: int) -> str:
    return f"{counted(states, 'state')} from the generation before, and {counted(records, 'record')}"
