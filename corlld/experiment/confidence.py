"""Confidence sequences for means of bounded outcomes: intervals that may be looked at after every user. Pure numpy.

Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting" (JRSS B 86:1): the diversified
Kelly bet of their appendix, with bets that do not change over time. For outcomes X_1, X_2, ... in [0, 1] and a mean m,

    K_n(m) = (1/D) sum_d prod_{i<=n} (1 - t_d + t_d X_i / m),    0 < t_d < 1

is what a gambler has who began with 1 and bet on outcomes above m. If E[X_i] <= m, no factor has a mean above 1. So K
is a supermartingale, and by Ville's inequality it ever reaches 1/a with a probability of at most a. K falls as m grows:
the m at which it is 1/a is a lower limit of the mean that is right *at all n at once* with probability 1 - a. The same
on 1 - X gives the upper limit. Hence nothing is lost by looking every day, and stopping when one likes.

What is assumed: users are independent, and the outcomes of an arm have one mean. The order of users is not: K is the
same in any order, so it is enough that each user's outcome comes once and is frozen. If the mean drifts with time, the
statement "the mean of these users is at most m" is still refuted wrongly with a probability of at most a, for any m
that is fixed beforehand: by Jensen, prod(1 - t + t E[X_i]/m) <= 1 if those means are at most m on average.

Two arms are compared by the product of two such gamblers' money: one bets that the mean of X is above m + d, the other
that the mean of Y is below m. If the difference of the means is at most d, both lose at some m, and the product there
is a supermartingale: d is refuted once the product is at least 1/a at every m.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ERROR = 0.05  # of a difference, both sides together
# Small bets win on many users, large ones on few: from 20 users to a million.
BETS = 0.9 * 0.55 ** np.arange(10)
_HALVINGS = 24  # of an interval of length 1 or 2
_POINTS, _REFINEMENTS = 17, 4  # of the search for the m where a product is least
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean or a difference, with its limits: all that the data do not refute."""

    mean: float
    low: float
    high: float


def interval_of(outcomes: Floats, error: float = ERROR) -> Interval:
    """Return what is known of the mean after these outcomes.

    Args:
        outcomes: one per user, in [0, 1], in any order. There may be none.
        error: probability of ever being wrong, both sides together.
    """
    sample = sample_of(outcomes)
    low = _lower_limit(sample, error / 2)
    return Interval(sample.mean, low, 1 - _lower_limit(sample.mirrored, error / 2))


def difference_of(left: "Sample", right: "Sample", error: float = ERROR) -> Interval:
    """Return what is known of the mean of `left` minus the mean of `right`. `error`: see `interval_of`."""
    low = _lower_difference(left, right, error / 2)
    return Interval(left.mean - right.mean, low, -_lower_difference(right, left, error / 2))


@dataclass(frozen=True, slots=True)
class Sample:
    """Outcomes of an arm's users. values: the distinct outcomes, (V,). counts: users with each, (V,)."""

    values: Floats
    counts: Floats

    @property
    def users(self) -> float:
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        """The mean outcome; NaN without users."""
        return float(self.values @ self.counts / self.users) if self.users else float("nan")

    @property
    def mirrored(self) -> "Sample":
        """The sample of 1 - outcome."""
        return Sample(1 - self.values, self.counts)


def sample_of(outcomes: Floats) -> Sample:
    """Return the sample of outcomes in [0, 1], each rounded to a thousandth: so many users are counted quickly."""
    values, counts = np.unique(outcomes.round(3), return_counts=True)
    return Sample(values, counts.astype(np.float64))


def log_capital(sample: Sample, means: Floats) -> Floats:
    """Return log K of the sample under each of M means in (0, 1], (M,)."""
    logs = np.empty((len(BETS), len(means)))
    for place, bet in enumerate(BETS):
        logs[place] = np.log1p(bet * (sample.values[None, :] / means[:, None] - 1)) @ sample.counts  # (M, V) @ (V,)
    return cast(Floats, np.logaddexp.reduce(logs, axis=0) - np.log(len(BETS)))


def _lower_limit(sample: Sample, error: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        refuted = log_capital(sample, np.array([middle]))[0] >= -np.log(error)
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _lower_difference(left: Sample, right: Sample, error: float) -> float:
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        refuted = _least_log_product(left, right, middle) >= -np.log(error)
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _least_log_product(left: Sample, right: Sample, difference: float) -> float:
    """Return the logarithm of the gamblers' product at the m where it is least, by ever finer grids around it."""
    first, last = max(0.0, -difference), min(1.0, 1 - difference)
    least = np.inf
    for _ in range(_REFINEMENTS):
        inner = np.linspace(first, last, _POINTS)
        # At the ends a mean of 0 can't be divided by.
        means = np.clip(inner, _TINY, 1 - _TINY)
        product = log_capital(left, np.clip(inner + difference, _TINY, 1.0))
        product = product + log_capital(right.mirrored, 1 - means)
        place = int(product.argmin())
        least = min(least, float(product[place]))
        first, last = inner[max(0, place - 1)], inner[min(_POINTS - 1, place + 1)]
    return least
