"""The records that repaired states lack: found in the topic and among dead letters, to be sent once more."""

from collections import Counter
from collections.abc import Iterable, Iterator

from corlld.commands.letter_judgement import Outgoing
from corlld.commands.letter_replay import Outbox
from corlld.commands.repair_findings import Findings
from corlld.errors import InvalidEvent
from corlld.events.decoder import EventDecoder
from corlld.events.pseudonyms import Pseudonyms
from corlld.loop.intake import TRY_AGAIN_HEADER
from corlld.loop.transitions import REPAIR_HEADER, is_for, repair_in
from corlld.records import CommittedRecords, EraseEvent, StoredLetter
from corlld.system.plurals import counted
from corlld.system.progress import Advance


def untold_partitions(findings: Findings, stream: CommittedRecords) -> Iterator[str]:
    """Yield a sentence for each user of whom a partition may hold records that no file names any more."""
    committed = {f"{stream.name}/{partition}" for partition in stream.committed}
    for repair in findings.repairs.values():
        if repair.header_lost and (others := len(committed - repair.starts.keys())):
            yield (
                f"{repair.uid}: not even the header of the state can be read, so the partitions that it alone knew "
                f"can't be told. What it had learnt from the {counted(others, 'partition')} that the generation before "
                "does not name is not sent"
            )


def gather(
    findings: Findings,
    stream: CommittedRecords,
    letters: Iterable[StoredLetter],
    decoder: EventDecoder,
    names: Pseudonyms,
    outbox: Outbox,
    advance: Advance,
) -> Counter[str]:
    """Put the users' records into the outbox: those of the topic, and dead letters that the topic lacks by now.

    A record that was refused as malformed stays refused.

    Returns the number of dead letters whose records are lost, by uid: they have no payload, and the stream lacks them.
    """
    lost: Counter[str] = Counter()
    found: set[tuple[int, int]] = set()
    for record in stream.records:
        place = (record.tenure.partition.partition, record.offset)
        if _add(findings, stream.name, place, (record.key, record.value, record.headers), decoder, names, outbox):
            found.add(place)
        advance(1)
    for letter in letters:
        place = (letter.partition.partition, letter.offset)
        if place in found or letter.partition.topic_id != stream.name:
            continue
        if letter.has_payload:
            raw = (letter.record_key, letter.record_value, letter.record_headers)
            _add(findings, stream.name, place, raw, decoder, names, outbox)
        elif (repair := findings.repairs.get(letter.uid or "")) is not None:
            start, end = repair.starts.get(letter.partition.key, 0), stream.committed.get(letter.partition.partition, 0)
            lost[repair.uid] += start <= letter.offset < end
            repair.note_place(letter.partition.key, letter.offset)
    return lost


def _add(
    findings: Findings,
    topic: str,
    place: tuple[int, int],
    raw: tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]],
    decoder: EventDecoder,
    names: Pseudonyms,
    outbox: Outbox,
) -> bool:
    """Put a record into the outbox if a repaired user's state lacks it. Returns whether it did."""
    key, value, headers = raw
    try:
        event = decoder.decode(key, value, headers)
    except InvalidEvent:
        return False
    partition, offset = place
    key_of_partition = f"{topic}/{partition}"
    repair = findings.repairs.get(names.uid(event.user_id))
    # A partition that the generation before does not name: nothing of it was learnt yet.
    if repair is None or offset < repair.starts.get(key_of_partition, 0):
        return False
    sent_by = repair_in(headers)
    if sent_by != repair.id and not is_for(repair.repairs, sent_by):
        return False  # an earlier repair sent it, and the user was erased since
    repair.note_place(key_of_partition, offset)
    # What crashed again after it was tried again is no wish to try it once more.
    headers = tuple(header for header in headers if header[0] not in (TRY_AGAIN_HEADER, REPAIR_HEADER))
    if repair.id is not None:
        headers = (*headers, (REPAIR_HEADER, repair.id.encode()))
    outgoing = Outgoing(event.user_id.encode(), value, headers, isinstance(event, EraseEvent))
    outbox.add((topic, partition, offset), outgoing)
    return True
