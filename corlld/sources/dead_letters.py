"""Key and headers of a dead letter, the same for a topic and for a file: written, and read back."""

from collections.abc import Mapping, Sequence

from corlld.errors import InvalidReason
from corlld.records import DeadLetter, SourcePartition, StoredLetter

UNKNOWN_USER = "unknown"
RECORD_KEY_HEADER = "corlld.record.key"
REASON_HEADER = "corlld.reason"
PAYLOAD_DROPPED_HEADER = "corlld.payload"

_CONTEXT = "__connect.errors."
_STAGES = {  # stage and class, where the record itself is valid
    InvalidReason.STATE_UNREADABLE: ("TASK_PUT", "corlld.protocols.StateStore"),
    InvalidReason.CRASHED: ("TASK_PUT", "corlld.protocols.Learner"),
}
_OWN = (REASON_HEADER, PAYLOAD_DROPPED_HEADER)


def letter_key(letter: DeadLetter) -> str:
    """Return `uid/topic-id/partition/offset`: the same letter sent twice has the same key."""
    place = letter.record.tenure.partition
    return f"{letter.uid or UNKNOWN_USER}/{place.key}/{letter.record.offset}"


def letter_headers(letter: DeadLetter) -> dict[str, str]:
    """Return the headers. They have Kafka Connect's names, so that its tools work. None quotes the record."""
    place, error = letter.record.tenure.partition, letter.error
    stage, class_name = _STAGES.get(error.reason, ("VALUE_CONVERTER", "corlld.events.EventDecoder"))
    context = {
        "topic": place.topic,
        "partition": str(place.partition),
        "offset": str(letter.record.offset),
        "connector.name": "corlld",
        "task.id": "0",
        "stage": stage,
        # Consumers of dead letters may compare this value, so it stays, although the decoder has moved since.
        "class.name": class_name,
        "exception.class.name": f"{type(error).__module__}.{type(error).__qualname__}",
        "exception.message": str(error),
    }
    return {_CONTEXT + name: value for name, value in context.items()} | {REASON_HEADER: error.reason.value}


def read_letter(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]], stored_at: float | None
) -> StoredLetter | None:
    """Read a letter of the dead-letter topic back; None if it is not a letter of corlld.

    The record's own headers come before the letter's, so that the last header of a name is the letter's.

    Args:
        key: as `letter_key` made it.
        value: the record's value; empty if it had none, or if the letter has no payload.
        headers: the record's own, then those of `letter_headers`, then `RECORD_KEY_HEADER` if there is a payload.
        stored_at: when the letter was stored, in seconds since 1970.
    """
    last = dict(headers)
    own = {name: raw.decode(errors="replace") for name, raw in last.items() if _is_own(name)}
    place = _place(key, own)
    if place is None:
        return None
    uid, partition, offset = place
    record_key = last.get(RECORD_KEY_HEADER)
    has_payload = bool(value) or record_key is not None
    # An empty value was no JSON, so an empty payload that was refused for something else stands for no value at all.
    was_empty = own[REASON_HEADER] == InvalidReason.NOT_JSON
    record_value = value if value or was_empty else None
    return StoredLetter(
        key=(key or b"").decode(),
        uid=uid,
        partition=partition,
        offset=offset,
        reason=own[REASON_HEADER],
        headers=own,
        has_payload=has_payload,
        record_key=record_key if has_payload else None,
        record_value=record_value if has_payload else None,
        record_headers=_record_headers(headers) if has_payload else (),
        stored_at=stored_at,
    )


def _is_own(name: str) -> bool:
    return name in _OWN or name.startswith(_CONTEXT)


def _record_headers(headers: Sequence[tuple[str, bytes]]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, raw) for name, raw in headers if not _is_own(name) and name != RECORD_KEY_HEADER)


def _place(key: bytes | None, own: Mapping[str, str]) -> tuple[str | None, SourcePartition, int] | None:
    """Return user, partition and offset of the record; None if the key or a header is not a letter's."""
    try:
        uid, topic_id, partition, offset = (key or b"").decode().split("/")
        place = SourcePartition(own[_CONTEXT + "topic"], topic_id, int(partition))
        if REASON_HEADER not in own:
            return None
        return None if uid == UNKNOWN_USER else uid, place, int(offset)
    except (KeyError, ValueError):  # a UnicodeDecodeError is a ValueError
        return None
