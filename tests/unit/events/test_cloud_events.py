"""CloudEvents in structured and in binary mode are the same events as plain JSON."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as binding
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from corlld.errors import InvalidEvent, InvalidReason
from corlld.records import EditEvent, EraseEvent
from tests.support.decoding import CANARY, CLOUD, DATA, EDIT, STRUCTURED, as_edit, decode, refused, without


def binary(cloud: dict[str, Any] = CLOUD) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return value and headers of the event in binary mode, as the cloudevents library writes it."""
    attributes = {**without(cloud, "data"), "time": datetime.fromisoformat(cloud["time"])}
    message = binding.to_binary(CloudEvent(attributes, cloud["data"]), JSONFormat())
    return message.value, list(message.headers.items())


def test_the_three_forms_of_an_event_are_the_same_event() -> None:
    plain = as_edit(decode({**EDIT, "event_id": "/editor/eu/91"}))
    value, headers = binary()
    assert decode(CLOUD, STRUCTURED) == plain
    assert decode(CLOUD) == plain  # no content type, but a specversion
    assert decode(value, headers) == plain


def test_what_the_library_writes_in_structured_mode_is_read() -> None:
    attributes = {**without(CLOUD, "data"), "time": datetime.fromisoformat(CLOUD["time"])}
    message = binding.to_structured(CloudEvent(attributes, DATA), JSONFormat())
    assert decode(message.value, list(message.headers.items())).event_id == "/editor/eu/91"


def test_attributes_come_before_fields_of_the_data_and_extensions_are_ignored() -> None:
    cloud = {**CLOUD, "traceparent": "00-1", "data": {**DATA, "event_id": "x", "occurred_at": "x", "type": "erase"}}
    assert decode(cloud) == decode(CLOUD)


def test_data_may_be_base64() -> None:
    encoded = base64.b64encode(json.dumps(DATA).encode()).decode()
    assert decode({**without(CLOUD, "data"), "data_base64": encoded}) == decode(CLOUD)
    assert refused({**CLOUD, "data_base64": encoded}) == (InvalidReason.NOT_CLOUDEVENTS, "data_base64")
    for bad in (CANARY + "!", 5, "é"):
        assert refused({**without(CLOUD, "data"), "data_base64": bad}) == (InvalidReason.NOT_CLOUDEVENTS, "data_base64")


def test_types_are_mapped_by_shell_style_patterns() -> None:
    erasure = {**CLOUD, "type": "com.example.erase", "data": {"user_id": "ann"}}
    assert isinstance(decode(erasure), EraseEvent)
    custom: dict[str, Any] = {
        "cloudevents_edit_types": ("org.saved.v?",),
        "cloudevents_erase_types": ("org.gone", "*.forget"),
    }
    assert isinstance(decode({**CLOUD, "type": "org.saved.v2"}, **custom), EditEvent)
    assert isinstance(decode({**erasure, "type": "org.forget"}, **custom), EraseEvent)
    for unknown in (CANARY, "com.example.EDIT", "edit"):
        assert refused({**CLOUD, "type": unknown}) == (InvalidReason.UNKNOWN_TYPE, "type")


def test_where_patterns_overlap_an_erasure_is_never_taken_for_an_edit() -> None:
    erasure = {**CLOUD, "type": "com.example.erase"}
    assert isinstance(decode(erasure, cloudevents_edit_types=("*",)), EraseEvent)


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
def test_the_library_must_not_make_up_a_required_attribute(name: str) -> None:
    assert refused(without(CLOUD, name), STRUCTURED) == (InvalidReason.NOT_CLOUDEVENTS, name)
    value, headers = binary()
    headers = [(header, raw) for header, raw in headers if header != f"ce_{name}"]
    assert refused(value, headers) == (InvalidReason.NOT_CLOUDEVENTS, name)


def test_a_cloud_event_needs_its_time() -> None:
    value, headers = binary()
    timeless = [header for header in headers if header[0] != "ce_time"]
    assert refused(without(CLOUD, "time")) == (InvalidReason.MISSING_FIELD, "time")
    assert refused(value, timeless) == (InvalidReason.MISSING_FIELD, "time")
    for wrong in ("2026-03-01T09:00:00", "2026", CANARY):
        assert refused({**CLOUD, "time": wrong}) == (InvalidReason.INVALID_FIELD, "time")
        assert refused(value, [*timeless, ("ce_time", wrong.encode())]) == (InvalidReason.INVALID_FIELD, "time")
    assert refused({**CLOUD, "time": 5}) == (InvalidReason.INVALID_FIELD, "time")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": ""}, "id"),
        ({"id": 91}, "id"),
        ({"source": [CANARY]}, "source"),
        ({"type": 5}, "type"),
        ({"subject": ""}, "subject"),
        ({"datacontenttype": 5}, "datacontenttype"),
        ({CANARY.upper() + "_": 1}, None),
        ({"": 1}, None),
    ],
)
def test_a_bad_attribute_is_named_but_a_bad_extension_is_not(changed: dict[str, Any], field: str | None) -> None:
    assert refused({**CLOUD, **changed}, STRUCTURED) == (InvalidReason.NOT_CLOUDEVENTS, field)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"specversion": "0.3"}, "not_cloudevents: specversion: 1.0"),
        ({"specversion": 1.0}, "not_cloudevents: specversion: 1.0"),
        ({"id": ""}, "not_cloudevents: id: as CloudEvents 1.0 defines it"),
        (
            {"A_": 1},
            "not_cloudevents: attributes as CloudEvents 1.0 defines them; the name of an extension has only lower-case "
            "letters and digits",
        ),
    ],
)
def test_a_bad_attribute_is_answered_without_the_rule_for_extensions(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        decode({**CLOUD, **changed}, STRUCTURED)
    assert str(caught.value) == sentence


def test_fields_of_a_cloud_event_are_named_where_the_producer_finds_them() -> None:
    assert refused({**CLOUD, "data": without(DATA, "proposed")}) == (InvalidReason.MISSING_FIELD, "data.proposed")
    assert refused({**CLOUD, "id": "x" * 512}) == (InvalidReason.INVALID_FIELD, "source and id")
    assert refused({**CLOUD, "id": "\ud800"}) == (InvalidReason.INVALID_FIELD, "source and id")
    assert refused({**CLOUD, "data": DATA | {"edited": "xx"}}, max_text_chars=1)[1] == "data.prompt"
    for data in (None, CANARY, [DATA]):
        assert refused({**CLOUD, "data": data}) == (InvalidReason.NOT_AN_OBJECT, "data")


def test_binary_mode_takes_headers_as_they_come() -> None:
    value, headers = binary()
    odd = [(name.upper(), raw) for name, raw in headers] + [("traceparent", b"\xff\xfe"), ("empty", b"")]
    assert decode(value, odd) == decode(CLOUD)
    assert refused(value, [*headers, ("ce_id", b"\xff")]) == (InvalidReason.NOT_CLOUDEVENTS, None)
    assert refused(value, [*headers, ("ce_data", b"x")]) == (InvalidReason.NOT_CLOUDEVENTS, None)
    assert refused(value, [*headers, ("content-type", b"text/plain")]) == (
        InvalidReason.NOT_CLOUDEVENTS,
        "content-type",
    )
    assert refused(CANARY.encode(), headers) == (InvalidReason.NOT_JSON, None)


def headers_of(kind: str, prefix: str = "ce_") -> list[tuple[str, bytes]]:
    attributes = {**without(CLOUD, "data", "datacontenttype"), "type": kind}
    return [(prefix + name, str(value).encode()) for name, value in attributes.items()]


@pytest.mark.parametrize("tombstones_erase", [True, False])
@pytest.mark.parametrize("value", [None, b""])
def test_an_erasure_without_data_erases_the_user_of_the_key(value: bytes | None, tombstones_erase: bool) -> None:
    expected = EraseEvent("/editor/eu/91", "ann", datetime(2026, 3, 1, 9, tzinfo=UTC))
    assert decode(value, headers_of("com.example.erase"), tombstones_erase=tombstones_erase) == expected


def test_an_erasure_without_data_in_structured_mode_erases_the_user_of_the_key_too() -> None:
    erasure = {**without(CLOUD, "data"), "type": "com.example.erase"}
    assert decode(erasure, STRUCTURED) == decode(None, headers_of("com.example.erase"))
    assert refused(erasure, key=None, key_required=False) == (InvalidReason.MISSING_FIELD, "data.user_id")


@pytest.mark.parametrize("tombstones_erase", [True, False])
def test_an_edit_or_an_unknown_event_without_data_never_erases(tombstones_erase: bool) -> None:
    for value in (None, b""):
        without_data = refused(value, headers_of("com.example.edit"), tombstones_erase=tombstones_erase)
        assert without_data == (InvalidReason.NOT_AN_OBJECT, "data")
    unknown = refused(None, headers_of("com.example.opened"), tombstones_erase=tombstones_erase)
    assert unknown == (InvalidReason.UNKNOWN_TYPE, "type")
    assert refused(None, [("ce_id", b"91")], tombstones_erase=tombstones_erase)[0] == InvalidReason.NOT_CLOUDEVENTS
    assert refused(None, STRUCTURED, tombstones_erase=tombstones_erase) == (InvalidReason.NO_VALUE, None)


@pytest.mark.parametrize(
    ("key", "reason"),
    [(None, InvalidReason.KEY_MISSING), (b"", InvalidReason.INVALID_FIELD), (b"\xff", InvalidReason.INVALID_FIELD)],
)
def test_an_erasure_without_data_needs_a_key_that_names_a_user(key: bytes | None, reason: InvalidReason) -> None:
    assert refused(None, headers_of("com.example.erase"), key=key) == (reason, "key")


@pytest.mark.parametrize("value", [None, b"", json.dumps(EDIT).encode(), json.dumps(DATA).encode()])
def test_headers_with_the_prefix_of_http_are_refused_with_kafka_s_prefix(value: bytes | None) -> None:
    for kind in ("com.example.edit", "com.example.erase"):
        with pytest.raises(InvalidEvent, match=r"not_cloudevents: headers: Kafka's prefix is `ce_`"):
            decode(value, headers_of(kind, "ce-"), tombstones_erase=True)


def test_other_headers_that_begin_like_those_of_http_change_nothing() -> None:
    assert decode(EDIT, [("ce-cluster", b"eu")]) == decode(EDIT)
    both = headers_of("com.example.erase") + headers_of("com.example.edit", "ce-")
    assert decode(None, both) == decode(None, headers_of("com.example.erase"))


def test_batches_and_other_formats_are_refused() -> None:
    for kind in (b"application/cloudevents-batch+json", b"application/cloudevents+avro", b"application/cloudevents"):
        assert refused([CLOUD], [("Content-Type", kind)]) == (InvalidReason.NOT_CLOUDEVENTS, "content-type")


def test_a_content_type_of_plain_json_changes_nothing() -> None:
    assert decode(EDIT, [("content-type", b"application/json"), ("retries", b"\x00\x01")]) == decode(EDIT)
