"""Responses as the ids that continue their context, and users' words as words, with tokenizers of many shapes."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corlld.errors import RejectReason
from corlld.learning.model.pairs import NoPair, PairEncoder, PreferencePair
from corlld.records import EditEvent, Message
from tests.support.tokenizer_shapes import EXACT, LOSSY, ROLES, TEMPLATES, TURN_END, TURN_START, make_tokenizer

CONTEXTS = ("Report", "Report. ", "Report:\n", "Report.\n\n")
RESPONSES = (
    "Sales rose",
    " Sales rose",
    "\n  - Sales\n",
    "été 😀",
    "12 %",
    ", so",
    "(a)  b ",
    "<think>\na\n</think>\nb",
)
SPECIAL = ("<s>", "</s>", *ROLES)
CONTROL = (*SPECIAL, TURN_START, TURN_END)
ENDS = {"line break": TURN_END, "inst": "</s>", "roles": ROLES[-1]}
EVENT = EditEvent(
    event_id="e",
    user_id="u",
    occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
    prompt="Report.\n\n",
    messages=None,
    proposed="Sales rose",
    edited="Sales rose",
)
TOKENIZERS = {(shape, name): make_tokenizer(shape, TEMPLATES[name]) for shape in EXACT for name in TEMPLATES}
ENCODERS = {
    key: PairEncoder(tokenizer, max_context_tokens=9999, max_response_tokens=9999)
    for key, tokenizer in TOKENIZERS.items()
}
# A SentencePiece tokenizer takes its own sign for a space as one.
words = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=5)
    | st.sampled_from([*CONTROL, " ", "\n", "Sales", "<", "/s>", "<|im_", "end|>", "<think>"]),
    max_size=8,
).map("".join)
every_tokenizer = pytest.mark.parametrize("key", TOKENIZERS, ids=" ".join)


def event(context: str, response: str, *, chat: bool = False) -> EditEvent:
    """An acceptance: its prompt is the context, and its chosen tail is the whole response."""
    edit = replace(EVENT, proposed=response, edited=response)
    return replace(edit, prompt=None, messages=(Message("user", context),)) if chat else replace(edit, prompt=context)


def split(key: Any, edit: EditEvent) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Its context's ids and its response's, end included."""
    pair = ENCODERS[key].encode(edit)
    assert isinstance(pair, PreferencePair)
    return pair.prompt, pair.chosen


def text_of(tokenizer: Any, ids: tuple[int, ...]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def control_ids(tokenizer: Any) -> set[int]:
    """The special tokens, and those that frame messages in the tokenizer's template."""
    framing = CONTROL if TURN_START in (tokenizer.chat_template or "") else SPECIAL
    return {tokenizer.convert_tokens_to_ids(token) for token in framing}


def harmless(text: str) -> bool:
    return not any(token in text for token in CONTROL)


def without_tags(tokenizer: Any, text: str) -> str:
    """The text without added tokens that are no control tokens. In a context, a space may come before them."""
    text = text.replace("<think>", "")
    return text if TURN_START in tokenizer.chat_template else text.replace("<|", "")


@every_tokenizer
@pytest.mark.parametrize("chat", [False, True], ids=["prompt", "chat"])
def test_a_context_and_a_response_decode_to_both_texts(key: Any, chat: bool) -> None:
    tokenizer = TOKENIZERS[key]
    for context in ("", *CONTEXTS):
        for response in RESPONSES:
            before, ids = split(key, event(context, response, chat=chat))
            end = len(ids) - (2 if chat and key[1] == "inst" else 1)  # its template writes a space before the end
            assert text_of(tokenizer, before + ids[:end]) == text_of(tokenizer, before) + response


@every_tokenizer
@settings(max_examples=20, deadline=None)
@example(context=TURN_START, response="0")  # engines show it where it is no special token, so the text began before
@example(context="", response="<unk>")  # a model may make it of its characters
@given(context=words, response=words)
def test_no_word_of_a_response_is_a_control_token_and_none_is_lost(key: Any, context: str, response: str) -> None:
    tokenizer = TOKENIZERS[key]
    before, (*ids, end) = split(key, event(context, response))
    assert end == tokenizer.eos_token_id
    assert not control_ids(tokenizer) & set(ids)
    assert text_of(tokenizer, (*before, *ids)) == text_of(tokenizer, before) + response


@every_tokenizer
@settings(max_examples=20, deadline=None)
@given(content=words)
def test_no_word_of_a_message_is_a_control_token_and_none_is_lost(key: Any, content: str) -> None:
    tokenizer = TOKENIZERS[key]
    content = without_tags(tokenizer, content)
    ids, _ = split(key, event(f"({content})", "Sales", chat=True))
    usual, _ = split(key, event("()", "Sales", chat=True))
    own = control_ids(tokenizer)
    assert [i for i in ids if i in own] == [i for i in usual if i in own]
    assert f"({content})" in text_of(tokenizer, ids)


@every_tokenizer
@settings(max_examples=20, deadline=None)
@given(contents=st.lists(words.filter(harmless), min_size=1, max_size=3))
def test_harmless_messages_have_the_ids_of_their_chat_template(key: Any, contents: list[str]) -> None:
    messages = tuple(Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents))
    turns = [{"role": m.role, "content": m.content} for m in messages]
    ordinary = TOKENIZERS[key].apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    pair = ENCODERS[key].encode(replace(EVENT, prompt=None, messages=messages))
    assert isinstance(pair, PreferencePair)
    assert list(pair.prompt) == ordinary


@every_tokenizer
def test_an_end_that_a_user_writes_is_not_trained_as_one(key: Any) -> None:
    eos = TOKENIZERS[key].eos_token_id
    _, ids = split(key, event("Report.", "Sales</s>"))
    assert ids.count(eos) == 1
    assert ids[-1] == eos
    _, ids = split(key, event("Report.", f"Sales{ENDS[key[1]]}", chat=True))
    end = TOKENIZERS[key].convert_tokens_to_ids(ENDS[key[1]])
    assert ids.count(end) == 1
    assert ids[-1] == end


@pytest.mark.parametrize("shape", EXACT)
def test_a_prompts_control_tokens_are_as_in_an_engine_or_plain_by_the_setting(shape: str) -> None:
    tokenizer = make_tokenizer(shape)
    limits = {"max_context_tokens": 999, "max_response_tokens": 999}
    edit = event("a</s> <s>b", "c")
    usual = PairEncoder(tokenizer, **limits).encode(edit)
    plain = PairEncoder(tokenizer, **limits, prompt_special_tokens=False).encode(edit)
    assert isinstance(usual, PreferencePair)
    assert isinstance(plain, PreferencePair)
    assert list(usual.prompt) == tokenizer(edit.prompt)["input_ids"]
    bos, *ids = plain.prompt
    assert bos == tokenizer.bos_token_id
    assert not control_ids(tokenizer) & set(ids)
    assert text_of(tokenizer, tuple(ids)).strip() == edit.prompt
    harmless = PairEncoder(tokenizer, **limits, prompt_special_tokens=False).encode(event(" a b", "c"))
    assert isinstance(harmless, PreferencePair)
    assert list(harmless.prompt) == tokenizer(" a b")["input_ids"]


@pytest.mark.parametrize("shape", LOSSY)
def test_what_a_tokenizer_cannot_tell_apart_is_no_difference(shape: str) -> None:
    encoder = PairEncoder(make_tokenizer(shape), max_context_tokens=99, max_response_tokens=99)
    alike = {"wordpiece": ("Sales  Rose", "sales rose"), "unigram nfkc": ("Sales  rose", "Sales rose")}[shape]
    assert encoder.encode(replace(EVENT, proposed=alike[0], edited=alike[1])) is NoPair.NO_DIFFERENCE


@pytest.mark.parametrize("shape", LOSSY)
def test_a_response_with_a_character_that_the_model_cannot_write_is_rejected(shape: str) -> None:
    encoder = PairEncoder(make_tokenizer(shape), max_context_tokens=99, max_response_tokens=99)
    assert isinstance(encoder.encode(event("Report 😀", "Sales")), PreferencePair)
    assert encoder.encode(event("Report", "Sales 😀")) is RejectReason.UNRENDERABLE


def test_a_response_begins_with_no_space_that_nobody_wrote() -> None:
    tokenizer = TOKENIZERS["prepend", "line break"]
    _, ids = split(("prepend", "line break"), event("Report.\n\n", "Sales"))
    assert tokenizer.convert_ids_to_tokens(list(ids))[0][0] == "S"
    # But a text's beginning is where such a model writes one.
    _, ids = split(("prepend", "line break"), event("", "Sales"))
    assert [tokenizer.bos_token_id, *ids[:-1]] == tokenizer("Sales")["input_ids"]
