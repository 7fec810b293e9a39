"""The content of dead letters, wherever they are sent."""

import pytest

from corlld.errors import InvalidEvent, InvalidReason
from corlld.records import DeadLetter
from corlld.sources.dead_letters import letter_headers, letter_key
from tests.support.letters import TOPIC_ID, a_letter


def test_the_key_names_user_topic_partition_and_offset() -> None:
    assert letter_key(a_letter()) == f"u1/{TOPIC_ID}/3/41"
    unknown = DeadLetter(a_letter().record, a_letter().error, uid=None)
    assert letter_key(unknown) == f"unknown/{TOPIC_ID}/3/41"


def test_the_headers_are_kafka_connects_and_the_reason() -> None:
    assert letter_headers(a_letter()) == {
        "__connect.errors.topic": "edits",
        "__connect.errors.partition": "3",
        "__connect.errors.offset": "41",
        "__connect.errors.connector.name": "corlld",
        "__connect.errors.task.id": "0",
        "__connect.errors.stage": "VALUE_CONVERTER",
        "__connect.errors.class.name": "corlld.events.EventDecoder",
        "__connect.errors.exception.class.name": "corlld.errors.InvalidEvent",
        "__connect.errors.exception.message": "invalid_field: user_id: at most 256 characters",
        "corlld.reason": "invalid_field",
    }


@pytest.mark.parametrize(
    ("reason", "class_name"),
    [
        (InvalidReason.CRASHED, "corlld.protocols.Learner"),
        (InvalidReason.STATE_UNREADABLE, "corlld.protocols.StateStore"),
    ],
)
def test_a_valid_record_that_could_not_be_applied_names_the_part_that_could_not(
    reason: InvalidReason, class_name: str
) -> None:
    headers = letter_headers(DeadLetter(a_letter().record, InvalidEvent(reason), uid="u1"))
    assert headers["__connect.errors.stage"] == "TASK_PUT"
    assert headers["__connect.errors.class.name"] == class_name
