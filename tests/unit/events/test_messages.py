"""Messages, tools and arguments of a chat: read as an engine reads them, refused with their place, never dropped."""

import json
from typing import Any

import pytest

from corlld.errors import InvalidEvent, InvalidReason
from corlld.events.messages import MAX_ROLE_CHARS
from corlld.events.wire import MAX_JSON_DEPTH
from corlld.records import EditEvent, Message
from corlld.settings.template_arguments import RESERVED
from tests.support.decoding import CANARY, CLOUD, EDIT, STRUCTURED, as_edit, decode, refused, without

QUESTION = {"role": "user", "content": "Weather?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {**without(EDIT, "prompt"), "messages": list(messages) or [QUESTION], **fields}


def message_of(message: Any) -> Message:
    event = as_edit(decode(chat(message)))
    assert event.messages is not None
    return event.messages[0]


def fields_of(message: Any) -> Any:
    return json.loads(message_of(message).fields)


def detail_of(record: object) -> str:
    with pytest.raises(InvalidEvent) as caught:
        decode(record)
    return caught.value.detail


# Messages


def test_a_name_is_passed_on_for_every_role() -> None:
    for role in ("system", "user", "assistant", "tool"):
        assert message_of({"role": role, "content": "x", "name": "n"}) == Message(role, "x", '{"name":"n"}')


def test_an_assistant_that_only_calls_tools_has_no_content() -> None:
    for absent in ({}, {"content": None}):
        message = message_of({"role": "assistant", "tool_calls": [CALL], **absent})
        call = {**CALL, "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
        assert (message.content, json.loads(message.fields)) == ("", {"tool_calls": [call], "content": []})


@pytest.mark.parametrize(
    ("arguments", "read"),
    [('{"b": 1, "a": "\u00e9"}', '{"b":1,"a":"\u00e9"}'), ({"x": [None]}, '{"x":[null]}'), ("", "{}"), (None, "{}")],
)
def test_arguments_of_a_call_become_an_object_with_its_keys_in_their_order(arguments: object, read: str) -> None:
    call = {"function": {"name": "weather", "arguments": arguments}}
    message = message_of({"role": "assistant", "content": "x", "tool_calls": [call]})
    assert message.fields == '{"tool_calls":[{"function":{"name":"weather","arguments":' + read + "}}]}"


def test_reasoning_is_kept_once_whatever_its_names() -> None:
    for names in (("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content")):
        given = dict.fromkeys(names, "Hm.")
        assert fields_of({"role": "assistant", "content": "x", **given}) == {"reasoning": "Hm."}


def test_two_reasonings_that_differ_are_refused() -> None:
    message = {"role": "assistant", "content": "x", "reasoning": "a", "reasoning_content": CANARY}
    assert refused(chat(message)) == (InvalidReason.INVALID_FIELD, "messages[0].reasoning_content")


def test_a_tool_s_answer_keeps_the_id_of_its_call() -> None:
    assert fields_of({"role": "tool", "content": "rain", "tool_call_id": "c1"}) == {"tool_call_id": "c1"}


def test_a_list_of_text_parts_stays_a_list() -> None:
    parts = [
        "a",
        {"type": "text", "text": "b"},
        {"type": "input_text", "text": "c"},
        {"type": "refusal", "refusal": "d"},
    ]
    message = message_of({"role": "user", "content": parts})
    assert message.content == ""
    assert json.loads(message.fields) == {"content": [{"type": "text", "text": text} for text in "abcd"]}


def test_what_only_some_engines_pass_on_is_kept_apart() -> None:
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    message = message_of({"role": "user", "content": [part], "tool_calls": [CALL], "weight": 0, "refusal": None})
    assert json.loads(message.fields) == {"content": [{"type": "text", "text": "x"}]}
    assert set(json.loads(message.extra)) == {"content", "tool_calls", "weight"}
    assert json.loads(message.extra)["content"] == [part]


@pytest.mark.parametrize(
    ("role", "field"),
    [
        ("user", {"name": 5}),
        ("user", {"tool_calls": {"f": 1}}),
        ("tool", {"tool_calls": "x"}),
        ("user", {"tool_call_id": 3}),
        ("assistant", {"tool_call_id": [3]}),
        ("assistant", {"tools": "x"}),
        ("system", {"reasoning": {"effort": "low"}}),
        ("user", {"reasoning": "a", "reasoning_content": "b"}),
        ("user", {"extra": 1}),
    ],
)
def test_a_field_that_the_engine_drops_is_kept_apart_whatever_it_holds(role: str, field: dict[str, Any]) -> None:
    message = message_of({"role": role, "content": "x", **field})
    assert (message.fields, json.loads(message.extra)) == ("", field)


@pytest.mark.parametrize("empty", [None, "", [], {}])
def test_a_field_that_the_engine_drops_is_as_if_absent_if_it_is_empty(empty: object) -> None:
    for name in ("tool_calls", "tool_call_id", "reasoning", "tools", "metadata"):
        assert message_of({"role": "user", "content": "x", name: empty}) == Message("user", "x")


def test_fields_that_are_null_or_no_calls_are_as_if_absent() -> None:
    # This is how the client of OpenAI writes an answer.
    nothing = dict.fromkeys(("name", "refusal", "audio", "function_call", "tool_call_id", "reasoning_content"))
    message = {"role": "assistant", "content": "x", **nothing, "tool_calls": []}
    assert message_of(message) == Message("assistant", "x")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": CANARY}},
        {"type": "input_audio", "input_audio": {"data": CANARY}},
        {"type": CANARY, "text": "x"},
        {"text": CANARY},
        {"type": [CANARY]},
        7,
    ],
)
def test_a_part_that_is_no_text_is_refused_as_unsupported(part: object) -> None:
    record = chat(QUESTION, {"role": "user", "content": ["x", part]})
    assert refused(record) == (InvalidReason.UNSUPPORTED_CONTENT, "messages[1].content")
    assert "image" in detail_of(record)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"content": 7}, "content"),
        ({"content": {"text": CANARY}}, "content"),
        ({"content": [{"type": "text"}]}, "content"),
        ({"content": [{"type": "text", "text": [CANARY]}]}, "content"),
        ({"content": ["\ud800"]}, "content"),
        ({"name": "\ud800"}, "name"),
        ({"role": "tool", "tool_call_id": [CANARY]}, "tool_call_id"),
        ({"reasoning": {CANARY: CANARY}}, "reasoning"),
        ({"role": CANARY * MAX_ROLE_CHARS}, "role"),
        ({"tool_calls": CANARY}, "tool_calls"),
        ({"tool_calls": [CANARY]}, "tool_calls"),
        ({"tool_calls": [{"type": "custom", "function": {"name": CANARY}}]}, "tool_calls"),
        ({"tool_calls": [{"function": {"name": 7}}]}, "tool_calls"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": f"{{{CANARY}"}}]}, "tool_calls"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": f'["{CANARY}"]'}}]}, "tool_calls"),
        ({"role": "developer", "tools": [CANARY]}, "tools"),
    ],
)
def test_a_wrong_field_of_a_message_is_refused_with_its_place(message: dict[str, Any], field: str) -> None:
    record = chat(QUESTION, {"role": "assistant", "content": "x", **message})
    assert refused(record) == (InvalidReason.INVALID_FIELD, f"messages[1].{field}")


@pytest.mark.parametrize(
    ("messages", "place", "allowed"),
    [
        ([], "messages", "a list, not empty, of objects with role and content"),
        ("hi", "messages", "a list, not empty, of objects with role and content"),
        (["hi"], "messages[0]", "an object with role and content"),
        ([{"content": "x"}], "messages[0].role", f"a text of 1 to {MAX_ROLE_CHARS} characters"),
        ([{"role": "", "content": "x"}], "messages[0].role", f"a text of 1 to {MAX_ROLE_CHARS} characters"),
        ([{"role": "user"}], "messages[0].content", "a text, or a list of text parts"),
        ([{"role": "user", "content": "\ud800"}], "messages[0].content", "a text, or a list of text parts"),
        ([{"role": "user", "content": "x", "name": "\ud800"}], "messages[0].name", "a text"),
        ([{"role": "tool", "content": "x", "tool_call_id": 3}], "messages[0].tool_call_id", "a text"),
        *(
            ([{"role": "assistant", "content": "x", name: 3}], f"messages[0].{name}", "a text")
            for name in ("reasoning", "reasoning_content")
        ),
    ],
)
def test_what_is_allowed_is_said_of_the_wrong_field_alone(messages: object, place: str, allowed: str) -> None:
    record = {**without(EDIT, "prompt"), "messages": messages}
    assert (refused(record)[1], detail_of(record)) == (place, allowed)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "tool_calls": [CALL]},
        {"role": "assistant", "content": None},
        {"role": "assistant", "tool_calls": []},
    ],
)
def test_only_an_assistant_that_calls_tools_needs_no_content(message: dict[str, Any]) -> None:
    assert refused(chat(message)) == (InvalidReason.MISSING_FIELD, "messages[0].content")


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf")])
def test_what_can_t_be_written_as_json_in_utf_8_is_refused_wherever_it_is(value: object) -> None:
    place = (InvalidReason.INVALID_FIELD, "messages[0]")
    assert refused(chat({"role": "user", "content": "x", CANARY: [value]})) == place
    assert refused(chat(tools=[{**TOOL, "x": value}])) == (InvalidReason.INVALID_FIELD, "tools")
    expected = (InvalidReason.INVALID_FIELD, "chat_template_kwargs")
    assert refused(chat(chat_template_kwargs={"x": {CANARY: value}})) == expected


def test_json_that_is_nested_too_deeply_is_refused_and_never_an_error() -> None:
    for depth in (1, 90, 101, 1_000, 20_000, 200_000):
        value = json.dumps(chat(tools=[{**TOOL, "x": CANARY}])).encode()
        value = value.replace(json.dumps(CANARY).encode(), b"[" * depth + b"]" * depth)
        if depth < MAX_JSON_DEPTH:
            assert as_edit(decode(value)).tools is not None
        else:
            assert refused(value)[0] in (InvalidReason.NOT_JSON, InvalidReason.INVALID_FIELD)


# Tools and arguments of the template


def test_tools_have_their_keys_in_the_engine_s_order_and_what_is_absent_is_null() -> None:
    assert as_edit(decode(chat(tools=[TOOL]))).tools == json.dumps([TOOL], separators=(",", ":"))
    bare = {"function": {"strict": True, "name": "f"}, "id": 1}
    read = '[{"type":"function","function":{"name":"f","description":null,"parameters":null,"strict":true},"id":1}]'
    assert as_edit(decode(chat(tools=[bare]))).tools == read
    for none in (None, "", [], {}):
        assert as_edit(decode(chat(tools=none))).tools is None


@pytest.mark.parametrize(
    "tools",
    [
        CANARY,
        {"f": CANARY},
        [CANARY],
        [{"name": CANARY}],
        [{"type": "web_search", "function": {"name": CANARY}}],
        [{"function": {"name": "f", "description": [CANARY]}}],
        [{"function": {"name": "f", "parameters": [CANARY]}}],
    ],
)
def test_wrong_tools_are_refused(tools: object) -> None:
    assert refused(chat(tools=tools)) == (InvalidReason.INVALID_FIELD, "tools")


def test_arguments_of_the_template_are_an_object_of_any_json() -> None:
    arguments = {"enable_thinking": False, "documents": [{"title": "t"}]}
    event = as_edit(decode(chat(chat_template_kwargs=arguments)))
    assert json.loads(event.chat_template_kwargs or "") == arguments
    assert as_edit(decode(chat(chat_template_kwargs=None))).chat_template_kwargs is None
    for wrong in (CANARY, [CANARY], 7):
        assert refused(chat(chat_template_kwargs=wrong)) == (InvalidReason.INVALID_FIELD, "chat_template_kwargs")


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_arguments_that_corlld_passes_itself_are_refused_by_name(name: str) -> None:
    record = chat(chat_template_kwargs={"enable_thinking": False, name: CANARY})
    assert refused(record) == (InvalidReason.INVALID_FIELD, "chat_template_kwargs")
    assert f"but {name}," in detail_of(record)


@pytest.mark.parametrize("name", ["documents", "functions", "chat_template", "reasoning", "reasoning_content"])
def test_a_field_of_a_request_that_changes_the_prompt_is_refused_with_where_it_belongs(name: str) -> None:
    record = chat(**{name: CANARY})
    assert refused(record) == (InvalidReason.INVALID_FIELD, name)
    assert detail_of(record).startswith("it belongs ")
    for empty in (None, "", [], {}):  # as a producer writes that adds up the deltas of a stream
        assert decode(chat(**{name: empty})) == decode(chat())
    assert decode({**EDIT, name: CANARY}) == decode(EDIT), "with a prompt it is one of the producer's own fields"


@pytest.mark.parametrize(
    ("effort", "own", "arguments"),
    [
        ("low", None, {"enable_thinking": True, "reasoning_effort": "low"}),
        ("none", None, {"enable_thinking": False, "reasoning_effort": "none"}),
        ("none", {"enable_thinking": True}, {"enable_thinking": True, "reasoning_effort": "none"}),
        ("high", {"reasoning_effort": "low"}, {"reasoning_effort": "high", "enable_thinking": True}),
        ("high", {"x": 1}, {"x": 1, "reasoning_effort": "high", "enable_thinking": True}),
        ("", {"x": 1}, {"x": 1}),
    ],
)
def test_a_request_s_effort_becomes_an_argument_of_the_template_and_switches_thinking(
    effort: str, own: object, arguments: dict[str, Any]
) -> None:
    event = as_edit(decode(chat(reasoning_effort=effort, chat_template_kwargs=own)))
    assert json.loads(event.chat_template_kwargs or "") == arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [TOOL]),
        ("chat_template_kwargs", {"x": 1}),
        *(("reasoning_effort", effort) for effort in ("low", "none", 0, False)),
    ],
)
def test_what_belongs_to_a_chat_is_refused_beside_a_prompt_unless_it_is_empty(name: str, value: Any) -> None:
    """A prompt is all that the draft followed: what else the request had would be lost."""
    record = {**EDIT, name: value}
    assert (refused(record), detail_of(record)) == ((InvalidReason.INVALID_FIELD, name), "only with messages")
    for empty in (None, "", [], {}):
        assert decode({**EDIT, name: empty}) == decode(EDIT)


def test_an_effort_hides_no_wrong_arguments_of_the_template() -> None:
    expected = (InvalidReason.INVALID_FIELD, "chat_template_kwargs")
    assert refused(chat(reasoning_effort="low", chat_template_kwargs=[CANARY])) == expected
    assert refused(chat(reasoning_effort="\ud800")) == expected


@pytest.mark.parametrize(
    ("name", "harmless"),
    [("add_generation_prompt", True), ("continue_final_message", False), ("add_special_tokens", False)],
)
def test_a_switch_of_a_request_is_refused_only_if_it_changes_the_prompt(name: str, harmless: bool) -> None:
    assert decode(chat(**{name: harmless})) == decode(chat())
    assert refused(chat(**{name: not harmless})) == (InvalidReason.INVALID_FIELD, name)


@pytest.mark.parametrize(("name", "value"), [("tools", [TOOL]), ("chat_template_kwargs", {"enable_thinking": False})])
def test_they_go_only_with_messages(name: str, value: object) -> None:
    assert refused({**EDIT, name: value}) == (InvalidReason.INVALID_FIELD, name)
    for empty in (None, "", [], {}):
        assert decode({**EDIT, name: empty}) == decode(EDIT), "empty, it asks for nothing"


# Sizes, CloudEvents, equality


def test_all_of_the_context_counts_towards_its_limit() -> None:
    whole = chat(
        {"role": "user", "content": [{"type": "text", "text": "xx"}], "weight": 1},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "Hm."},
        tools=[TOOL],
        chat_template_kwargs={"enable_thinking": False},
    )
    event = as_edit(decode(whole))
    size = event.chars - len(event.proposed) - len(event.edited)
    texts = [event.tools or "", event.chat_template_kwargs or ""]
    texts += [text for m in event.messages or () for text in (m.content, m.fields)]
    assert size == sum(len(text) for text in texts) > 200
    assert decode(whole, max_text_chars=size) == event
    assert refused(whole, max_text_chars=size - 1) == (InvalidReason.TOO_LARGE, "messages")


def test_what_no_template_sees_does_not_count_and_no_text_counts_twice() -> None:
    part = {"type": "text", "text": "x" * 60, "cache_control": {"type": "ephemeral"}}
    for message in (
        {"role": "user", "content": "x", "metadata": "m" * 300},
        {"role": "user", "content": [part]},
        {"role": "assistant", "content": "x", "reasoning_content": "r" * 60},
        {"role": "user", "content": "x", "reasoning_content": "r" * 300},
    ):
        assert decode(chat(message), max_text_chars=110)


def test_a_context_that_is_too_long_is_refused_with_the_length_of_each_field() -> None:
    with pytest.raises(InvalidEvent) as caught:
        decode(chat(tools=[TOOL], chat_template_kwargs={"x": CANARY}), max_text_chars=100)
    tools, arguments = len(json.dumps([TOOL], separators=(",", ":"))), len(CANARY) + len('{"x":""}')
    lengths = f"messages {len(QUESTION['content'])}, tools {tools}, chat_template_kwargs {arguments}"
    assert caught.value.detail == f"at most 100 characters together: {lengths}"


def test_a_cloud_event_carries_the_same_context_and_its_fields_are_named_as_data() -> None:
    whole = chat(QUESTION, tools=[TOOL], chat_template_kwargs={"enable_thinking": False})
    cloud = as_edit(decode({**CLOUD, "data": whole}, STRUCTURED))
    plain = as_edit(decode(whole))
    for name in ("messages", "tools", "chat_template_kwargs"):
        assert getattr(cloud, name) == getattr(plain, name)
    image = chat({"role": "user", "content": [{"type": "image_url", "image_url": CANARY}]})
    expected = (InvalidReason.UNSUPPORTED_CONTENT, "data.messages[0].content")
    assert refused({**CLOUD, "data": image}, STRUCTURED) == expected
    assert refused({**CLOUD, "data": chat(tools=7)}, STRUCTURED) == (InvalidReason.INVALID_FIELD, "data.tools")
    assert refused({**CLOUD, "data": chat(documents=[7])}, STRUCTURED) == (
        InvalidReason.INVALID_FIELD,
        "data.documents",
    )


def test_events_with_another_context_differ_and_every_event_is_hashable() -> None:
    contexts: list[dict[str, Any]] = [
        {},
        {"tools": [TOOL]},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"messages": [{**QUESTION, "name": "n"}]},
        {"messages": [{**QUESTION, "weight": 1}]},
        {"messages": [{**QUESTION, "content": [QUESTION["content"]]}]},
    ]
    events: set[EditEvent] = {as_edit(decode(chat(**context))) for context in contexts for _ in range(2)}
    assert len(events) == len(contexts)
