"""Users of the tabular world do what is said of them."""

import numpy as np
import pytest

from corlld.simulation.studies.theory.report import ALPHAS
from corlld.simulation.studies.theory.tabular_world import (
    HARM,
    Array,
    Indices,
    UserKind,
    Users,
    changed_words,
    make_worlds,
)

SEEDS = (101, 102, 103, 104)


def edits(kind: UserKind, *, harms: bool) -> tuple[Array, Indices]:
    """Utilities, (S, Y), and what becomes of every text as a draft, (S, Y)."""
    utilities = make_worlds(SEEDS).utilities[:, 0]
    texts = utilities.shape[1]
    drafts = np.tile(np.arange(texts), (len(SEEDS), 1))
    chances = np.full(len(SEEDS), 0.0 if harms else 1.0)
    return utilities, Users([kind] * texts).edit(utilities, drafts, chances)


def worth(utilities: Array, texts: Indices) -> Array:
    return np.take_along_axis(utilities, texts, 1)


def test_no_features_are_longer_than_1_and_a_world_does_not_depend_on_the_others() -> None:
    worlds = make_worlds(SEEDS)
    assert np.linalg.norm(worlds.features, axis=-1).max() == pytest.approx(1)
    assert np.linalg.norm(worlds.wishes, axis=-1) == pytest.approx(np.ones(len(SEEDS)))
    assert np.array_equal(make_worlds(SEEDS[2:]).features, worlds.features[2:])
    assert np.array_equal(make_worlds(SEEDS[2:]).wishes, worlds.wishes[2:])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_an_honest_edit_closes_its_share_of_the_gap_in_as_few_words_as_any(alpha: float) -> None:
    utilities, edited = edits(UserKind(alpha, 0.0, "scaled"), harms=True)
    needed = alpha * (utilities.max(1)[:, None] - utilities)
    gains = worth(utilities, edited) - utilities
    assert (gains >= needed - 1e-12).all()
    changed = changed_words()
    for seed in range(len(SEEDS)):
        for draft in range(utilities.shape[1]):
            enough = utilities[seed] - utilities[seed, draft] >= needed[seed, draft]
            assert changed[draft, edited[seed, draft]] == changed[draft][enough].min()
    best = utilities.argmax(1)
    assert np.array_equal(edited[np.arange(len(SEEDS)), best], best)


def test_scaled_harm_costs_what_an_honest_edit_has_to_gain_and_nothing_where_nothing_is_left() -> None:
    utilities, edited = edits(UserKind(0.3, 0.4, "scaled"), harms=True)
    gains = worth(utilities, edited) - utilities
    needed = 0.3 * (utilities.max(1)[:, None] - utilities)
    can = utilities - utilities.min(1)[:, None] >= needed
    assert (gains[can] <= -needed[can]).all()
    assert (gains[~can] >= needed[~can]).all()  # nothing is bad enough: they edit honestly
    best = utilities.argmax(1)
    assert np.array_equal(edited[np.arange(len(SEEDS)), best], best)


def test_unscaled_harm_costs_its_share_of_the_worst_case_also_at_the_best_text() -> None:
    utilities, edited = edits(UserKind(0.3, 0.4, "unscaled"), harms=True)
    gains = worth(utilities, edited) - utilities
    above = utilities - utilities.min(1)[:, None]
    assert (gains[above > 0] <= -HARM * above[above > 0]).all()


def test_harm_comes_as_often_as_epsilon_says() -> None:
    utilities = make_worlds(SEEDS[:1]).utilities[:, 0]
    users = Users([UserKind(0.3, 0.2, "unscaled")])
    draft = np.array([[int(np.argsort(utilities[0])[128])]])
    harmful = [
        worth(utilities, users.edit(utilities, draft, np.array([chance])))[0, 0] < worth(utilities, draft)[0, 0]
        for chance in (np.arange(100) + 0.5) / 100
    ]
    assert sum(harmful) == 20
