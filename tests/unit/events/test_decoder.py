"""Records of plain JSON become events or InvalidEvent, and nothing of a record is ever quoted."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from corlld.errors import InvalidReason
from corlld.records import EditEvent, EraseEvent, Message
from tests.support.decoding import CANARY, EDIT, as_edit, decode, refused, without


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
    plain = as_edit(decode(EDIT))
    assert (plain.adapter_version, plain.truncated, plain.messages) == (None, False, None)
    assert decode({**EDIT, "adapter_version": None, "truncated": None, "messages": None, "type": "edit"}) == plain


def test_texts_may_be_empty_and_equal_texts_are_an_acceptance() -> None:
    assert as_edit(decode({**EDIT, "prompt": "", "proposed": "", "edited": ""})).is_acceptance


def test_messages_become_a_tuple_of_roles_and_contents() -> None:
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}]
    event = as_edit(decode({**without(EDIT, "prompt"), "messages": chat}))
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
        ([{"role": "user", "content": [{"type": "text", "text": [CANARY]}]}], "messages[0].content"),
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
    assert as_edit(decode({**EDIT, "adapter_version": given_version})).adapter_version == version


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
