"""Intervals hold what they say."""

from collections.abc import Sequence

import numpy as np
import pytest

from corlld.simulation.studies.contract import Figure
from corlld.simulation.studies.intervals import grouped_mean_figure, mean_figure, paired_difference


def test_students_interval_of_two_values_is_that_of_the_cauchy_distribution() -> None:
    # Mean 2, standard error sqrt(2) / sqrt(2) = 1; with one degree of freedom the quantile is tan(0.475 pi).
    found = mean_figure([1.0, 3.0], "")
    quantile = np.tan(0.475 * np.pi)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - quantile, 2 + quantile), rel=1e-4)


def test_with_two_degrees_of_freedom_the_quantile_has_a_closed_form() -> None:
    # Its distribution is 1/2 + t / (2 sqrt(2 + t^2)) = 0.975; standard deviation 3, of three values.
    quantile = 0.95 * np.sqrt(2 / (1 - 0.95**2))
    found = mean_figure([0.0, 3.0, 6.0], "")
    assert found.high == pytest.approx(3 + quantile * 3 / np.sqrt(3), rel=1e-5)


def test_a_single_value_has_no_interval_and_none_is_refused() -> None:
    assert mean_figure([0.5], "half") == Figure(0.5, "half")
    with pytest.raises(ValueError, match="no values"):
        mean_figure([], "")


def test_a_paired_difference_is_judged_by_the_differences_alone() -> None:
    seeds = np.array([1.0, 50.0, -20.0, 300.0])
    found = paired_difference((seeds + np.array([1.0, 1.1, 0.9, 1.0])).tolist(), seeds.tolist(), "")
    assert found.low is not None
    assert found.high is not None
    assert 0.8 < found.low < found.value < found.high < 1.2
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0], "")


@pytest.mark.parametrize("count", [3, 5, 20])
def test_students_interval_holds_the_true_mean_95_times_of_100(count: int) -> None:
    draws = np.random.default_rng(7).normal(3.0, 2.0, size=(600, count))
    assert coverage([mean_figure(draw.tolist(), "") for draw in draws], 3.0) == pytest.approx(0.95, abs=0.03)


def test_blocks_are_drawn_again_as_a_whole() -> None:
    # Of the blocks (0) and (1, 1) two are drawn: with chance 1/4 twice the first, mean 0; with 1/4 twice the second, 1.
    found = grouped_mean_figure([[[0.0], [1.0, 1.0]]], "")
    assert (found.value, found.low, found.high) == (pytest.approx(2 / 3), 0.0, 1.0)
    with pytest.raises(ValueError, match="no values"):
        grouped_mean_figure([[[], []]], "")


def test_every_group_counts_the_same_and_draws_its_own_blocks() -> None:
    """One group has mean 1 always; the other one has 0 or 4, each with chance 1/4, or else their mean 2."""
    found = grouped_mean_figure([[[1.0]] * 50, [[0.0], [4.0]]], "")
    assert (found.value, found.low, found.high) == (1.5, 0.5, 2.5)
    with pytest.raises(ValueError, match="no values"):
        grouped_mean_figure([[[1.0]], [[]]], "")
    with pytest.raises(ValueError, match="no values"):
        grouped_mean_figure([], "")


def test_the_interval_of_blocks_holds_the_true_mean_where_values_of_a_block_are_alike() -> None:
    random = np.random.default_rng(11)
    blocked, alone = [], []
    for _ in range(60):
        blocks = random.normal(0, 1, size=(50, 1)) + random.normal(0, 0.3, size=(50, 3))
        blocked.append(grouped_mean_figure([blocks.tolist()], ""))
        alone.append(grouped_mean_figure([[[value] for value in blocks.ravel().tolist()]], ""))
    assert coverage(blocked, 0.0) >= 0.9
    assert coverage(alone, 0.0) <= 0.85  # as if there were three times as many values


def coverage(figures: Sequence[Figure], truth: float) -> float:
    return float(np.mean([f.low <= truth <= f.high for f in figures if f.low is not None and f.high is not None]))
