"""Confidence sequences: right however often one looks, as wide as they say, and the same in any order."""

import math

import numpy as np
import pytest

from corlld.experiment.confidence import BETS, ERROR, Floats, Sample, difference_of, interval_of, log_capital, sample_of

RUNS, STEPS = 1000, 300
HOLDOUT = 0.2


def capital(outcomes: Floats, mean: float) -> float:
    """K of the module's docstring, product by product."""
    return sum(math.prod(1 - bet + bet * x / mean for x in outcomes) for bet in BETS) / len(BETS)


def test_at_a_limit_the_capital_is_one_over_the_error() -> None:
    outcomes = np.random.default_rng(1).beta(4, 6, 60).round(3)
    found = interval_of(outcomes, error=0.1)
    assert capital(outcomes, found.low) == pytest.approx(1 / 0.05, rel=1e-3)
    assert capital(1 - outcomes, 1 - found.high) == pytest.approx(1 / 0.05, rel=1e-3)
    assert found.mean == pytest.approx(outcomes.mean())


def test_without_outcomes_everything_is_possible() -> None:
    found = interval_of(np.array([]))
    assert (found.low, found.high) == pytest.approx((0, 1), abs=1e-6)
    assert math.isnan(found.mean)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_outcomes_give_a_narrow_interval_around_them(value: float) -> None:
    found = interval_of(np.full(500, value))
    assert found.low <= value <= found.high
    assert found.high - found.low < 0.03


def test_the_order_of_users_is_of_no_account() -> None:
    outcomes = np.random.default_rng(2).random(200)
    assert interval_of(outcomes) == interval_of(np.sort(outcomes))


@pytest.mark.parametrize(("users", "held_out"), [(400, 40), (60, 60), (30, 300)])
def test_a_limit_of_a_difference_is_where_the_product_is_one_over_the_error_at_its_least(
    users: int, held_out: int
) -> None:
    rng = np.random.default_rng(5)
    arm, holdout = rng.beta(3, 7, users).round(3), rng.beta(5, 5, held_out).round(3)
    found = difference_of(sample_of(holdout), sample_of(arm))
    assert found.mean == pytest.approx(holdout.mean() - arm.mean())
    assert found.low < found.mean < found.high
    for limit, left, right in ((found.low, holdout, arm), (-found.high, arm, holdout)):
        means = [mean for mean in np.linspace(0.2, 0.8, 401) if 0.2 < mean + limit < 0.8]
        least = min(capital(left, mean + limit) * capital(1 - right, 1 - mean) for mean in means)
        assert least == pytest.approx(1 / 0.025, rel=0.02)


def test_a_difference_is_known_better_than_from_two_intervals() -> None:
    rng = np.random.default_rng(6)
    arm, holdout = rng.beta(3, 7, 300), rng.beta(5, 5, 300)
    apart = [interval_of(each, ERROR / 2) for each in (holdout, arm)]
    together = difference_of(sample_of(holdout), sample_of(arm))
    assert together.low > apart[0].low - apart[1].high
    assert together.high < apart[0].high - apart[1].low


def capitals(counts: Floats, values: Floats, means: Floats) -> Floats:
    """Return log K of each sample at each mean, (B, M)."""
    logs = [counts @ np.log1p(bet * (values[:, None] / means[None, :] - 1)) for bet in BETS]
    return np.logaddexp.reduce(np.stack(logs), axis=0) - np.log(len(BETS))


def test_capitals_of_many_samples_are_those_of_the_module() -> None:
    values, means = np.array([0.0, 0.5, 1.0]), np.linspace(0.1, 0.9, 5)
    counts = np.array([[3.0, 4.0, 5.0], [0.0, 0.0, 9.0]])
    for own, found in zip(counts, capitals(counts, values, means), strict=True):
        assert found == pytest.approx(log_capital(Sample(values, own), means))


def alarms(arm: Floats, holdout: Floats, runs: int) -> float:
    """Return the share of runs in which a difference is seen at some step. Of users in turn one comes in a step.

    arm, holdout: probabilities of the outcomes 0, 1/2 and 1. A difference is seen if 0 is refuted, on either side: at
    no m of a grid both gamblers' product is below 1/error. (On a grid there are at least as many alarms as without.)
    """
    rng = np.random.default_rng(3)
    values, means = np.array([0.0, 0.5, 1.0]), np.linspace(0.02, 0.98, 33)
    is_holdout = rng.random((runs, STEPS)) < HOLDOUT
    drawn = np.where(is_holdout, rng.choice(3, (runs, STEPS), p=holdout), rng.choice(3, (runs, STEPS), p=arm))
    above, below = [], []
    for members in (~is_holdout, is_holdout):
        counts = np.stack([((drawn == place) & members).cumsum(axis=1) for place in range(3)], axis=-1)
        distinct, where = np.unique(counts.reshape(-1, 3), axis=0, return_inverse=True)
        own = distinct.astype(np.float64)
        above.append(capitals(own, values, means)[where.reshape(-1)])
        below.append(capitals(own, 1 - values, 1 - means)[where.reshape(-1)])
    seen = [(above[one] + below[other]).min(axis=1) >= -np.log(ERROR / 2) for one, other in ((0, 1), (1, 0))]
    return float((seen[0] | seen[1]).reshape(runs, STEPS).any(axis=1).mean())


def test_looking_after_every_user_gives_false_alarms_in_at_most_one_run_of_twenty() -> None:
    same = np.array([0.3, 0.4, 0.3])
    assert alarms(same, same, RUNS) <= 0.05


def test_a_large_difference_is_seen_in_nearly_every_run() -> None:
    assert alarms(np.array([0.5, 0.4, 0.1]), np.array([0.2, 0.4, 0.4]), 100) > 0.95
