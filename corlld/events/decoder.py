"""Decode a record's bytes and headers into a validated event, or raise `InvalidEvent` with a reason.

An event has three forms: plain JSON, a CloudEvent in structured mode, a CloudEvent in binary mode. Each form is reduced
to a JSON object with the fields of the contract, which is then validated. No error quotes the input. No error carries
the error that it came from either, since messages of pydantic and cloudevents hold values.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from corlld.errors import InvalidEvent, InvalidReason
from corlld.events.cloud_events import Envelope, from_binary, from_structured, is_binary, is_structured
from corlld.events.messages import ALLOWED_IN_A_MESSAGE, ChatMessage
from corlld.events.strict_json import parse_object, parse_time
from corlld.events.tools import TemplateArgumentsText, ToolsText, misplaced, with_effort
from corlld.events.wire import Text, is_empty, reason_of
from corlld.records import EditEvent, EraseEvent, Message
from corlld.settings.sections import EventSettings

# A tombstone has no event id. No valid event has an empty id, so a tombstone is never taken for a duplicate.
TOMBSTONE_EVENT_ID = ""

MAX_EVENT_ID_CHARS = 512
MAX_USER_ID_CHARS = 256

_VERSION = re.compile(r"v?([0-9]{1,18})")
_MAX_VERSION = 10**18 - 1

_ALLOWED = {
    "event_id": f"a text of 1 to {MAX_EVENT_ID_CHARS} characters",
    "user_id": f"a text of 1 to {MAX_USER_ID_CHARS} characters",
    "occurred_at": "an RFC 3339 time with an offset",
    "prompt": "a text",
    "messages": "a list, not empty, of objects with role and content",
    "proposed": "a text",
    "edited": "a text",
    "adapter_version": 'an integer of 0 or more, or a text like "v000012"',
    "truncated": "true or false",
}
_WITH_MESSAGES = ("tools", "chat_template_kwargs", "reasoning_effort")
_ATTRIBUTE_OF_FIELD = {"event_id": "source and id", "occurred_at": "time"}  # their names in a CloudEvent


def _parse_version(value: object) -> object:
    match = _VERSION.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) if match else value


class _Wire(BaseModel):
    """Fields of an event as JSON has them. Strict, since JSON has types."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _WireErase(_Wire):
    event_id: Text = Field(min_length=1, max_length=MAX_EVENT_ID_CHARS)
    user_id: Text = Field(min_length=1, max_length=MAX_USER_ID_CHARS)
    occurred_at: Annotated[datetime, BeforeValidator(parse_time)]


class _WireEdit(_WireErase):
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: ToolsText = None
    chat_template_kwargs: TemplateArgumentsText = None
    proposed: Text
    edited: Text
    adapter_version: Annotated[int, Field(ge=0, le=_MAX_VERSION), BeforeValidator(_parse_version)] | None = None
    truncated: bool | None = None


W = TypeVar("W", bound=_Wire)


class EventDecoder:
    """Decodes records. Keeps nothing from a record to the next.

    Args:
        settings: limits, and the CloudEvents `type`s of edits and erasures.
        supports_messages: whether the base model's tokenizer has a chat template.
        key_required: False for a source without keys, such as a file. A key that is there must still match.
    """

    def __init__(self, settings: EventSettings, *, supports_messages: bool, key_required: bool = True) -> None:
        self._settings = settings
        self._supports_messages = supports_messages
        self._key_required = key_required

    def decode(
        self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> EditEvent | EraseEvent:
        """Decode a record into its event.

        Args:
            key: the record's key: `user_id` in UTF-8.
            value: the record's value. None is a tombstone: it is an erasure with the event id `TOMBSTONE_EVENT_ID` if
                `events.tombstones_erase` is on. But if the headers say that the record is a CloudEvent, its `type`
                decides: an erasure needs no data, an edit does.
            headers: the record's headers. If two headers have the same name, the later header counts.

        Raises InvalidEvent, which never quotes the input.
        """
        # Kafka has headers without a value, whatever the type says.
        named = {name.lower(): raw or b"" for name, raw in headers}
        structured = is_structured(named)
        binary = not structured and is_binary(named)
        if value is None and not structured and not binary:
            return self._tombstone(key)
        if key is None and self._key_required:
            raise _key_missing()
        if value is not None and len(value) > self._settings.max_record_bytes:
            raise _too_large("value", self._settings.max_record_bytes, "bytes")
        if binary:
            event = self._cloud(from_binary(named, value), key)
        elif value is None:
            raise InvalidEvent(InvalidReason.NO_VALUE, detail="a CloudEvent in structured mode is the value")
        else:
            event = self._decode(key, value, structured=structured)
        if key is not None and key != event.user_id.encode():
            raise InvalidEvent(InvalidReason.KEY_MISMATCH, field="key", detail="user_id in UTF-8")
        return event

    def _tombstone(self, key: bytes | None) -> EraseEvent:
        if not self._settings.tombstones_erase:
            raise InvalidEvent(InvalidReason.NO_VALUE, detail="events.tombstones_erase is off")
        if key is None:
            raise _key_missing()
        return EraseEvent(TOMBSTONE_EVENT_ID, _user_of(key), None)

    def _decode(self, key: bytes | None, value: bytes, *, structured: bool) -> EditEvent | EraseEvent:
        fields = parse_object(value)
        if structured or "specversion" in fields:
            return self._cloud(from_structured(fields), key)
        return self._plain(fields)

    def _plain(self, fields: Mapping[str, Any]) -> EditEvent | EraseEvent:
        kind = fields.get("type", "edit")
        if kind not in ("edit", "erase"):
            reason = InvalidReason.UNKNOWN_TYPE if isinstance(kind, str) else InvalidReason.INVALID_FIELD
            raise InvalidEvent(reason, field="type", detail="edit or erase")
        return self._build(fields, erase=kind == "erase", cloud=False)

    def _cloud(self, event: Envelope, key: bytes | None) -> EditEvent | EraseEvent:
        # Erasures are tried first: if patterns overlap, a wish to be forgotten is never taken for an edit.
        erase = _matches(event.type, self._settings.cloudevents_erase_types)
        if not erase and not _matches(event.type, self._settings.cloudevents_edit_types):
            detail = "a type that events.cloudevents_edit_types or events.cloudevents_erase_types matches"
            raise InvalidEvent(InvalidReason.UNKNOWN_TYPE, field="type", detail=detail)
        data = event.data
        if data is None and not erase:
            detail = "a JSON object: only an erasure needs no data"
            raise InvalidEvent(InvalidReason.NOT_AN_OBJECT, field="data", detail=detail)
        if data is None:
            data = {} if key is None else {"user_id": _user_of(key)}
        fields = {**data, "event_id": event.event_id, "occurred_at": event.occurred_at}
        return self._build(fields, erase=erase, cloud=True)

    def _build(self, fields: Mapping[str, Any], *, erase: bool, cloud: bool) -> EditEvent | EraseEvent:
        if erase:
            erasure = _validate(_WireErase, fields, cloud=cloud)
            return EraseEvent(erasure.event_id, erasure.user_id, erasure.occurred_at)
        if fields.get("messages") is not None:
            fields = with_effort(fields)
        wire = _validate(_WireEdit, fields, cloud=cloud)
        self._check_context(wire, fields, cloud)
        event = EditEvent(
            event_id=wire.event_id,
            user_id=wire.user_id,
            occurred_at=wire.occurred_at,
            prompt=wire.prompt,
            messages=None if wire.messages is None else cast(tuple[Message, ...], tuple(wire.messages)),
            proposed=wire.proposed,
            edited=wire.edited,
            adapter_version=wire.adapter_version,
            truncated=bool(wire.truncated),
            tools=wire.tools,
            chat_template_kwargs=wire.chat_template_kwargs,
        )
        self._check_length(event, cloud)
        return event

    def _check_context(self, wire: _WireEdit, fields: Mapping[str, Any], cloud: bool) -> None:
        if (wire.prompt is None) == (wire.messages is None):
            reason = InvalidReason.MISSING_FIELD if wire.prompt is None else InvalidReason.INVALID_FIELD
            raise InvalidEvent(reason, field=_path("prompt", cloud), detail="exactly one of prompt and messages")
        if wire.messages is None:
            for name in _WITH_MESSAGES:
                if not is_empty(fields.get(name)):
                    raise InvalidEvent(
                        InvalidReason.INVALID_FIELD, field=_path(name, cloud), detail="only with messages"
                    )
            return
        if not self._supports_messages:
            detail = "the base model has no chat template: send prompt in place of messages"
            raise InvalidEvent(InvalidReason.NO_CHAT_TEMPLATE, field=_path("messages", cloud), detail=detail)
        if (found := misplaced(fields)) is not None:
            name, place = found
            raise InvalidEvent(InvalidReason.INVALID_FIELD, field=_path(name, cloud), detail=f"it belongs {place}")

    def _check_length(self, event: EditEvent, cloud: bool) -> None:
        limit, context = self._settings.max_text_chars, _context_chars(event)
        if sum(context.values()) > limit:
            counts = ", ".join(f"{field} {count}" for field, count in context.items())
            together = f" together: {counts}" if len(context) > 1 else ""
            raise _too_large(_path(next(iter(context)), cloud), limit, f"characters{together}")
        for field, text in (("proposed", event.proposed), ("edited", event.edited)):
            if len(text) > limit:
                raise _too_large(_path(field, cloud), limit, "characters")


def _validate(model: type[W], fields: Mapping[str, Any], *, cloud: bool) -> W:
    """Validate the fields. Raises InvalidEvent for the first problem, without a context, which would hold the input."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    name = str(problem["loc"][0])
    path = name + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"][1:])
    if (known := reason_of(problem["type"])) is not None:
        raise InvalidEvent(known, field=_path(path, cloud), detail=problem["msg"])
    reason = InvalidReason.MISSING_FIELD if problem["type"] == "missing" else InvalidReason.INVALID_FIELD
    raise InvalidEvent(reason, field=_path(path, cloud), detail=_allowed(problem["loc"]))


def _allowed(location: Sequence[int | str]) -> str:
    """Return what is allowed at the place of a problem."""
    match location:
        case ("messages", _):
            return "an object with role and content"
        case ("messages", _, field, *_):
            return ALLOWED_IN_A_MESSAGE[str(field)]
        case _:
            return _ALLOWED[str(location[0])]


def _context_chars(event: EditEvent) -> dict[str, int]:
    """Return the number of characters of each field of the context that the event has."""
    if event.messages is None:
        return {"prompt": len(event.prompt or "")}
    given = {"tools": event.tools, "chat_template_kwargs": event.chat_template_kwargs}
    chars = {name: len(text) for name, text in given.items() if text is not None}
    return {"messages": sum(message.chars for message in event.messages), **chars}


def _path(field: str, cloud: bool) -> str:
    """Name a field as the producer knows it."""
    return _ATTRIBUTE_OF_FIELD.get(field, f"data.{field}") if cloud else field


def _matches(kind: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(kind, pattern) for pattern in patterns)


def _user_of(key: bytes) -> str:
    """Return the user id that a key is, where nothing else names the user. Raises InvalidEvent."""
    try:
        user_id = key.decode()
    except UnicodeDecodeError:
        user_id = ""
    if not 0 < len(user_id) <= MAX_USER_ID_CHARS:
        raise InvalidEvent(InvalidReason.INVALID_FIELD, field="key", detail=_ALLOWED["user_id"])
    return user_id


def _key_missing() -> InvalidEvent:
    return InvalidEvent(InvalidReason.KEY_MISSING, field="key", detail="user_id in UTF-8")


def _too_large(field: str, limit: int, unit: str) -> InvalidEvent:
    return InvalidEvent(InvalidReason.TOO_LARGE, field=field, detail=f"at most {limit} {unit}")
