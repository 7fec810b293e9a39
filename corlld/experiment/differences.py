"""Comparisons of arms: differences of users' mean outcomes, in a sentence, and what it still takes to see one. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from corlld.experiment.arms import Arms
from corlld.experiment.confidence import Floats, Interval, Sample, difference_of, sample_of
from corlld.experiment.tally import ArmFigures
from corlld.settings.learning_rule import DEFAULT_ARM
from corlld.system.plurals import counted

RATE_SECONDS = 14 * 86_400.0  # the pace of the last two weeks tells how many days are needed
DAY_SECONDS = 86_400.0
# With fewer outcomes than this, a spread of .2 between users is assumed.
FEWEST_OUTCOMES = 10
_ASSUMED = np.array([0.2, 0.6])
_MOST_USERS = 100_000_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against another one.

    saved: by how much the arm's mean outcome is lower, as a share of a draft; None while one of them has no outcome.
    without_outcome: the arms of the two in which no user has an outcome yet.
    users_needed: how many more outcomes, in all arms, make the interval reach no farther than `difference` to each
        side. days_needed: at the pace of the last two weeks; None if it is too early to say.
    """

    arm: str
    against: str
    is_holdout: bool  # what it is compared with
    saved: Interval | None
    difference: float
    users_needed: int
    days_needed: float | None
    without_outcome: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What is known, in plain words."""
        other = "no learning" if self.is_holdout else f"arm {self.against}"
        if self.saved is None:
            return (
                f"arm {self.arm}: nothing is known against {other} yet, since no user of "
                f"{' or of '.join(f'arm {name}' for name in self.without_outcome)} has an outcome"
            )
        low, high = self.saved.low, self.saved.high
        if low > 0:
            return (
                f"arm {self.arm} saves users {short(self.saved.mean)} of a draft ({short(low)} to {short(high)}) "
                f"against {other}"
            )
        if high < 0:
            return (
                f"arm {self.arm} costs users {short(-self.saved.mean)} of a draft ({short(-high)} to {short(-low)}) "
                f"against {other}"
            )
        return f"arm {self.arm}: no difference to {other} is shown yet ({short(low)} to {short(high)} of a draft)"

    @property
    def need(self) -> str:
        """What it still takes, in plain words."""
        if not self.users_needed:
            return f"a difference of {short(self.difference)} would be seen by now"
        users = counted(self.users_needed, "more user is", "more users are")
        if self.days_needed is None:
            days = (
                f"too early to say in how many days, which takes {FEWEST_OUTCOMES} outcomes of the last two weeks, and "
                "a day since the first"
            )
        else:
            days = f"about {counted(max(1, round(self.days_needed)), 'more day')}"
        return f"{users} needed to see a difference of {short(self.difference)}: {days}"


def comparisons(
    arms: Arms, figures: Mapping[str, ArmFigures], *, difference: float, now: float
) -> Iterator[Comparison]:
    """Yield each arm against the holdout, and against the default.

    Args:
        arms: those of the settings.
        figures: by arm.
        difference: the one that is to be seen, as a share of a draft.
        now: unix time.
    """
    pace = _outcomes_per_day([at for each in figures.values() for at in each.completed_at], now)
    for against in (*arms.holdouts, DEFAULT_ARM):
        for arm in arms.by_name:
            if arm == against or arm in arms.holdouts:
                continue
            pair = (arm, against)
            outcomes = [figures[name].outcome_array for name in pair]
            samples = [sample_of(each) for each in outcomes]
            saved = difference_of(samples[1], samples[0]) if all(map(len, outcomes)) else None
            needed = _users_needed(outcomes, [arms.by_name[name].share for name in pair], difference)
            days = needed / pace if pace else None
            without = tuple(name for name, own in zip(pair, outcomes, strict=True) if not len(own))
            yield Comparison(arm, against, against in arms.holdouts, saved, difference, needed, days, without)


def short(figure: float) -> str:
    """Write a share as .08: two decimals, and no 0 before the point."""
    text = f"{figure:.2f}".replace("0.", ".", 1)
    return ".00" if text == "-.00" else text


def _users_needed(outcomes: list[Floats], shares: list[float], difference: float) -> int:
    """Return how many more users with an outcome are needed, over all arms, if outcomes stay as they are."""

    def reach(more: int) -> float:
        left, right = (_grown(own, len(own) + more * share) for own, share in zip(outcomes, shares, strict=True))
        interval = difference_of(left, right)
        return (interval.high - interval.low) / 2

    enough = 1
    if reach(0) <= difference:
        return 0
    while reach(enough) > difference:
        enough *= 2
        if enough > _MOST_USERS:
            return _MOST_USERS
    least = enough // 2
    while enough - least > max(1, enough // 100):
        middle = (least + enough) // 2
        least, enough = (least, middle) if reach(middle) <= difference else (middle, enough)
    return enough


def _grown(outcomes: Floats, users: float) -> Sample:
    """Return a sample of so many users whose outcomes are distributed like these, to a twentieth."""
    own = outcomes if len(outcomes) >= FEWEST_OUTCOMES else _ASSUMED
    values, counts = np.unique((20 * own).round() / 20, return_counts=True)
    return Sample(values, counts.astype(np.float64) * (users / len(own)))


def _outcomes_per_day(completed_at: list[float], now: float) -> float | None:
    """Return the pace of the last two weeks, or since the first outcome if that is later; None in its first day."""
    seconds = min(now - min(completed_at, default=now), RATE_SECONDS)
    recent = sum(at >= now - RATE_SECONDS for at in completed_at)
    # People work by day: minutes, or some hours, say nothing of a day.
    if recent < FEWEST_OUTCOMES or seconds < DAY_SECONDS:
        return None
    return recent / seconds * DAY_SECONDS
