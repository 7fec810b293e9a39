from itertools import accumulate
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corlld.learning import scoring
from corlld.learning.collate import Row, make_row, pack
from corlld.learning.pairs import PreferencePair
from corlld.learning.scoring import token_logps
from tests.tiny_models import FAMILIES, SLIDING_WINDOW, make_tiny_model, tiny_resident

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


def texts(pair: PreferencePair) -> list[tuple[int, ...]]:
    return [pair.prompt + tail for tail in (pair.chosen, pair.rejected)]


@given(PAIRS, st.integers(min_value=1, max_value=40))
def test_rows_hold_every_pair_once_in_order_and_pass_the_limit_only_for_a_single_pair(
    pairs: list[PreferencePair], limit: int
) -> None:
    rows = pack(pairs, limit, CPU)
    assert [pair for row in rows for pair in row.pairs] == pairs
    assert [member for row in rows for member in row.members] == list(range(len(pairs)))
    for row in rows:
        assert row.input_ids.shape == (1, sum(pair.tokens for pair in row.pairs))  # no padding
        assert row.input_ids.shape[1] <= limit or len(row.pairs) == 1


@given(PAIRS, st.sampled_from([None, 1, 2, 3, 6]))
def test_each_token_sees_exactly_what_it_would_see_in_its_own_text(
    pairs: list[PreferencePair], window: int | None
) -> None:
    """Read back from the mask what a token sees, and compare with a plain causal row of prompt + tail."""
    row = make_row(pairs, range(len(pairs)), CPU)
    allowed, ids, positions = row.allowed(window), row.input_ids[0], row.position_ids[0]
    start = 0
    for pair in pairs:
        prompt_end, chosen_end = start + len(pair.prompt), start + len(pair.prompt) + len(pair.chosen)
        end = start + pair.tokens
        for text, own in zip(texts(pair), (range(prompt_end, chosen_end), range(chosen_end, end)), strict=True):
            for place in (*range(start, prompt_end), *own):
                seen = allowed[place].nonzero()[:, 0].tolist()
                depth = int(positions[place])
                first = 0 if window is None else max(0, depth - window + 1)
                assert [int(ids[i]) for i in seen] == list(text[first : depth + 1])
                assert [int(positions[i]) for i in seen] == list(range(first, depth + 1))
        start = end


@given(PAIRS)
def test_every_tail_token_is_predicted_from_the_token_before_it_in_its_own_text(pairs: list[PreferencePair]) -> None:
    row = make_row(pairs, range(len(pairs)), CPU)
    expected = []
    for pair in pairs:
        for tail in (pair.chosen, pair.rejected):
            text = pair.prompt + tail
            expected += [(text[i - 1], i - 1, text[i]) for i in range(len(pair.prompt), len(text))]
    found = [
        (int(row.input_ids[0, place]), int(row.position_ids[0, place]), int(target))
        for place, target in zip(row.predict, row.targets, strict=True)
    ]
    assert found == expected
    assert list(accumulate(row.lengths))[-1] == len(expected)


def test_sums_are_taken_over_each_tail_and_are_zero_for_the_missing_one_of_an_acceptance() -> None:
    pairs = [PreferencePair((1,), (2, 3), (4,)), PreferencePair((1,), (5, 6, 7), ())]
    row = make_row(pairs, [0, 1], CPU)
    chosen, rejected = row.sums(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    assert chosen.tolist() == [1 + 2, 8 + 16 + 32]
    assert rejected.tolist() == [4, 0]


def test_a_row_is_halved_with_its_members() -> None:
    pairs = [PreferencePair((n,), (n + 1,), (n + 2,)) for n in (1, 11, 21)]
    left, right = make_row(pairs, [4, 5, 6], CPU).halves()
    assert (left.pairs, left.members) == ((pairs[0],), (4,))
    assert (right.pairs, right.members) == ((pairs[1], pairs[2]), (5, 6))


@pytest.mark.parametrize("family", [*FAMILIES, "mistral"])
def test_a_packed_row_gives_the_log_probabilities_of_plain_rows_in_every_family(tmp_path: Path, family: str) -> None:
    resident = tiny_resident(make_tiny_model(tmp_path, family), dtype=torch.float64, exact_norms=True)
    generator = torch.Generator().manual_seed(7)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(6, 260, (count,), generator=generator).tolist())

    pairs = [PreferencePair(ids(2 * SLIDING_WINDOW), ids(5), ids(SLIDING_WINDOW + 3)) for _ in range(3)]
    row: Row = make_row(pairs, range(3), CPU)
    with torch.no_grad():
        packed = token_logps(resident.model, resident.windows, row)
        plain = []
        for pair in pairs:
            for text in texts(pair):
                logits = resident.model(input_ids=torch.tensor([text]), use_cache=False).logits[0].log_softmax(-1)
                plain += [float(logits[i - 1, text[i]]) for i in range(len(pair.prompt), len(text))]
    assert packed.dtype == torch.float64
    torch.testing.assert_close(packed, torch.tensor(plain, dtype=torch.float64), rtol=0, atol=1e-10)


def test_logits_handled_a_few_tokens_at_a_time_give_cross_entropy_and_its_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens, vocabulary = 7, 11
    monkeypatch.setattr(scoring, "_LOGITS_AT_A_TIME", 3 * vocabulary)  # slices of 3, 3 and 1
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    ours = (5 * torch.randn(tokens, vocabulary, generator=generator, dtype=torch.float64)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    upstream = torch.randn(tokens, generator=generator, dtype=torch.float64)

    logps = scoring._TargetLogps.apply(ours, targets)
    expected = -torch.nn.functional.cross_entropy(theirs, targets, reduction="none")
    torch.testing.assert_close(logps, expected, rtol=0, atol=1e-13)
    torch.autograd.backward(logps, upstream)
    expected.backward(upstream)  # type: ignore[no-untyped-call] # untyped in torch
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-13)
    half = scoring._TargetLogps.apply(ours.detach().bfloat16(), targets)
    assert half.dtype == torch.float32
