"""Users of the language world: their utility, and their edits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corlld.simulation.language.grammar import (
    PROMPTS,
    SENTENCES,
    WORDS,
    parse,
    words_in,
    words_of,
)
from corlld.simulation.language.users import User, Utility

UTILITY = Utility(7)


WORD = st.integers(0, len(WORDS) - 1)


DRAFTS = st.one_of(
    st.integers(0, len(SENTENCES) - 1).map(lambda number: words_in(SENTENCES[number])),
    st.lists(WORD, max_size=8).map(tuple),
)


RNG = np.random.default_rng(0)


def _user(*, alpha: float = 0.3, harm_rate: float = 0.0, unscaled: bool = False) -> User:
    return User(UTILITY, alpha, harm_rate, "unscaled" if unscaled else "scaled")


def _value(prompt: int, words: tuple[int, ...]) -> float:
    return UTILITY.of(PROMPTS[prompt], parse(words))


def test_utility_runs_from_the_worst_sentence_to_the_best_one() -> None:
    assert UTILITY.of_sentences.min(1) == pytest.approx(np.zeros(len(PROMPTS)))
    assert UTILITY.of_sentences.max(1) == pytest.approx(np.ones(len(PROMPTS)))
    for number in (0, 23):
        assert _value(number, words_in(SENTENCES[321])) == pytest.approx(UTILITY.of_sentences[number, 321])


def test_a_verb_of_the_wrong_gender_and_a_misplaced_word_cost() -> None:
    right = words_in(SENTENCES[0])
    wrong = tuple(word + 1 if word in words_of(3) else word for word in right)  # the other form of the same stem
    assert _value(0, wrong) < _value(0, right)
    assert _value(0, (*right, right[0])) < _value(0, right)


@given(prompt=st.integers(0, len(PROMPTS) - 1), draft=DRAFTS, alpha=st.sampled_from([0.1, 0.3, 1.0]))
def test_no_smaller_edit_would_have_closed_the_share_of_the_gap(
    prompt: int, draft: tuple[int, ...], alpha: float
) -> None:
    answer = _user(alpha=alpha).edit(PROMPTS[prompt], draft, RNG)
    now = _value(prompt, draft)
    assert answer.gap == pytest.approx(1 - now)
    assert answer.gain == pytest.approx(_value(prompt, answer.chosen) - now)
    assert answer.gain >= alpha * answer.gap - 1e-6
    if answer.gain:
        changes = (np.array(parse(draft).places) != SENTENCES).sum(1)
        enough = UTILITY.of_sentences[prompt] - now >= alpha * answer.gap
        own = (np.array(parse(draft).places) != np.array(parse(answer.chosen).places)).sum()
        assert own == changes[enough].min()


@given(prompt=st.integers(0, len(PROMPTS) - 1), draft=DRAFTS)
def test_harm_is_scaled_with_the_gap_or_with_what_there_is_to_lose(prompt: int, draft: tuple[int, ...]) -> None:
    now = _value(prompt, draft)
    scaled = _user(harm_rate=1.0).edit(PROMPTS[prompt], draft, RNG)
    assert scaled.gain == 0 or scaled.gain <= -0.3 * (1 - now) + 1e-6
    unscaled = _user(harm_rate=1.0, unscaled=True).edit(PROMPTS[prompt], draft, RNG)
    if now > 1e-6:
        assert unscaled.gain <= -0.3 * now + 1e-6


def test_the_best_sentence_is_accepted_but_by_unscaled_harm() -> None:
    best = words_in(SENTENCES[UTILITY.of_sentences[3].argmax()])
    assert _user().edit(PROMPTS[3], best, RNG).chosen == best
    assert _user(harm_rate=1.0).edit(PROMPTS[3], best, RNG).chosen == best
    assert _value(3, _user(harm_rate=1.0, unscaled=True).edit(PROMPTS[3], best, RNG).chosen) <= 0.7


def test_of_two_drafts_the_better_one_is_preferred_unless_it_harms() -> None:
    order = UTILITY.of_sentences[5].argsort()
    low, high = words_in(SENTENCES[order[0]]), words_in(SENTENCES[order[-1]])
    for drafts in ((low, high), (high, low)):
        honest = _user().prefer(PROMPTS[5], *drafts, RNG)
        assert (honest.rejected, honest.chosen, honest.gain) == (low, high, pytest.approx(1))
        harmful = _user(harm_rate=1.0).prefer(PROMPTS[5], *drafts, RNG)
        assert (harmful.rejected, harmful.chosen, harmful.gain) == (high, low, pytest.approx(-1))
    assert _user().prefer(PROMPTS[5], low, low, RNG).gain == 0
