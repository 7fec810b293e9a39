import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corlld.learning.model.control_tokens import ControlTokens

TOKENS = ("<s>", "</s>", "<|end|>", "<|end|>>", "[X]", "[[X", "@")
CONTROL = ControlTokens({token: index for index, token in enumerate(TOKENS)})
texts = st.lists(st.sampled_from([*TOKENS, "<", "s", ">", "|end|>", "[", "X]", "a", " ", "\n", "é"])).map("".join)
words = st.recursive(
    texts | st.integers() | st.booleans() | st.none(),
    lambda own: st.lists(own, max_size=3) | st.dictionaries(texts, own, max_size=3),
    max_leaves=6,
)


def test_tokens_are_found_from_left_to_right_and_the_longest_first() -> None:
    assert list(CONTROL.find("a<s>b</s><|end|>>c<|end|>[[X]@")) == ["<s>", "</s>", "<|end|>>", "<|end|>", "[[X", "@"]
    assert list(CONTROL.find("a < s > <|end")) == []


@given(text=texts)
def test_a_disguised_text_has_no_token_and_comes_back_as_it_was(text: str) -> None:
    for every in (False, True):
        disguised = CONTROL.disguise(text, every=every)
        assert not list(CONTROL.find(disguised))
        assert CONTROL.reveal(disguised) == text


@given(parts=st.lists(texts, max_size=4))
def test_texts_that_a_template_trims_and_joins_make_no_token(parts: list[str]) -> None:
    joined = "".join(part.strip() for part in CONTROL.disguise(parts))
    assert not list(CONTROL.find(joined))
    assert CONTROL.reveal(joined) == "".join(part.strip() for part in parts)


@given(value=words)
def test_texts_are_disguised_at_any_depth_and_nothing_else_changes(value: Any) -> None:
    disguised = json.dumps(CONTROL.disguise(value), ensure_ascii=False)
    assert not list(CONTROL.find(disguised))
    assert CONTROL.reveal(disguised) == json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("text", ["a plain text", "a < b > c", "[x] | {y}", "2 </ 3 s>t", ""])
def test_a_harmless_text_is_left_as_it_is(text: str) -> None:
    assert CONTROL.disguise(text) == text


def test_a_templates_own_tokens_become_nonces_that_differ_from_start_to_start() -> None:
    text = CONTROL.reveal("<s>" + CONTROL.disguise("<s>"))
    assert text == CONTROL.nonces["<s>"] + "<s>"
    assert len(set(CONTROL.nonces.values())) == len(TOKENS)
    assert ControlTokens(CONTROL.ids).nonces["<s>"] != CONTROL.nonces["<s>"]


def calls_in(work: Callable[[], object]) -> int:
    """Return how many functions of Python, and steps of generators, the work takes."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_a_text_takes_no_step_for_each_character_that_only_looks_like_the_beginning_of_a_token() -> None:
    control = ControlTokens({"<s>": 0, "</s>": 1, "<|im_start|>": 2})

    def both_ways(text: str) -> None:
        control.disguise(text, every=True)
        control.reveal(control.disguise(text))

    line = "<div class='a'><p>5 < 6 <b>12 %</b></p></div>\n"
    assert calls_in(lambda: both_ways(line * 100)) == calls_in(lambda: both_ways(line))


def test_a_text_that_holds_no_part_of_a_token_takes_two_steps() -> None:
    control = ControlTokens({"<|im_start|>": 0, "</s>": 1})
    texts = ["description", "string", "a line\n", "m"] * 100
    assert calls_in(lambda: control.disguise(texts)) <= 2 * len(texts) + 10
