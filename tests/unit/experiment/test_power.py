"""The table of power in deploy/README.md is what this simulation gives.

A user's outcome has a standard deviation of .2, a large one: the mean of the holdout is .5, that of the arm is lower by
the effect. A difference is seen if the confidence sequence of the difference is above 0 at the one look at the end.
Looking earlier too can only show it earlier.
"""

from pathlib import Path

import numpy as np

from corlld.experiment.confidence import ERROR, Floats, Sample, log_capital

PAGE = Path(__file__).parents[3] / "deploy/README.md"
RUNS = 100
MEANS = np.linspace(0.01, 0.99, 99)
SHARES, USERS, EFFECTS = (0.05, 0.2), (500, 1_000, 2_000, 5_000, 10_000, 20_000), (0.02, 0.05, 0.1, 0.2)
VALUES = np.linspace(0, 1, 21)
MEAN, DEVIATION = 0.5, 0.2


def outcomes(users: int, mean: float, rng: np.random.Generator) -> Floats:
    """Return how many of the users have each of the VALUES, (RUNS, V): a normal distribution, cut to [0, 1]."""
    weights = np.exp(-((VALUES - mean) ** 2) / (2 * DEVIATION**2))
    return rng.multinomial(users, weights / weights.sum(), RUNS).astype(np.float64)


def power(users: int, share: float, effect: float, rng: np.random.Generator) -> float:
    """Return the share of runs in which the arm is seen to be better than the holdout."""
    held_out = round(users * share)
    arms, holdouts = outcomes(users - held_out, MEAN - effect, rng), outcomes(held_out, MEAN, rng)
    return float(np.mean([is_seen(arm, holdout) for arm, holdout in zip(arms, holdouts, strict=True)]))


def is_seen(arm: Floats, holdout: Floats) -> bool:
    """Return whether a difference of 0 is refuted: the gamblers' product is large at every mean."""
    above = log_capital(Sample(VALUES, holdout), MEANS)
    below = log_capital(Sample(1 - VALUES, arm), 1 - MEANS)
    return bool((above + below).min() >= -np.log(ERROR / 2))


def table() -> str:
    rng = np.random.default_rng(4)
    head = ["| holdout | users with an outcome | " + " | ".join(f"{effect:g}" for effect in EFFECTS) + " |"]
    head += ["|---|---|" + "---|" * len(EFFECTS)]
    rows = [
        f"| {share:.0%} | {users:,} | "
        + " | ".join(f"{power(users, share, effect, rng):.0%}" for effect in EFFECTS)
        + " |"
        for share in SHARES
        for users in USERS
    ]
    return "\n".join([*head, *rows])


def test_the_page_shows_the_power_that_the_simulation_gives() -> None:
    assert table() in PAGE.read_text()
