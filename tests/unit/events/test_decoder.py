"""Records become events or InvalidEvent, and nothing of a record is ever quoted."""

import base64
import json
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cloudevents.core.bindings import kafka as binding
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from corlld.errors import InvalidEvent, InvalidReason
from corlld.events.decoder import TOMBSTONE_EVENT_ID, EventDecoder
from corlld.records import EditEvent, EraseEvent, Message
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
    with pytest.raises(InvalidEvent) as caught:
        decode(*args, **kwargs)
    shown = "".join(traceback.format_exception(caught.value))
    assert CANARY not in shown
    assert caught.value.__context__ is None, "a context could quote the record"
    return caught.value.reason, caught.value.field


def edit(event: EditEvent | EraseEvent) -> EditEvent:
    assert isinstance(event, EditEvent)
    return event


# Plain JSON


def test_an_edit_has_every_field_of_the_contract() -> None:
    assert decode({**EDIT, "adapter_version": 12, "truncated": True, "later_field": {"x": 1}}) == EditEvent(
        event_id="e1",
        user_id="ann",
        occurred_at=datetime(2026, 3, 1, 9, tzinfo=UTC),
        prompt="Reply:",
        messages=None,
        proposed="a draft",
        edited="an edit",
        adapter_version=12,
        truncated=True,
    )


def test_optional_fields_may_be_absent_or_null() -> None:
    plain = edit(decode(EDIT))
    assert (plain.adapter_version, plain.truncated, plain.messages) == (None, False, None)
    assert decode({**EDIT, "adapter_version": None, "truncated": None, "messages": None, "type": "edit"}) == plain


def test_texts_may_be_empty_and_equal_texts_are_an_acceptance() -> None:
    assert edit(decode({**EDIT, "prompt": "", "proposed": "", "edited": ""})).is_acceptance


def test_messages_become_a_tuple_of_roles_and_contents() -> None:
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "Hi", "name": "x"}]
    event = edit(decode({**without(EDIT, "prompt"), "messages": chat}))
    assert event.prompt is None
    assert event.messages == (Message("system", ""), Message("user", "Hi"))


def test_messages_for_a_model_without_a_chat_template_are_set_aside_with_that_reason() -> None:
    chat = {**without(EDIT, "prompt"), "messages": [{"role": "user", "content": "Hi"}]}
    assert refused(chat, messages=False) == (InvalidReason.NO_CHAT_TEMPLATE, "messages")


def test_an_erasure_needs_only_its_ids_and_time() -> None:
    fields = {**without(EDIT, "prompt", "proposed", "edited"), "type": "erase"}
    assert decode(fields) == EraseEvent("e1", "ann", datetime(2026, 3, 1, 9, tzinfo=UTC))
    for name in ("event_id", "user_id", "occurred_at"):
        assert refused(without(fields, name)) == (InvalidReason.MISSING_FIELD, name)


@pytest.mark.parametrize("name", ["event_id", "user_id", "occurred_at", "prompt", "proposed", "edited"])
def test_a_required_field_is_missed_by_name(name: str) -> None:
    assert refused(without(EDIT, name)) == (InvalidReason.MISSING_FIELD, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("event_id", ""),
        ("event_id", CANARY * 100),  # 600 characters
        ("event_id", 7),
        ("user_id", ""),
        ("user_id", "u" * 257),
        ("user_id", None),
        ("occurred_at", f"2026-03-01T09:00:00 {CANARY}"),
        ("occurred_at", 1772355600),
        ("prompt", [CANARY]),
        ("proposed", None),
        ("edited", {"text": CANARY}),
        ("adapter_version", -1),
        ("adapter_version", 1.5),
        ("adapter_version", True),
        ("adapter_version", "v1.2"),
        ("adapter_version", "1٣"),
        ("adapter_version", 10**18),
        ("truncated", "yes"),
        ("truncated", 1),
    ],
)
def test_a_wrong_field_is_refused_by_name_and_never_quoted(name: str, value: object) -> None:
    assert refused({**EDIT, name: value}) == (InvalidReason.INVALID_FIELD, name)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        (CANARY, "messages"),
        ([{"role": "user", "content": "x"}, {"role": "", "content": "x"}], "messages[1].role"),
        ([{"role": "user", "content": [{"type": "text", "text": CANARY}]}], "messages[0].content"),
        ([CANARY], "messages[0]"),
    ],
)
def test_wrong_messages_are_refused_with_their_place(messages: object, field: str) -> None:
    assert refused({**without(EDIT, "prompt"), "messages": messages}) == (InvalidReason.INVALID_FIELD, field)


def test_a_message_needs_role_and_content() -> None:
    for name in ("role", "content"):
        chat = [without({"role": "user", "content": "x"}, name)]
        expected = (InvalidReason.MISSING_FIELD, f"messages[0].{name}")
        assert refused({**without(EDIT, "prompt"), "messages": chat}) == expected


def test_prompt_and_messages_exclude_each_other() -> None:
    assert refused({**EDIT, "messages": [{"role": "user", "content": "x"}]}) == (InvalidReason.INVALID_FIELD, "prompt")


@pytest.mark.parametrize("name", ["event_id", "user_id", "prompt", "proposed", "edited"])
def test_a_lone_surrogate_is_refused_since_it_could_never_be_encoded(name: str) -> None:
    assert refused({**EDIT, name: "x\ud800"}) == (InvalidReason.INVALID_FIELD, name)
    chat = {**without(EDIT, "prompt"), "messages": [{"role": "user", "content": "\udfff"}]}
    assert refused(chat) == (InvalidReason.INVALID_FIELD, "messages[0].content")


def test_nul_emoji_and_a_pair_of_surrogates_are_texts_like_others() -> None:
    user = "a\0🦊"
    assert decode({**EDIT, "user_id": user}, key=user.encode()).user_id == user  # json.dumps writes it as a pair


@pytest.mark.parametrize(("given_version", "version"), [(0, 0), ("v000012", 12), ("12", 12), (10**18 - 1, 10**18 - 1)])
def test_a_version_is_a_number_or_a_published_folder_s_name(given_version: object, version: int) -> None:
    assert edit(decode({**EDIT, "adapter_version": given_version})).adapter_version == version


@pytest.mark.parametrize("text", ["2026-03-01t10:30:00.123456789+01:30", "2026-03-01 09:00:00.123456Z"])
def test_times_of_rfc_3339_are_read_in_utc(text: str) -> None:
    occurred_at = decode({**EDIT, "occurred_at": text}).occurred_at
    assert occurred_at == datetime(2026, 3, 1, 9, 0, 0, 123456, UTC)
    assert occurred_at is not None
    assert occurred_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T09:00:00",  # no offset
        "2026-03-01",
        "20260301T090000Z",
        "2026-W09-7T09:00:00Z",
        "2026-02-30T09:00:00Z",
        "2026-03-01T09:00Z",
        "2026-03-01T09:00:00+0100",
        "2026-03-01T09:00:00,5Z",
        "0001-01-01T00:00:00+01:00",  # has no date in UTC
        "٢٠٢٦-03-01T09:00:00Z",
        "2026-03-01T09:00:00Z\n",
    ],
)
def test_other_times_are_refused(text: str) -> None:
    assert refused({**EDIT, "occurred_at": text}) == (InvalidReason.INVALID_FIELD, "occurred_at")


def test_an_unknown_type_is_refused_and_not_quoted() -> None:
    assert refused({**EDIT, "type": CANARY}) == (InvalidReason.UNKNOWN_TYPE, "type")
    assert refused({**EDIT, "type": [CANARY]}) == (InvalidReason.INVALID_FIELD, "type")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff\xfe",
        CANARY.encode(),
        b'{"event_id": "a"} {}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"9" * 5000,  # more digits than int() takes
        '﻿{"a": 1}'.encode(),
        f'{{"user_id": "{CANARY}", "user_id": "ann"}}'.encode(),
        b'{"nested": {"a": 1, "a": 2}}',
    ],
)
def test_what_is_not_one_json_object_without_repeated_keys_is_not_json(value: bytes) -> None:
    assert refused(value) == (InvalidReason.NOT_JSON, None)


@pytest.mark.parametrize("value", [[EDIT], CANARY, 5, None])
def test_other_json_is_not_an_object(value: object) -> None:
    assert refused(json.dumps(value).encode()) == (InvalidReason.NOT_AN_OBJECT, None)


# Limits


def test_the_record_s_bytes_and_each_text_s_characters_are_limited() -> None:
    assert edit(decode({**EDIT, "edited": "x" * 10}, max_text_chars=10)).edited == "x" * 10
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


# CloudEvents


def binary(cloud: dict[str, Any] = CLOUD) -> tuple[bytes, list[tuple[str, bytes]]]:
    """As the cloudevents library writes it."""
    attributes = {**without(cloud, "data"), "time": datetime.fromisoformat(cloud["time"])}
    message = binding.to_binary(CloudEvent(attributes, cloud["data"]), JSONFormat())
    return message.value, list(message.headers.items())


def test_the_three_forms_of_an_event_are_the_same_event() -> None:
    plain = edit(decode({**EDIT, "event_id": "/editor/eu/91"}))
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


def test_batches_and_other_formats_are_refused() -> None:
    for kind in (b"application/cloudevents-batch+json", b"application/cloudevents+avro", b"application/cloudevents"):
        assert refused([CLOUD], [("Content-Type", kind)]) == (InvalidReason.NOT_CLOUDEVENTS, "content-type")


def test_a_content_type_of_plain_json_changes_nothing() -> None:
    assert decode(EDIT, [("content-type", b"application/json"), ("retries", b"\x00\x01")]) == decode(EDIT)


# Anything else

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(CANARY) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just(CANARY), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([*EDIT, *CLOUD, "messages", "adapter_version", "truncated", "data_base64", "type", CANARY])
changed_events = st.tuples(st.sampled_from([EDIT, CLOUD]), st.dictionaries(names, json_values, max_size=4)).map(
    lambda pair: json.dumps({**pair[0], **pair[1]}).encode()
)
header_names = st.sampled_from(["content-type", "ce_id", "ce_time", "ce_source", "ce_type", "ce_specversion", CANARY])
header_values = st.binary(max_size=20) | st.sampled_from(
    [b"1.0", b"a.edit", b"2026-03-01T09:00:00Z", b"application/cloudevents+json", CANARY.encode()]
)


# The first inputs are slow: the alphabet of every text is made then.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    key=st.none() | st.just(b"ann") | st.binary(max_size=8),
    value=st.none() | st.binary(max_size=60) | changed_events,
    headers=st.lists(st.tuples(header_names, header_values), max_size=6),
    tombstones_erase=st.booleans(),
)
@example(
    key=b"ann", value=json.dumps({**EDIT, "edited": CANARY, "proposed": 5}).encode(), headers=[], tombstones_erase=True
)
def test_any_bytes_give_an_event_or_an_invalid_event_that_quotes_nothing(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], tombstones_erase: bool
) -> None:
    decoder = EventDecoder(EventSettings(tombstones_erase=tombstones_erase), supports_messages=True)
    event, error = outcome(decoder, key, value, headers)
    if event is None:
        assert error is not None
        assert CANARY not in f"{error!r} {error} {error.field} {error.detail}"
        assert error.__context__ is None
    else:
        assert key == event.user_id.encode()
        assert event.event_id or value is None


def outcome(
    decoder: EventDecoder, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> tuple[EditEvent | EraseEvent | None, InvalidEvent | None]:
    try:
        return decoder.decode(key, value, headers), None
    except InvalidEvent as error:
        return None, error
