"""Key and headers of a dead letter, the same for a topic and for a file."""

from corlld.errors import InvalidReason
from corlld.records import DeadLetter

UNKNOWN_USER = "unknown"
RECORD_KEY_HEADER = "corlld.record.key"
REASON_HEADER = "corlld.reason"


def letter_key(letter: DeadLetter) -> str:
    """Return `uid/topic-id/partition/offset`: the same letter sent twice has the same key."""
    place = letter.record.tenure.partition
    return f"{letter.uid or UNKNOWN_USER}/{place.key}/{letter.record.offset}"


def letter_headers(letter: DeadLetter) -> dict[str, str]:
    """Return the headers. They have Kafka Connect's names, so that its tools work. None quotes the record."""
    place, error = letter.record.tenure.partition, letter.error
    unreadable = error.reason is InvalidReason.STATE_UNREADABLE
    context = {
        "topic": place.topic,
        "partition": str(place.partition),
        "offset": str(letter.record.offset),
        "connector.name": "corlld",
        "task.id": "0",
        "stage": "TASK_PUT" if unreadable else "VALUE_CONVERTER",
        # Consumers of dead letters may compare this value, so it stays, although the decoder has moved since.
        "class.name": "corlld.protocols.StateStore" if unreadable else "corlld.events.EventDecoder",
        "exception.class.name": f"{type(error).__module__}.{type(error).__qualname__}",
        "exception.message": str(error),
    }
    return {f"__connect.errors.{name}": value for name, value in context.items()} | {REASON_HEADER: error.reason.value}
