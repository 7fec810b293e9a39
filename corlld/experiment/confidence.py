"""Confidence sequences for means of bounded outcomes: intervals that may be looked at after every user. Pure numpy.

Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting" (JRSS B 86:1): the diversified
Kelly bet of their appendix, with bets that do not change over time. For outcomes X_1, X_2, ... in [0, 1] and a mean m,

    K_n(m) = (1/D) sum_d prod_{i<=n} (1 - t_d + t_d X_i / m),    0 < t_d < 1

is what a gambler has who began with 1 and bet on outcomes above m. If E[X_i] <= m, no factor has a mean above 1, so K is
a supermartingale, and by Ville's inequality it ever reaches 1/a with a probability of at most a. K falls as m grows:
the m at which it is 1/a is a lower limit of the mean that is right *at all n at once* with probability 1 - a. The same
on 1 - X gives the upper limit. Hence nothing is lost by looking every day, and stopping when one likes.

What is assumed: users are independent, and the outcomes of an arm have one mean. The order of users is not: K is the
same in any order, so it is enough that each user's outcome comes once and is frozen. If the mean drifts with time, the
statement "the mean of these users is at most m" is still refuted wrongly with a probability of at most a, for any m that
is fixed beforehand: prod(1 - t + t E[X_i]/m) <= 1 if those means are at most m on average.

Two arms are compared by one sequence each, at half of the error: their difference lies between the difference of the
limits (union bound).
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ERROR = 0.05  # of a difference, both sides together
# Small bets win on many users, large ones on few: from 20 users to a million.
BETS = 0.9 * 0.55 ** np.arange(10)
_HALVINGS = 40  # of an interval of length 1


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean or a difference, with its limits: all that the data do not refute."""

    mean: float
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    def minus(self, other: "Interval") -> "Interval":
        """Return the interval of the difference of two independent means."""
        return Interval(self.mean - other.mean, self.low - other.high, self.high - other.low)


def interval_of(outcomes: Floats, error: float = ERROR / 2) -> Interval:
    """Return the confidence sequence's interval after these outcomes.

    Args:
        outcomes: one per user, in [0, 1], in any order. There may be none.
        error: probability of ever being wrong, both sides together.
    """
    values, counts = np.unique(outcomes, return_counts=True)
    low = lower_limits(values, counts[None, :], error / 2)[0]
    high = 1 - lower_limits(1 - values, counts[None, :], error / 2)[0]
    return Interval(float(outcomes.mean()) if len(outcomes) else float("nan"), float(low), float(high))


def lower_limits(values: Floats, counts: npt.NDArray[np.int64], error: float) -> Floats:
    """Return the lower limit of the mean for each of B samples, (B,).

    Args:
        values: the V distinct outcomes, in [0, 1].
        counts: how often each sample has each of them, (B, V).
        error: probability that the limit is ever above the mean.
    """
    low, high = np.zeros(len(counts)), np.ones(len(counts))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        refuted = _log_capital(values, counts, middle) >= -np.log(error)
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return low


def _log_capital(values: Floats, counts: npt.NDArray[np.int64], means: Floats) -> Floats:
    """Return log K of each sample under its own mean, (B,)."""
    logs = np.empty((len(BETS), len(counts)))
    for place, bet in enumerate(BETS):
        factors = np.log1p(bet * (values[None, :] / means[:, None] - 1))  # (B, V)
        logs[place] = np.einsum("bv,bv->b", factors, counts)
    return cast(Floats, np.logaddexp.reduce(logs, axis=0) - np.log(len(BETS)))
