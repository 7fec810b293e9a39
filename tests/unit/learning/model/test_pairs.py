from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from corlld.errors import RejectReason
from corlld.learning.model.pairs import NoPair, PairEncoder, PreferencePair
from corlld.records import EditEvent, Message
from tests.support.tiny_models import TURN_END, make_tiny_model
from tests.support.tokenizer_shapes import make_tokenizer

EVENT = EditEvent(
    event_id="e",
    user_id="u",
    occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
    prompt="Say: ",
    messages=None,
    proposed="see you on friday",
    edited="see you on monday",
)
CHAT = replace(EVENT, prompt=None, messages=(Message("user", "When?"),))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("chat"), chat_template=True))


def encode(tokenizer: Any, event: EditEvent, **limits: Any) -> PreferencePair | NoPair | RejectReason:
    return PairEncoder(tokenizer, **({"max_context_tokens": 1000, "max_response_tokens": 1000} | limits)).encode(event)


def pair_of(tokenizer: Any, event: EditEvent, **limits: Any) -> PreferencePair:
    pair = encode(tokenizer, event, **limits)
    assert isinstance(pair, PreferencePair)
    return pair


def ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_pair_is_the_context_with_the_common_prefix_and_two_tails_that_differ_at_once(tokenizer: Any) -> None:
    pair = pair_of(tokenizer, EVENT)
    eos = (tokenizer.eos_token_id,)
    context = (tokenizer.bos_token_id, *ids(tokenizer, "Say: "))
    assert pair.prompt + pair.chosen == context + ids(tokenizer, EVENT.edited) + eos
    assert pair.prompt + pair.rejected == context + ids(tokenizer, EVENT.proposed) + eos
    assert pair.chosen[0] != pair.rejected[0]
    assert len(pair.prompt) == len(context) + len(ids(tokenizer, "see you on "))


def test_the_context_is_encoded_alone_so_that_no_token_spans_its_end(tokenizer: Any) -> None:
    pair = pair_of(tokenizer, replace(EVENT, prompt="t", proposed="he", edited="her"))
    assert len(ids(tokenizer, "the")) == 1  # together they would be one
    assert pair.prompt[:2] == (tokenizer.bos_token_id, *ids(tokenizer, "t"))


def test_where_one_response_begins_with_all_of_the_other_its_end_token_is_the_tail(tokenizer: Any) -> None:
    pair = pair_of(tokenizer, replace(EVENT, edited=EVENT.proposed + "!"))
    assert pair.rejected == (tokenizer.eos_token_id,)
    assert pair.chosen == (*ids(tokenizer, "!"), tokenizer.eos_token_id)


def test_a_truncated_draft_and_its_edit_have_no_end_token_and_a_tail_each_all_the_same(tokenizer: Any) -> None:
    pair = pair_of(tokenizer, replace(EVENT, edited=EVENT.proposed + "!", truncated=True))
    last = ids(tokenizer, EVENT.proposed)[-1]
    assert pair.rejected == (last,)
    assert pair.chosen == (last, *ids(tokenizer, "!"))


def test_an_empty_response_is_its_end_token_even_where_the_draft_is_said_to_be_truncated(tokenizer: Any) -> None:
    for truncated in (False, True):
        pair = pair_of(tokenizer, replace(EVENT, edited="", truncated=truncated))
        assert pair.chosen == (tokenizer.eos_token_id,)


def test_texts_that_differ_while_their_ids_do_not_make_no_pair(tokenizer: Any) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert encode(tokenizer, replace(EVENT, proposed=composed, edited=decomposed)) is NoPair.NO_DIFFERENCE


def test_a_response_over_its_limit_is_too_long_and_never_cut(tokenizer: Any) -> None:
    tokens = len(ids(tokenizer, EVENT.edited)) + 1
    assert isinstance(encode(tokenizer, EVENT, max_response_tokens=tokens), PreferencePair)
    assert encode(tokenizer, EVENT, max_response_tokens=tokens - 1) is RejectReason.TOO_LONG


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_context_over_its_limit_is_cut_at_its_left_and_keeps_its_bos(tokenizer: Any, limit: int) -> None:
    full, cut = pair_of(tokenizer, EVENT), pair_of(tokenizer, EVENT, max_context_tokens=limit)
    context = (tokenizer.bos_token_id, *ids(tokenizer, "Say: "))
    shared = full.prompt[len(context) :]
    assert cut.prompt == context[:1] + context[len(context) - limit + 1 :] + shared
    assert (cut.chosen, cut.rejected) == (full.chosen, full.rejected)


def test_context_and_response_fit_the_positions_that_the_model_has(tokenizer: Any) -> None:
    longest = max(len(ids(tokenizer, text)) + 1 for text in (EVENT.proposed, EVENT.edited))
    pair = pair_of(tokenizer, EVENT, max_positions=longest + 3)
    assert max(len(pair.prompt) + len(tail) for tail in (pair.chosen, pair.rejected)) == longest + 3
    assert encode(tokenizer, EVENT, max_positions=longest) is RejectReason.TOO_LONG


def test_messages_are_rendered_with_a_generation_prompt_and_end_with_the_templates_end_of_turn(tokenizer: Any) -> None:
    pair = pair_of(tokenizer, CHAT)
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    rendered = tokenizer.decode(pair.prompt)
    assert rendered == f"<s><|turn>user\nWhen?{TURN_END}\n<|turn>assistant\nsee you on "
    assert pair.chosen[-1] == pair.rejected[-1] == turn_end
    assert pair.prompt.count(tokenizer.bos_token_id) == 1


def test_a_draft_ends_with_the_beginning_of_the_next_turn_if_the_model_stops_there() -> None:
    # As GLM-4's: the template writes nothing after an answer.
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    tokenizer = make_tokenizer("byte-level", template)
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    for stops, end in (({user}, user), (set(), tokenizer.eos_token_id)):
        pair = pair_of(tokenizer, CHAT, stops=stops)
        assert pair.chosen[-1] == pair.rejected[-1] == end


def test_messages_that_the_template_refuses_are_rejected(tokenizer: Any) -> None:
    assert encode(tokenizer, replace(CHAT, messages=(Message("oracle", "?"),))) is RejectReason.UNRENDERABLE


def test_a_token_that_the_model_has_no_embedding_for_is_rejected(tokenizer: Any) -> None:
    highest = max(*ids(tokenizer, EVENT.edited), *ids(tokenizer, EVENT.proposed), *ids(tokenizer, "Say: "))
    assert isinstance(encode(tokenizer, EVENT, vocabulary=highest + 1), PreferencePair)
    assert encode(tokenizer, EVENT, vocabulary=highest) is RejectReason.UNRENDERABLE


def test_an_acceptance_is_one_whole_text(tokenizer: Any) -> None:
    pair = pair_of(tokenizer, replace(EVENT, edited=EVENT.proposed))
    assert pair.is_acceptance
    assert pair.chosen == (*ids(tokenizer, EVENT.proposed), tokenizer.eos_token_id)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_empty_prompt_still_gives_the_first_token_something_to_follow(tmp_path: Path, family: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(tmp_path, family))
    bos = tokenizer.bos_token_id
    assert pair_of(tokenizer, replace(EVENT, prompt="", proposed="a", edited="b")).prompt == (bos,)
    tokenizer.backend_tokenizer.post_processor = None  # now it adds no bos of its own
    assert tokenizer("")["input_ids"] == []
    assert pair_of(tokenizer, replace(EVENT, prompt="", proposed="a", edited="b")).prompt == (bos,)
    tokenizer.bos_token = None
    assert pair_of(tokenizer, replace(EVENT, prompt="", proposed="a", edited="b")).prompt == (tokenizer.eos_token_id,)


def test_half_a_surrogate_pair_is_no_error(tokenizer: Any) -> None:
    assert isinstance(encode(tokenizer, replace(EVENT, prompt="\ud800", edited="\udfff")), PreferencePair)
