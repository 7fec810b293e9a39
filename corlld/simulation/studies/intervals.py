"""Intervals by the bootstrap. Pure: the same numbers and seed give the same interval."""

from collections.abc import Sequence

import numpy as np

from corlld.simulation.studies.study import Figure

_RESAMPLES = 10_000
_TAILS = (2.5, 97.5)


def mean_figure(values: Sequence[float], meaning: str) -> Figure:
    """The mean of independent values, one a seed or a user, with its 95 % interval. Raises ValueError for none."""
    return blocked_mean_figure([[value] for value in values], meaning)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], meaning: str) -> Figure:
    """The mean of ours - theirs, value by value of the same seed. Raises ValueError for unequal lengths."""
    return mean_figure([a - b for a, b in zip(ours, theirs, strict=True)], meaning)


def blocked_mean_figure(blocks: Sequence[Sequence[float]], meaning: str) -> Figure:
    """The mean of values that come in blocks (edits of a commit), whole blocks being drawn again.

    Raises ValueError where there is no value.
    """
    sums = np.array([float(sum(block)) for block in blocks])
    counts = np.array([len(block) for block in blocks])
    if not counts.sum():
        raise ValueError("no values")
    drawn = np.random.default_rng(0).integers(len(blocks), size=(_RESAMPLES, len(blocks)))
    total, number = sums[drawn].sum(1), counts[drawn].sum(1)
    low, high = np.percentile(total[number > 0] / number[number > 0], _TAILS)
    return Figure(float(sums.sum() / counts.sum()), meaning, float(low), float(high))
