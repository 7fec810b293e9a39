"""Bytes and headers to a validated event, or to `InvalidEvent` with a reason.

Three forms come in: plain JSON, a CloudEvent in structured mode and one in binary mode. All of them end up as one JSON
object with the fields of the contract. No error quotes the input, and none carries the error it came from: pydantic's
and cloudevents' own messages hold values.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from corlld.errors import InvalidEvent, InvalidReason
from corlld.events.cloud_events import Envelope, from_binary, from_structured, is_binary, is_structured
from corlld.events.strict_json import parse_object, parse_time
from corlld.records import EditEvent, EraseEvent, Message
from corlld.settings.sections import EventSettings

# A tombstone has no event id of its own. Empty, as no valid event's can be: it is never mistaken for a duplicate.
TOMBSTONE_EVENT_ID = ""

MAX_EVENT_ID_CHARS = 512
MAX_USER_ID_CHARS = 256
MAX_ROLE_CHARS = 64

_VERSION = re.compile(r"v?([0-9]{1,18})")
_MAX_VERSION = 10**18 - 1

_ALLOWED = {
    "event_id": f"a text of 1 to {MAX_EVENT_ID_CHARS} characters",
    "user_id": f"a text of 1 to {MAX_USER_ID_CHARS} characters",
    "occurred_at": "an RFC 3339 time with an offset",
    "prompt": "a text",
    "messages": f"a list, not empty, of objects with the texts role (1 to {MAX_ROLE_CHARS} characters) and content",
    "proposed": "a text",
    "edited": "a text",
    "adapter_version": 'an integer from 0, or a text like "v000012"',
    "truncated": "true or false",
}
_ATTRIBUTE_OF_FIELD = {"event_id": "source and id", "occurred_at": "time"}  # what a CloudEvent calls them


def _parse_version(value: object) -> object:
    match = _VERSION.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) if match else value


def _encodable(text: str) -> str:
    """JSON can write a lone surrogate, UTF-8 can't: such a text could never be hashed, tokenised or stored."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]  # its UnicodeEncodeError is a ValueError, as pydantic expects


class _Wire(BaseModel):
    """Strict: JSON has types."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _WireMessage(_Wire):
    role: Text = Field(min_length=1, max_length=MAX_ROLE_CHARS)
    content: Text


class _WireErase(_Wire):
    event_id: Text = Field(min_length=1, max_length=MAX_EVENT_ID_CHARS)
    user_id: Text = Field(min_length=1, max_length=MAX_USER_ID_CHARS)
    occurred_at: Annotated[datetime, BeforeValidator(parse_time)]


class _WireEdit(_WireErase):
    prompt: Text | None = None
    messages: Annotated[list[_WireMessage], Field(min_length=1)] | None = None
    proposed: Text
    edited: Text
    adapter_version: Annotated[int, Field(ge=0, le=_MAX_VERSION), BeforeValidator(_parse_version)] | None = None
    truncated: bool | None = None


W = TypeVar("W", bound=_Wire)


class EventDecoder:
    """Decodes records one by one; keeps nothing between them.

    Args:
        settings: limits, and which CloudEvents `type`s are edits and erasures.
        supports_messages: whether the base model's tokenizer has a chat template.
        key_required: False where the source has no keys, as a file has not. A key that is there must still match.
    """

    def __init__(self, settings: EventSettings, *, supports_messages: bool, key_required: bool = True) -> None:
        self._settings = settings
        self._supports_messages = supports_messages
        self._key_required = key_required

    def decode(
        self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> EditEvent | EraseEvent:
        """The record's event.

        Args:
            key: the record's key: the UTF-8 of `user_id`.
            value: the record's value. None is a tombstone: it erases where the settings say so, and its event id is
                `TOMBSTONE_EVENT_ID`.
            headers: the record's headers; of two with the same name the later one counts.

        Raises InvalidEvent, which never quotes the input.
        """
        if value is None:
            return self._tombstone(key)
        if key is None and self._key_required:
            raise InvalidEvent(InvalidReason.KEY_MISSING, field="key", detail="the UTF-8 of user_id")
        if len(value) > self._settings.max_record_bytes:
            raise _too_large("value", self._settings.max_record_bytes, "bytes")
        # Kafka knows headers without a value, whatever the type says.
        event = self._decode(value, {name.lower(): raw or b"" for name, raw in headers})
        if key is not None and key != event.user_id.encode():
            raise InvalidEvent(InvalidReason.KEY_MISMATCH, field="key", detail="the UTF-8 of user_id")
        return event

    def _tombstone(self, key: bytes | None) -> EraseEvent:
        if not self._settings.tombstones_erase:
            raise InvalidEvent(InvalidReason.NO_VALUE, detail="events.tombstones_erase is off")
        if key is None:
            raise InvalidEvent(InvalidReason.KEY_MISSING, field="key", detail="the UTF-8 of user_id")
        user_id = _utf8(key)
        if not user_id or len(user_id) > MAX_USER_ID_CHARS:
            raise InvalidEvent(InvalidReason.INVALID_FIELD, field="key", detail=_ALLOWED["user_id"])
        return EraseEvent(TOMBSTONE_EVENT_ID, user_id, None)

    def _decode(self, value: bytes, headers: Mapping[str, bytes]) -> EditEvent | EraseEvent:
        structured = is_structured(headers)
        if not structured and is_binary(headers):
            return self._cloud(from_binary(headers, value))
        fields = parse_object(value)
        if structured or "specversion" in fields:
            return self._cloud(from_structured(fields))
        return self._plain(fields)

    def _plain(self, fields: Mapping[str, Any]) -> EditEvent | EraseEvent:
        kind = fields.get("type", "edit")
        if kind not in ("edit", "erase"):
            reason = InvalidReason.UNKNOWN_TYPE if isinstance(kind, str) else InvalidReason.INVALID_FIELD
            raise InvalidEvent(reason, field="type", detail="edit or erase")
        return self._build(fields, erase=kind == "erase", cloud=False)

    def _cloud(self, event: Envelope) -> EditEvent | EraseEvent:
        # Erasures are asked first: where patterns overlap, a wish to be forgotten is never taken for an edit.
        erase = _matches(event.type, self._settings.cloudevents_erase_types)
        if not erase and not _matches(event.type, self._settings.cloudevents_edit_types):
            detail = "what events.cloudevents_edit_types or events.cloudevents_erase_types match"
            raise InvalidEvent(InvalidReason.UNKNOWN_TYPE, field="type", detail=detail)
        fields = {**event.data, "event_id": event.event_id, "occurred_at": event.occurred_at}
        return self._build(fields, erase=erase, cloud=True)

    def _build(self, fields: Mapping[str, Any], *, erase: bool, cloud: bool) -> EditEvent | EraseEvent:
        if erase:
            erasure = _validate(_WireErase, fields, cloud=cloud)
            return EraseEvent(erasure.event_id, erasure.user_id, erasure.occurred_at)
        wire = _validate(_WireEdit, fields, cloud=cloud)
        self._check_context(wire, cloud)
        self._check_length(wire, cloud)
        return EditEvent(
            event_id=wire.event_id,
            user_id=wire.user_id,
            occurred_at=wire.occurred_at,
            prompt=wire.prompt,
            messages=None if wire.messages is None else tuple(Message(m.role, m.content) for m in wire.messages),
            proposed=wire.proposed,
            edited=wire.edited,
            adapter_version=wire.adapter_version,
            truncated=bool(wire.truncated),
        )

    def _check_context(self, wire: _WireEdit, cloud: bool) -> None:
        if (wire.prompt is None) == (wire.messages is None):
            reason = InvalidReason.MISSING_FIELD if wire.prompt is None else InvalidReason.INVALID_FIELD
            raise InvalidEvent(reason, field=_path("prompt", cloud), detail="exactly one of prompt and messages")
        if wire.messages is not None and not self._supports_messages:
            detail = "the base model has no chat template: send prompt"
            raise InvalidEvent(InvalidReason.NO_CHAT_TEMPLATE, field=_path("messages", cloud), detail=detail)

    def _check_length(self, wire: _WireEdit, cloud: bool) -> None:
        chars = {
            "prompt": len(wire.prompt or ""),
            "messages": sum(len(message.content) for message in wire.messages or ()),
            "proposed": len(wire.proposed),
            "edited": len(wire.edited),
        }
        for field, count in chars.items():
            if count > self._settings.max_text_chars:
                raise _too_large(_path(field, cloud), self._settings.max_text_chars, "characters")


def _validate(model: type[W], fields: Mapping[str, Any], *, cloud: bool) -> W:
    """The fields, or the first thing that is wrong. Raised outside of `except`, so that no context holds the input."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name = str(problem["loc"][0])
    path = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"][1:])
    missing = problem["type"] == "missing"
    raise InvalidEvent(
        InvalidReason.MISSING_FIELD if missing else InvalidReason.INVALID_FIELD,
        field=_path(path, cloud),
        detail=_ALLOWED[name],
    )


def _path(field: str, cloud: bool) -> str:
    """Where the producer finds a field."""
    return _ATTRIBUTE_OF_FIELD.get(field, f"data.{field}") if cloud else field


def _matches(kind: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(kind, pattern) for pattern in patterns)


def _utf8(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _too_large(field: str, limit: int, unit: str) -> InvalidEvent:
    return InvalidEvent(InvalidReason.TOO_LARGE, field=field, detail=f"at most {limit} {unit}")
