"""Valid events in their forms, and calls of the decoder that return an event or the refusal."""

import json
import traceback
from collections.abc import Sequence
from typing import Any

import pytest

from corlld.errors import InvalidEvent, InvalidReason
from corlld.events.decoder import EventDecoder
from corlld.records import EditEvent, EraseEvent
from corlld.settings.sections import EventSettings

CANARY = "c4n4ry"
EDIT: dict[str, Any] = {
    "event_id": "e1",
    "user_id": "ann",
    "occurred_at": "2026-03-01T09:00:00Z",
    "prompt": "Reply:",
    "proposed": "a draft",
    "edited": "an edit",
}
DATA = {key: EDIT[key] for key in ("user_id", "prompt", "proposed", "edited")}
CLOUD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "91",
    "source": "/editor/eu",
    "type": "com.example.edit",
    "time": "2026-03-01T10:00:00+01:00",
    "datacontenttype": "application/json",
    "data": DATA,
}
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=utf-8")]


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in names}


def decode(
    value: object,
    headers: Sequence[tuple[str, bytes]] = (),
    key: bytes | None = b"ann",
    *,
    messages: bool = True,
    key_required: bool = True,
    **settings: Any,
) -> EditEvent | EraseEvent:
    raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    decoder = EventDecoder(EventSettings(**settings), supports_messages=messages, key_required=key_required)
    return decoder.decode(key, raw, headers)


def refused(*args: Any, **kwargs: Any) -> tuple[InvalidReason, str | None]:
    """Return reason and field of the refusal. Neither it nor its context may quote the record."""
    with pytest.raises(InvalidEvent) as caught:
        decode(*args, **kwargs)
    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown
    assert caught.value.__context__ is None, "a context could quote the record"
    return caught.value.reason, caught.value.field


def as_edit(event: EditEvent | EraseEvent) -> EditEvent:
    assert isinstance(event, EditEvent)
    return event
