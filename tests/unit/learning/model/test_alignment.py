"""The alignment of two tails: expected masks by hand, and beside a plain table of edit distances."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corlld.learning.model.alignment import changed_tokens

IDS = st.lists(st.integers(1, 5), max_size=9)  # few, so that many are equal


def marked(chosen: str, rejected: str) -> tuple[str, str]:
    """The words that are changed, in both texts."""
    both = chosen.split(), rejected.split()
    numbers = {word: number for number, word in enumerate({*both[0], *both[1]})}
    mask = changed_tokens(*([numbers[word] for word in words] for words in both))
    assert len(mask) == len(both[0]) + len(both[1])
    found = [word for word, changed in zip(both[0] + both[1], mask, strict=True) if changed]
    put_in = sum(mask[: len(both[0])])
    return " ".join(found[:put_in]), " ".join(found[put_in:])


@pytest.mark.parametrize(
    ("chosen", "rejected", "put_in", "taken_out"),
    [
        pytest.param("the large cat .", "the big cat .", "large", "big", id="a word is replaced"),
        pytest.param("the huge black cat .", "the big cat .", "huge black", "big", id="by two words"),
        pytest.param("the cat .", "the big cat .", "cat", "big", id="taken out: the next word stands for it"),
        pytest.param("the large cat .", "the cat .", "large", "cat", id="put in: the next word stands for it"),
        pytest.param("the cat .", "the cat sat .", ".", "sat", id="taken out at the end"),
        pytest.param("the cat", "the cat sat", "", "sat", id="cut off where it was taken out"),
        pytest.param("the cat sat", "the cat", "sat", "", id="put in where it was cut off"),
        pytest.param("a b c .", "x b z .", "a c", "x z", id="two changes"),
        pytest.param("b c d .", "a b c x d .", "b d", "a x", id="two words are taken out"),
        pytest.param("a b c", "x y", "a b c", "x y", id="all words differ"),
        pytest.param("a p q r", "x y z a", "a p q r", "x y z a", id="the same word far away is another word"),
    ],
)
def test_the_words_that_are_changed(chosen: str, rejected: str, put_in: str, taken_out: str) -> None:
    assert marked(chosen, rejected) == (put_in, taken_out)


def test_of_an_acceptance_every_token_counts() -> None:
    assert changed_tokens((1, 2, 3), ()) == (True, True, True)


@given(IDS, IDS)
def test_no_alignment_needs_fewer_changes_and_a_missing_side_has_the_token_after_it(
    chosen: list[int], rejected: list[int]
) -> None:
    mask = changed_tokens(chosen, rejected)
    assert mask in {masks_of(path, len(chosen), len(rejected)) for path in cheapest_paths(chosen, rejected)}


@given(st.lists(st.integers(0, 9), max_size=40), st.lists(st.integers(10, 19), max_size=40))
def test_if_all_tokens_differ_all_are_changed(chosen: list[int], rejected: list[int]) -> None:
    assert all(changed_tokens(chosen, rejected))


def cheapest_paths(chosen: Sequence[int], rejected: Sequence[int]) -> list[tuple[tuple[int, int], ...]]:
    """Every alignment with the fewest insertions, deletions and replacements, as its pairs of equal tokens.

    The plain table: the cheapest ways to bring the first i tokens and the first j tokens together.
    """
    table: dict[tuple[int, int], tuple[int, set[tuple[tuple[int, int], ...]]]] = {}
    for i in range(len(chosen) + 1):
        for j in range(len(rejected) + 1):
            ways = [(0, {()})] if i == j == 0 else []
            if i and j and chosen[i - 1] == rejected[j - 1]:
                cost, paths = table[i - 1, j - 1]
                ways.append((cost, {(*path, (i - 1, j - 1)) for path in paths}))
            steps = [(i - 1, j), (i, j - 1), (i - 1, j - 1)]
            ways += [(table[step][0] + 1, table[step][1]) for step in steps if min(step) >= 0]
            least = min(cost for cost, _ in ways)
            table[i, j] = least, set().union(*(paths for cost, paths in ways if cost == least))
    return list(table[len(chosen), len(rejected)][1])


def masks_of(path: Sequence[tuple[int, int]], chosen: int, rejected: int) -> tuple[bool, ...]:
    """The mask of an alignment, token by token: unpaired, or the first after a place where its own text has nothing."""
    put_in = [i not in {a for a, _ in path} for i in range(chosen)]
    taken_out = [j not in {b for _, b in path} for j in range(rejected)]
    before = (-1, -1)
    for i, j in path:
        missing = i - before[0] == 1, j - before[1] == 1
        if missing != (True, True):
            put_in[i] |= missing[0]
            taken_out[j] |= missing[1]
        before = i, j
    return (*put_in, *taken_out)
