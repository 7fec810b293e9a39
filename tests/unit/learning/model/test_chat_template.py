from typing import Any

import pytest

from corlld.learning.model.chat_template import end_of_answer, find_control_tokens, render, render_as_words
from tests.support.tokenizer_shapes import (
    EOS,
    INST_TEMPLATE,
    LINE_BREAK_TEMPLATE,
    ROLES,
    ROLES_TEMPLATE,
    THINK,
    TURN_END,
    TURN_START,
    UNKNOWN,
    make_tokenizer,
)

# Phi-3 and others put their control tokens together from roles. Each content is trimmed, and parts are joined.
PARTS_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_' + m.role + '|>' }}{% for part in m.content %}{{ part.text | trim }}{% endfor %}"
    "<|im_end|>{% endfor %}{{ tools | tojson if tools else '' }}{{ note or '' }}"
)
REMOVING_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content | replace('--', '') }}<|im_end|>{% endfor %}"


def as_words(template: str, messages: Any, **more: Any) -> str | None:
    """The conversation as words. Nonces are printed as the tokens that they stand for, in braces."""
    tokenizer = make_tokenizer("byte-level", template)
    control = find_control_tokens(make_tokenizer("byte-level", LINE_BREAK_TEMPLATE))
    text = render_as_words(tokenizer, control, messages, **more)
    for token, nonce in control.nonces.items():
        text = text and text.replace(nonce, f"{{{token}}}")
    return text


def test_only_the_templates_own_control_tokens_are_some() -> None:
    text = as_words(LINE_BREAK_TEMPLATE, [{"role": "user", "content": " <|im_end|></s>\n<a> "}])
    assert text == "{<s>}{<|im_start|>}user\n <|im_end|></s>\n<a> {<|im_end|>}\n{<|im_start|>}assistant\n"


def test_contents_that_a_template_trims_and_joins_make_no_control_token() -> None:
    parts = [{"type": "text", "text": text} for text in ("a <|im_ ", " end|> b ", " </s>", "<", "/s>")]
    text = as_words(PARTS_TEMPLATE, [{"role": "start", "content": parts}])
    assert text == "{<|im_start|>}a <|im_end|> b</s></s>{<|im_end|>}"


def test_tools_and_template_arguments_are_words_too() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "</s>é", "parameters": {"<s>": 1}}}]
    content = [{"type": "text", "text": "a"}]
    text = as_words(
        PARTS_TEMPLATE, [{"role": "start", "content": content}], tools=tools, template_kwargs={"note": "<|im_end|>"}
    )
    assert text is not None
    assert text.count("{<") == 2
    assert '"</s>é"' in text
    assert '"<s>": 1' in text
    assert text.endswith("<|im_end|>")


def test_a_conversation_is_refused_if_its_template_puts_a_control_token_together() -> None:
    assert as_words(REMOVING_TEMPLATE, [{"role": "user", "content": "a--b"}]) == "{<|im_start|>}ab{<|im_end|>}"
    assert as_words(REMOVING_TEMPLATE, [{"role": "user", "content": "a<|im_--end|>b"}]) is None


def test_a_refusal_of_the_template_gives_none() -> None:
    assert as_words("{{ raise_exception('no') }}", [{"role": "user", "content": "a"}]) is None


def test_what_reaches_the_template_is_the_messages_the_tools_and_the_arguments() -> None:
    tokenizer = make_tokenizer("byte-level", "{{ messages[0].content }}{{ tools[0].type }}{{ style }}")
    tools = [{"type": "function", "function": {"name": "f"}}]
    rendered = render(tokenizer, [{"role": "user", "content": "a"}], tools=tools, template_kwargs={"style": "b"})
    assert rendered == "afunctionb"


def test_control_tokens_are_the_special_ones_and_those_around_messages() -> None:
    special = {"<s>", EOS, UNKNOWN, *ROLES}
    assert set(find_control_tokens(make_tokenizer("byte-level")).ids) == special
    assert set(find_control_tokens(make_tokenizer("byte-level", INST_TEMPLATE)).ids) == special
    framed = find_control_tokens(make_tokenizer("byte-level", LINE_BREAK_TEMPLATE))
    assert set(framed.ids) == special | {TURN_START, TURN_END}


def test_a_pad_token_is_a_control_token_unless_it_is_an_ordinary_piece() -> None:
    plain = set(find_control_tokens(make_tokenizer("byte-level")).ids)
    for pad, more in (("!", set()), ("<pad>", {"<pad>"}), (EOS, set())):
        tokenizer = make_tokenizer("byte-level")
        tokenizer.add_special_tokens({"pad_token": pad})
        assert set(find_control_tokens(tokenizer).ids) == plain | more


def test_tags_that_a_template_begins_an_answer_with_are_words() -> None:
    thinking = LINE_BREAK_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    tokenizer = make_tokenizer("byte-level", thinking)
    assert "<think>" in (render(tokenizer, [{"role": "user", "content": "a"}]) or "")
    assert not set(THINK) & set(find_control_tokens(tokenizer).ids)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (LINE_BREAK_TEMPLATE, TURN_END),
        (INST_TEMPLATE, " </s>"),
        (ROLES_TEMPLATE, "<|end|>"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", ""),
        ("{{ raise_exception('no') }}", ""),
        (None, ""),
    ],
)
def test_an_answer_ends_with_the_templates_first_control_token_behind_it(template: str | None, end: str) -> None:
    tokenizer = make_tokenizer("byte-level", template)
    assert end_of_answer(tokenizer, find_control_tokens(tokenizer)) == end


# As GLM-4's: a turn ends where the next one begins.
OPEN_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "stops", "end"),
    [
        (OPEN_TEMPLATE, (EOS, "<|user|>"), "<|user|>"),
        (OPEN_TEMPLATE, (EOS,), ""),
        (OPEN_TEMPLATE.replace("{{ '<|'", "{{ '\n<|'"), (EOS, "<|user|>"), ""),
        (LINE_BREAK_TEMPLATE, (EOS, TURN_START), TURN_END),
    ],
)
def test_an_answer_without_an_end_ends_where_the_next_turn_begins_if_generation_stops_there(
    template: str, stops: tuple[str, ...], end: str
) -> None:
    tokenizer = make_tokenizer("byte-level", template)
    ids = {tokenizer.convert_tokens_to_ids(stop) for stop in stops}
    assert end_of_answer(tokenizer, find_control_tokens(tokenizer), stops=ids) == end


def test_a_tokenizer_without_special_tokens_is_an_error() -> None:
    tokenizer = make_tokenizer("byte-level")
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer)(tokenizer.backend_tokenizer.model)
    tokenizer.bos_token = tokenizer.eos_token = tokenizer.unk_token = None
    with pytest.raises(ValueError, match="no special token"):
        find_control_tokens(tokenizer)
