"""95 % intervals of means. Pure: the same numbers give the same interval."""

import functools
import math
import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from corlld.simulation.studies.contract import Figure

_RESAMPLES = 10_000
_TAILS = (2.5, 97.5)
_GRID = 100_001  # points of the quantile's integral: its first five digits are right


def mean_figure(values: Sequence[float], meaning: str) -> Figure:
    """Return the mean of independent values (one per seed or user) with Student's interval.

    A single value has no interval. The bootstrap would be wrong here: for 5 values its interval holds the true mean 5
    times in 6, and not 19 times in 20.

    Raises ValueError without values.
    """
    if not values:
        raise ValueError("no values")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Figure(mean, meaning)
    half = _student_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Figure(mean, meaning, mean - half, mean + half)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], meaning: str) -> Figure:
    """Return the mean of ours - theirs, seed by seed. Raises ValueError for unequal lengths."""
    return mean_figure([a - b for a, b in zip(ours, theirs, strict=True)], meaning)


def grouped_mean_figure(groups: Sequence[Sequence[Sequence[float]]], meaning: str) -> Figure:
    """Return the mean of the groups' means. The values of a group, such as a user, come in blocks, such as commits.

    Every group counts the same, however many values it has. The interval is by the bootstrap: whole blocks are drawn
    again, within each group. So it says nothing about other groups.

    Raises ValueError for no groups, or for a group without values.
    """
    if not groups or not all(any(group) for group in groups):
        raise ValueError("no values")
    random = np.random.default_rng(0)
    drawn = np.mean([_drawn_means(group, random) for group in groups], axis=0)
    low, high = np.nanpercentile(drawn, _TAILS)
    means = [statistics.fmean(value for block in group for value in block) for group in groups]
    return Figure(statistics.fmean(means), meaning, float(low), float(high))


def _drawn_means(blocks: Sequence[Sequence[float]], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return means of the blocks drawn again, (resamples,): not a number where only empty blocks were drawn."""
    sums = np.array([float(sum(block)) for block in blocks])
    counts = np.array([len(block) for block in blocks])
    drawn = random.integers(len(blocks), size=(_RESAMPLES, len(blocks)))
    total, number = sums[drawn].sum(1), counts[drawn].sum(1)
    means: npt.NDArray[np.float64] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
    return means


@functools.cache
def _student_quantile(degrees: int) -> float:
    """Return the 97.5 % point of Student's t.

    With t = sqrt(degrees) tan(a) its density in a is cos(a) ** (degrees - 1).
    """
    angles = np.linspace(0, math.pi / 2, _GRID)
    density = np.cos(angles) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(float(np.interp(0.95 * below[-1], below, angles)))
