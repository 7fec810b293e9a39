"""Read CloudEvents 1.0 of Kafka records, in structured and in binary mode, into an `Envelope`.

The `cloudevents` library checks the attributes. This module reads JSON and times itself, strictly: the library keeps
the last of repeated keys, and makes up a missing `id` or `time`.
"""

import base64
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import kafka as binding
from cloudevents.core.exceptions import BaseCloudEventException, CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from corlld.errors import InvalidEvent, InvalidReason
from corlld.events.strict_json import parse_object, parse_time

CONTENT_TYPE = "content-type"
_PREFIX = "ce_"
_HTTP_PREFIX = "ce-"
_MEDIA_TYPE = "application/cloudevents"
_REQUIRED_ATTRIBUTES = ("specversion", "id", "source", "type")
_ATTRIBUTES = (*_REQUIRED_ATTRIBUTES, "time", "subject", "datacontenttype", "dataschema")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A valid CloudEvent with a JSON object as its data, or without data. Fields of the data are not checked yet."""

    event_id: str  # source + "/" + id: only both together are unique
    type: str
    occurred_at: str  # `time`, RFC 3339
    data: dict[str, Any] | None


def is_structured(headers: Mapping[str, bytes]) -> bool:
    """Return whether the content type means structured mode. Raises InvalidEvent for a batch, or a format but JSON."""
    content_type = headers.get(CONTENT_TYPE, b"").decode("latin-1").partition(";")[0].strip().lower()
    if not content_type.startswith(_MEDIA_TYPE):
        return False
    if content_type != f"{_MEDIA_TYPE}+json":
        raise _refusal(CONTENT_TYPE, f"{_MEDIA_TYPE}+json, with one event per record")
    return True


def is_binary(headers: Mapping[str, bytes]) -> bool:
    """Return whether the headers hold attributes of a CloudEvent, as in binary mode.

    Raises InvalidEvent for required attributes with the prefix of HTTP: without it they would count for nothing.
    """
    if any(name.startswith(_PREFIX) for name in headers):
        return True
    if any(f"{_HTTP_PREFIX}{name}" in headers for name in _REQUIRED_ATTRIBUTES):
        raise _refusal("headers", f"Kafka's prefix is `{_PREFIX}`; `{_HTTP_PREFIX}` is the prefix of HTTP")
    return False


def from_structured(fields: Mapping[str, Any]) -> Envelope:
    """Read an event in structured mode: the fields are the whole value. Raises InvalidEvent."""
    attributes = {k: v for k, v in fields.items() if v is not None and k not in ("data", "data_base64")}
    attributes["time"] = _check_presence(attributes)
    data, encoded = fields.get("data"), fields.get("data_base64")
    if data is not None and encoded is not None:
        raise _refusal("data_base64", "either data or data_base64, not both")
    return _finish(_checked(lambda: CloudEvent(attributes)), data if encoded is None else _decode(encoded))


def from_binary(headers: Mapping[str, bytes], value: bytes | None) -> Envelope:
    """Read an event in binary mode: headers (names in lower case) are its attributes. Raises InvalidEvent.

    An empty value is no data, as None is: some producers can't write a record without a value.
    """
    # The library decodes every header that it gets, but headers that are not CloudEvents' own may not be text at all.
    own = {name: raw for name, raw in headers.items() if name.startswith(_PREFIX) or name == CONTENT_TYPE}
    _check_presence({name.removeprefix(_PREFIX): raw.decode("latin-1") for name, raw in own.items()})
    message = binding.KafkaMessage(headers=own, key=None, value=b"")
    event = _checked(lambda: binding.from_binary(message, JSONFormat(), CloudEvent))
    content_type = event.get_datacontenttype()
    if value and content_type is not None and not JSONFormat.JSON_CONTENT_TYPE_PATTERN.match(content_type):
        raise _refusal(CONTENT_TYPE, "a JSON type such as application/json")
    return _finish(event, value or None)


def _check_presence(attributes: Mapping[str, Any]) -> datetime:
    """Check that the required attributes are there, and `time`, which corlld requires too. Returns the time."""
    for name in _REQUIRED_ATTRIBUTES:
        if name not in attributes:
            raise _refusal(name, "required")
    if "time" not in attributes:
        raise InvalidEvent(InvalidReason.MISSING_FIELD, field="time", detail="an RFC 3339 time with an offset")
    try:
        return parse_time(attributes["time"])
    except ValueError:
        pass
    raise InvalidEvent(InvalidReason.INVALID_FIELD, field="time", detail="an RFC 3339 time with an offset")


def _checked(make: Callable[[], BaseCloudEvent]) -> BaseCloudEvent:
    """Let the library make the event. Raises InvalidEvent with the attribute that the library refuses."""
    refused: Collection[str] = ()
    try:
        return make()
    except CloudEventValidationError as error:
        refused = error.errors.keys()
    except (BaseCloudEventException, ValueError, TypeError):
        pass
    known = next((name for name in _ATTRIBUTES if name in refused), None)
    if known is not None:
        raise _refusal(known, "1.0" if known == "specversion" else "as CloudEvents 1.0 defines it")
    # Names of extensions come from the input, so no message repeats them.
    extensions = "the name of an extension has only lower-case letters and digits"
    raise _refusal(None, f"attributes as CloudEvents 1.0 defines them; {extensions}")


def _decode(encoded: object) -> bytes:
    try:
        return base64.b64decode(encoded if isinstance(encoded, str) else "?", validate=True)
    except ValueError:
        pass
    raise _refusal("data_base64", "data in base64")


def _finish(event: BaseCloudEvent, data: object) -> Envelope:
    if isinstance(data, bytes):
        data = parse_object(data)
    if data is not None and not isinstance(data, dict):
        raise InvalidEvent(InvalidReason.NOT_AN_OBJECT, field="data", detail="a JSON object")
    event_id = f"{event.get_source()}/{event.get_id()}"
    return Envelope(event_id, event.get_type(), event.get_attributes()["time"].isoformat(), data)


def _refusal(field: str | None, detail: str) -> InvalidEvent:
    return InvalidEvent(InvalidReason.NOT_CLOUDEVENTS, field=field, detail=detail)
