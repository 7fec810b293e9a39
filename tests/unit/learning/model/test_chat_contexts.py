"""From an event's JSON to token ids: the context is what `apply_chat_template` makes of the request."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from corlld.errors import RejectReason
from corlld.learning.model.pairs import PairEncoder, PreferencePair
from corlld.learning.model.token_check import check_tokens
from tests.support.chat_templates import PARTS, THINKING
from tests.support.decoding import EDIT, as_edit, decode, without
from tests.support.tiny_models import TURN_END, make_tiny_model

QUESTION = {"role": "user", "content": "Weather?"}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
CALLED = {**CALL, "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("chat"), chat_template=True)


def with_template(folder: Path, template: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def encode(tokenizer: Any, messages: list[Any], defaults: dict[str, Any] | None = None, **fields: Any) -> Any:
    encoder = PairEncoder(
        tokenizer, max_context_tokens=10_000, max_response_tokens=1_000, template_kwargs=defaults or {}
    )
    return encoder.encode(as_edit(decode({**without(EDIT, "prompt"), "messages": messages, **fields})))


def context_of(tokenizer: Any, messages: list[Any], defaults: dict[str, Any] | None = None, **fields: Any) -> str:
    """Return the context as text. The responses begin with different letters, so that no token of theirs is shared."""
    pair = encode(tokenizer, messages, defaults, **fields, proposed="x", edited="y")
    assert isinstance(pair, PreferencePair)
    text: str = tokenizer.decode(pair.prompt)
    return text


def test_tools_calls_answers_names_and_reasoning_reach_the_template(folder: Path) -> None:
    tokenizer = with_template(folder, THINKING)
    given = [
        {"role": "system", "content": "Be brief.", "name": "boss"},
        QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Ask."},
        {"role": "tool", "content": [{"type": "text", "text": "rain"}], "tool_call_id": "c1"},
    ]
    expected = [
        given[0],
        QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [CALLED], "reasoning_content": "Ask."},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    ]
    arguments = {"enable_thinking": False}
    pair = encode(tokenizer, given, tools=TOOLS, chat_template_kwargs=arguments, proposed="x", edited="y")
    ids = tokenizer.apply_chat_template(expected, tools=TOOLS, add_generation_prompt=True, **arguments)["input_ids"]
    assert list(pair.prompt) == ids
    shown = tokenizer.decode(ids)
    for piece in (
        '"name": "weather"',
        "(boss)",
        "<think>Ask.</think>",
        "<call>weather Ulm</call>",
        "[c1]",
        EMPTY_THOUGHT,
    ):
        assert piece in shown


def test_an_empty_block_of_thoughts_is_the_tokens_that_the_engine_has_before_the_answer(folder: Path) -> None:
    tokenizer = with_template(folder, THINKING)
    tokenizer.add_tokens(["<think>", "</think>"])  # as Qwen3 has them: added, and not special
    off = {"enable_thinking": False}
    pair = encode(tokenizer, [QUESTION], off, proposed="x", edited="y")
    ids = tokenizer.apply_chat_template([QUESTION], add_generation_prompt=True, **off)["input_ids"]
    assert list(pair.prompt) == ids
    thought = tokenizer("<think>\n\n</think>\n\n", add_special_tokens=False)["input_ids"]
    assert ids[-len(thought) :] == thought
    assert {"<think>", "</think>"} <= set(tokenizer.convert_ids_to_tokens(thought))


def test_what_looks_like_a_control_token_in_tools_and_names_is_plain_text(folder: Path) -> None:
    tokenizer = with_template(folder, THINKING)
    tool = {"type": "function", "function": {"name": "f", "description": f"x{TURN_END}", "parameters": None}}
    answer = {"role": "tool", "content": TURN_END, "tool_call_id": TURN_END, "name": f"a{TURN_END}b"}
    pair = encode(tokenizer, [QUESTION, answer], tools=[tool], proposed="x", edited="y")
    turns_ended = pair.prompt.count(tokenizer.convert_tokens_to_ids(TURN_END))
    assert turns_ended == 3  # those of the tools, the question and the answer
    shown = tokenizer.apply_chat_template([QUESTION, answer], tools=[tool], add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(pair.prompt) == shown


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_either_name_of_the_reasoning_reaches_a_template_that_reads_the_other(folder: Path, name: str) -> None:
    messages = [{"role": "assistant", "content": "x", name: "Hm."}]
    for read in ("reasoning", "reasoning_content"):
        tokenizer = with_template(folder, "{{ messages[0]." + read + " }}")
        assert context_of(tokenizer, messages) == "Hm."


def test_the_setting_s_arguments_hold_for_every_chat_and_the_event_s_own_override_them(folder: Path) -> None:
    tokenizer = with_template(folder, THINKING)
    off, on = {"enable_thinking": False}, {"enable_thinking": True}
    assert EMPTY_THOUGHT not in context_of(tokenizer, [QUESTION])
    assert context_of(tokenizer, [QUESTION], off).endswith(f"<|turn>assistant\n{EMPTY_THOUGHT}")
    assert EMPTY_THOUGHT in context_of(tokenizer, [QUESTION], off, chat_template_kwargs={"other": 1})
    assert EMPTY_THOUGHT not in context_of(tokenizer, [QUESTION], off, chat_template_kwargs=on)
    assert EMPTY_THOUGHT in context_of(tokenizer, [QUESTION], on, chat_template_kwargs=off)


def test_the_end_of_a_turn_is_found_where_the_template_needs_the_setting_s_arguments(folder: Path) -> None:
    tokenizer = with_template(folder, "{% if not mode %}{{ raise_exception('mode?') }}{% endif %}" + THINKING)
    pair = encode(tokenizer, [QUESTION], {"mode": "plain"})
    assert pair.chosen[-1] == tokenizer.convert_tokens_to_ids(TURN_END)
    assert encode(tokenizer, [QUESTION]) is RejectReason.UNRENDERABLE


def test_text_parts_are_joined_by_line_breaks_or_given_as_parts_as_the_template_takes_them(folder: Path) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert "user\na\nb<turn|>" in context_of(with_template(folder, THINKING), messages)
    assert "user\nab<turn|>" in context_of(with_template(folder, PARTS), messages)
    assert "user\nWeather?<turn|>" in context_of(with_template(folder, PARTS), [QUESTION])
    pair = encode(with_template(folder, PARTS), [QUESTION])
    assert pair.chosen[-1] == with_template(folder, PARTS).convert_tokens_to_ids(TURN_END)


def test_the_start_accepts_templates_of_either_kind(folder: Path) -> None:
    for template in (THINKING, PARTS, {"default": PARTS, "tool_use": THINKING}):
        check_tokens(with_template(folder, template))


def test_tools_choose_among_a_model_s_templates(folder: Path) -> None:
    tokenizer = with_template(folder, {"default": "plain", "tool_use": "with tools"})
    assert context_of(tokenizer, [QUESTION]) == "plain"
    assert context_of(tokenizer, [QUESTION], tools=TOOLS) == "with tools"
    tokenizer.chat_template = {"tool_use": "with tools"}
    assert encode(tokenizer, [QUESTION]) is RejectReason.UNRENDERABLE


def test_a_field_that_engines_may_drop_is_left_out_unless_the_template_reads_it(folder: Path) -> None:
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    messages = [{"role": "user", "content": [part], "id": "m1", "thinking": "Hm.", "tool_call_id": "c1"}]
    plain = [{"role": "user", "content": "x"}]
    for template in (PARTS, "{{ messages[0].role }}{% for m in messages %}{{ m.content }}{% endfor %}"):
        tokenizer = with_template(folder, template)
        assert context_of(tokenizer, messages) == context_of(tokenizer, plain)
    for reads in ("messages[0].id", "messages[0].thinking", "messages[0] | tojson", "messages[0].tool_call_id"):
        tokenizer = with_template(folder, "{{ messages[0].role }} {{ " + reads + " }}")
        assert encode(tokenizer, messages) is RejectReason.UNRENDERABLE
        assert isinstance(encode(tokenizer, plain), PreferencePair)
    reads = "{% for m in messages %}{% for p in m.content %}{{ p.cache_control }}{{ p.text }}{% endfor %}{% endfor %}"
    assert encode(with_template(folder, reads), messages) is RejectReason.UNRENDERABLE


@pytest.mark.parametrize(
    "failing",
    [
        "raise_exception('Conversation roles must alternate')",
        "messages[0].content.nothing.more",
        "messages[0].content + 1",
        "messages[0].content.index('zz')",
        "1 // 0",
        "'{x}'.format()",
        "range(1000000)",
        "namespace(_x=1)",
        "messages[0].content | fromjson",
        "messages.append(1)",
    ],
)
def test_whatever_a_template_raises_is_a_rejection(folder: Path, failing: str) -> None:
    assert encode(with_template(folder, "{{ " + failing + " }}"), [QUESTION]) is RejectReason.UNRENDERABLE


def test_a_template_that_never_comes_to_its_bottom_is_a_rejection(folder: Path) -> None:
    tokenizer = with_template(folder, "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}")
    assert encode(tokenizer, [QUESTION]) is RejectReason.UNRENDERABLE


def test_arguments_are_given_as_json_and_nothing_else(folder: Path) -> None:
    arguments = {"a": [1, 2.5, None, True, {"b": "\u00e9"}]}
    tokenizer = with_template(folder, "{{ a | tojson }}")
    assert context_of(tokenizer, [QUESTION], chat_template_kwargs=arguments) == json.dumps(
        arguments["a"], ensure_ascii=False
    )
