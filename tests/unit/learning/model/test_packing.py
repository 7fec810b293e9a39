from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from corlld.learning.model.attention import causal_mask
from corlld.learning.model.packing import LEAST_SHARED_TOKENS, Collator, Item, Row
from corlld.learning.model.pairs import PreferencePair
from tests.support.tiny_models import FAMILIES, SLIDING_WINDOW, make_tiny_model, tiny_resident, with_exact_norms

CPU = torch.device("cpu")
TOKENS = st.integers(min_value=5, max_value=200)
PAIRS = st.lists(
    st.builds(
        PreferencePair,
        st.lists(TOKENS, min_size=1, max_size=5).map(tuple),
        st.lists(TOKENS, min_size=1, max_size=4).map(tuple),
        st.lists(TOKENS, min_size=0, max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=6,
)


ITEMS = PAIRS.flatmap(
    lambda pairs: st.lists(st.integers(0, 2), min_size=len(pairs), max_size=len(pairs)).map(
        lambda users: [Item(user, pair) for user, pair in zip(sorted(users), pairs, strict=True)]
    )
)
PACKED, PADDED = Collator(CPU), Collator(CPU, shares_prefixes=False)


def texts(pair: PreferencePair) -> list[tuple[int, ...]]:
    return [pair.prompt + tail for tail in (pair.chosen, pair.rejected) if tail]


def one_row(items: list[Item], collator: Collator = PACKED) -> Row:
    return collator.row(items, range(len(items)), users=3)


@given(ITEMS, st.integers(min_value=1, max_value=60), st.sampled_from([PACKED, PADDED]))
def test_rows_hold_every_pair_once_by_user_and_pass_the_limit_only_for_a_single_pair(
    items: list[Item], limit: int, collator: Collator
) -> None:
    rows = collator.pack(items, limit, users=3)
    assert sorted(member for row in rows for member in row.members) == list(range(len(items)))
    for row in rows:
        assert [items[member] for member in row.members] == list(row.items)
        assert [item.user for item in row.items] == sorted(item.user for item in row.items)
        assert sum(row.users) == row.tokens
        assert sum(item.pair.tokens for item in row.items) <= limit or len(row.items) == 1
        needed = sum(len(text) for item in row.items for text in texts(item.pair))
        assert row.padding == (0 if collator is PACKED else row.tokens - needed)
    for row, following in pairwise(rows):
        assert sum(item.pair.tokens for item in (*row.items, items[min(following.members)])) > limit


@given(ITEMS, st.sampled_from([None, 1, 2, 3, 6]))
def test_each_token_sees_exactly_what_it_would_see_in_its_own_text(items: list[Item], window: int | None) -> None:
    """Read back from segments, tails and masks what each token sees, and compare with plain rows of prompt + tail."""
    row = one_row(items)
    assert row.segments is not None
    assert row.position_ids is not None
    bounds = list(accumulate(row.segments.lengths, initial=0))
    expected = {
        (item.user, text[: depth + 1]) for item in row.items for text in texts(item.pair) for depth in range(len(text))
    }
    users = [user for user, count in enumerate(row.users) for _ in range(count)]
    found = set()
    place = 0
    for tail in row.segments.tails:
        seen = [token for number in tail.segments for token in range(bounds[number], bounds[number + 1])]
        queries = sum(row.segments.lengths[number] for number in tail.segments[-tail.own :])
        assert seen[-queries:] == list(range(place, place + queries))  # end to end, in the row's order
        mask = causal_mask(queries, len(seen), window, torch.zeros(()))
        for query in range(queries):
            depth = int(row.position_ids[0, place])
            text = tuple(int(row.input_ids[0, token]) for token in seen[: depth + 1])
            visible = [key for key in range(len(seen)) if mask[query, key] == 0]
            assert visible == list(range(0 if window is None else max(0, depth - window + 1), depth + 1))
            assert {users[token] for token in seen} == {users[place]}
            found.add((users[place], text))
            place += 1
    assert place == row.tokens
    assert found == expected


@given(ITEMS, st.sampled_from([PACKED, PADDED]))
def test_every_tail_token_is_predicted_from_the_token_before_it_in_its_own_text(
    items: list[Item], collator: Collator
) -> None:
    row = one_row(items, collator)
    expected = []
    for item in row.items:
        for tail in (item.pair.chosen, item.pair.rejected):
            text = item.pair.prompt + tail
            expected += [(text[i - 1], text[i]) for i in range(len(item.pair.prompt), len(text))]
    flat = row.input_ids.flatten()
    predictions = row.predictions
    found = [
        (int(flat[row.states[state]]), int(target))
        for state, target in zip(predictions.states, predictions.targets, strict=True)
    ]
    assert found == expected
    assert len(set(row.states.tolist())) == len(row.states)
    for state, targets in enumerate(predictions.of_state.tolist()):
        mine = [index for index in targets if index < len(found)]
        assert mine == [index for index, of in enumerate(predictions.states.tolist()) if of == state]


def test_one_users_prompts_with_a_common_beginning_are_computed_once_and_other_users_apart() -> None:
    beginning = tuple(range(10, 10 + LEAST_SHARED_TOKENS))
    pairs = [
        PreferencePair((*beginning, 60), (61,), (62,)),
        PreferencePair(tuple(range(100, 120)), (121,), (122,)),
        PreferencePair(beginning, (71,), (72,)),
    ]
    own, other = [Item(0, pair) for pair in pairs], [Item(1, pairs[0])]
    row = one_row(own + other)
    assert row.members == (0, 2, 1, 3)
    plain = sum(pair.tokens for pair in pairs)
    assert row.users == (plain - len(beginning), pairs[0].tokens, 0)


def test_sums_are_taken_over_each_tail_and_are_zero_for_the_missing_one_of_an_acceptance() -> None:
    pairs = [PreferencePair((1,), (2, 3), (4,)), PreferencePair((1,), (5, 6, 7), ())]
    row = one_row([Item(0, pair) for pair in pairs])
    logps = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    chosen, rejected = row.sums(logps)
    assert chosen.tolist() == [1 + 2, 8 + 16 + 32]
    assert rejected.tolist() == [4, 0]
    assert [tail.tolist() for tail in row.tails(logps)] == [[1, 2, 4], [8, 16, 32]]


@pytest.mark.parametrize("collator", [PACKED, PADDED], ids=["packed", "padded"])
def test_changed_sums_leave_out_the_tokens_that_the_tails_share_and_are_whole_for_an_acceptance(
    collator: Collator,
) -> None:
    pairs = [
        PreferencePair((1,), (2, 3), (4, 3)),
        PreferencePair((1,), (5, 6, 7), ()),
        PreferencePair((8,), (9,), (6, 9)),
    ]
    row = one_row([Item(0, pair) for pair in pairs], collator)
    chosen, rejected = row.changed_sums(torch.tensor([2.0**n for n in range(10)]))
    assert chosen.tolist() == [1, 16 + 32 + 64, 128]  # 9 stands for the 6 that was taken out
    assert rejected.tolist() == [4, 0, 256]


@given(ITEMS, st.sampled_from([PACKED, PADDED]), st.integers(0, 2**32))
def test_where_all_tokens_differ_changed_sums_are_the_bits_of_the_tails(
    items: list[Item], collator: Collator, seed: int
) -> None:
    apart = [replace(item, pair=replace(item.pair, rejected=tuple(-t for t in item.pair.rejected))) for item in items]
    row = one_row(apart, collator)
    logps = torch.randn(sum(row.tail_lengths), generator=torch.Generator().manual_seed(seed))
    for changed, tail in zip(row.changed_sums(logps), row.sums(logps), strict=True):
        assert torch.equal(changed, tail)


def test_a_row_is_halved_with_its_members() -> None:
    items = [Item(0, PreferencePair((n,), (n + 1,), (n + 2,))) for n in (1, 11, 21)]
    left, right = PACKED.halves(items, PACKED.row(items, [0, 1, 2], users=2))
    assert left.members == (0,)
    assert right.members == (1, 2)
    assert right.items == tuple(items[1:])
    assert right.users == (6, 0)


@pytest.mark.parametrize("shares_prefixes", [True, False], ids=["packed", "two-rows"])
@pytest.mark.parametrize("family", [*FAMILIES, "mistral", "gemma2", "cohere"])
def test_a_row_gives_the_log_probabilities_of_plain_texts_in_every_family(
    tmp_path: Path, family: str, shares_prefixes: bool
) -> None:
    folder = make_tiny_model(tmp_path, family)
    resident = tiny_resident(folder, dtype=torch.float64, exact_norms=True)
    attention = "eager" if family == "gemma2" else "sdpa"  # sdpa has no soft cap
    plain_model = with_exact_norms(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation=attention)
    )
    generator = torch.Generator().manual_seed(7)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(6, 260, (count,), generator=generator).tolist())

    pairs = [PreferencePair(ids(2 * SLIDING_WINDOW), ids(5), ids(SLIDING_WINDOW + 3)) for _ in range(2)]
    beginning = ids(LEAST_SHARED_TOKENS + 2)
    pairs += [PreferencePair(beginning + ids(count), ids(3), ids(4)) for count in (0, 2, 2)]
    row = Collator(CPU, shares_prefixes).row([Item(0, pair) for pair in pairs], range(len(pairs)), users=1)
    packed = resident.scored(row, None)
    plain = []
    with torch.no_grad():
        for item in row.items:
            for text in texts(item.pair):
                logits = plain_model(input_ids=torch.tensor([text]), use_cache=False).logits[0].log_softmax(-1)
                plain += [float(logits[i - 1, text[i]]) for i in range(len(item.pair.prompt), len(text))]
    assert packed.dtype == torch.float64
    # transformers takes Gemma 2's softmax and Cohere's norms in float32, whatever the model's dtype.
    atol = 1e-5 if family in ("gemma2", "cohere") else 1e-10
    torch.testing.assert_close(packed, torch.tensor(plain, dtype=torch.float64), rtol=0, atol=atol)
