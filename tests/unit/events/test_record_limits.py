"""A record's size, its key and its value decide before its fields do."""

import json

import pytest

from corlld.errors import InvalidReason
from corlld.events.decoder import TOMBSTONE_EVENT_ID
from corlld.records import EraseEvent
from tests.support.decoding import EDIT, as_edit, decode, refused, without

# Limits


def test_an_oversized_record_or_text_is_refused() -> None:
    assert as_edit(decode({**EDIT, "edited": "x" * 10}, max_text_chars=10)).edited == "x" * 10
    for name in ("prompt", "proposed", "edited"):
        assert refused({**EDIT, name: "x" * 11}, max_text_chars=10) == (InvalidReason.TOO_LARGE, name)
    size = len(json.dumps(EDIT))
    assert decode(EDIT, max_record_bytes=size)
    assert refused(EDIT, max_record_bytes=size - 1) == (InvalidReason.TOO_LARGE, "value")


def test_messages_are_limited_together() -> None:
    chat = {**without(EDIT, "prompt"), "messages": [{"role": "user", "content": "x" * 6}] * 2}
    assert decode(chat, max_text_chars=12)
    assert refused(chat, max_text_chars=11) == (InvalidReason.TOO_LARGE, "messages")


# Keys and tombstones


def test_the_key_must_be_the_user_id_s_bytes() -> None:
    assert refused(EDIT, key=None) == (InvalidReason.KEY_MISSING, "key")
    for key in (b"bob", b"Ann", b"ann ", b"", b"\xff"):
        assert refused(EDIT, key=key) == (InvalidReason.KEY_MISMATCH, "key")


def test_a_source_without_keys_needs_none_but_one_that_is_there_must_match() -> None:
    assert decode(EDIT, key=None, key_required=False)
    assert refused(EDIT, key=b"bob", key_required=False) == (InvalidReason.KEY_MISMATCH, "key")


def test_a_tombstone_erases_only_where_the_settings_say_so() -> None:
    assert refused(None) == (InvalidReason.NO_VALUE, None)
    assert decode(None, tombstones_erase=True) == EraseEvent(TOMBSTONE_EVENT_ID, "ann", None)


def test_no_event_can_have_the_id_of_a_tombstone() -> None:
    assert refused({**EDIT, "event_id": TOMBSTONE_EVENT_ID})[0] == InvalidReason.INVALID_FIELD


@pytest.mark.parametrize(
    ("key", "reason"),
    [(None, InvalidReason.KEY_MISSING), (b"", InvalidReason.INVALID_FIELD), (b"\xff", InvalidReason.INVALID_FIELD)],
)
def test_a_tombstone_without_a_user_is_refused(key: bytes | None, reason: InvalidReason) -> None:
    assert refused(None, key=key, tombstones_erase=True) == (reason, "key")
