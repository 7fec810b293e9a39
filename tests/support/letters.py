"""A dead letter, for tests of the places that it can be sent to."""

from typing import Any

from corlld.errors import InvalidEvent, InvalidReason
from corlld.records import DeadLetter, Record, SourcePartition, Tenure

TOPIC_ID = "0123456789abcdef0123456789abcdef"
VALUE = b'{"not": \xff json'  # not even UTF-8


def a_letter(**more: Any) -> DeadLetter:
    tenure = Tenure(SourcePartition("edits", TOPIC_ID, 3), number=1, start_offset=0)
    record = {"key": b"user", "value": VALUE, "headers": (("trace", b"t"),)} | more
    error = InvalidEvent(InvalidReason.INVALID_FIELD, field="user_id", detail="at most 256 characters")
    return DeadLetter(Record(tenure, 41, 42, **record), error, uid="u1")
