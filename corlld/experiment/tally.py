"""Figures of each arm, folded from users' states one by one. Pure: nothing of a state is kept but sums and outcomes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from corlld.durable import DraftFigures, Participation, UserState
from corlld.experiment.arms import Arms, began_elsewhere
from corlld.experiment.confidence import Floats
from corlld.statistics import UNKNOWN

# Reasons why a user of an arm is not compared, as sentences say them.
ANOTHER_RULE = "joined under another rule"
ANOTHER_START = "began from another start adapter, or from none (adapter.start_path)"
OTHER_DRAFTS = "with an outcome over another number of drafts (experiment.drafts)"


@dataclass
class ArmFigures:
    """The sums over the users of an arm.

    users: all who joined it. reasons: how many of them are left out, by the reason; nothing else counts these.
    outcomes: mean edit ratios, one per user whose outcome is complete. saved: how much lower each of these is than that
        of the user's own first drafts. completed_at: unix times.
    first, later: first drafts, and the drafts of outcomes, complete or not. versions: all drafts, by `version_class`.
    """

    users: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    outcomes: list[float] = field(default_factory=list)
    saved: list[float] = field(default_factory=list)
    completed_at: list[float] = field(default_factory=list)
    first: DraftFigures = field(default_factory=DraftFigures)
    later: DraftFigures = field(default_factory=DraftFigures)
    versions: dict[str, DraftFigures] = field(default_factory=dict)
    plain_text_drop_sum: float = 0.0
    rehearsed_updates: int = 0

    @property
    def left_out(self) -> int:
        """The number of users who are in the arm and are not compared."""
        return self.reasons.total()

    @property
    def outcome_array(self) -> Floats:
        """The outcomes, (users with an outcome,)."""
        return np.array(self.outcomes, dtype=np.float64)


class Tally:
    """Counts users into arms.

    Args:
        arms: those of the settings.
        drafts: number of drafts that make an outcome.
        start: the digest of the adapter that new users begin from; None if from nothing.
    """

    def __init__(self, arms: Arms, drafts: int, start: str | None = None) -> None:
        self._arms = arms
        self._drafts = drafts
        self._start = start
        self.arms = {name: ArmFigures() for name in arms.by_name}
        self.retired: Counter[str] = Counter()  # users by the name of an arm that is not in the settings
        self.in_no_arm = 0  # users with events from before the experiment

    def add(self, state: UserState) -> None:
        """Count a user in. Tombstones are passed over."""
        participation = state.participation
        if participation is None:
            self.in_no_arm += not state.erased
        elif (figures := self.arms.get(participation.arm)) is None:
            self.retired[participation.arm] += 1
        else:
            figures.users += 1
            self._add(figures, participation, state)

    def _add(self, figures: ArmFigures, participation: Participation, state: UserState) -> None:
        if (reason := self._reason_to_leave_out(participation, state)) is not None:
            figures.reasons[reason] += 1
            return
        outcome, first = participation.outcome, state.statistics.first_drafts
        figures.first = merged(figures.first, first)
        figures.later = merged(figures.later, outcome)
        for version, drafts in state.statistics.drafts.items():
            name = version_class(version)
            figures.versions[name] = merged(figures.versions.get(name, DraftFigures()), drafts)
        figures.plain_text_drop_sum += participation.plain_text_drop_sum
        figures.rehearsed_updates += participation.rehearsed_updates
        if participation.completed_at is not None:
            mean = outcome.edit_ratio_sum / outcome.events
            figures.outcomes.append(mean)
            figures.saved.append(first.edit_ratio_sum / first.events - mean)
            figures.completed_at.append(participation.completed_at)

    def _reason_to_leave_out(self, participation: Participation, state: UserState) -> str | None:
        if self._arms.terms_of(participation) is None:
            return ANOTHER_RULE
        if began_elsewhere(state, self._start):
            return ANOTHER_START
        if participation.completed_at is not None and participation.outcome.events != self._drafts:
            return OTHER_DRAFTS
        return None


def version_class(version: str) -> str:
    """Return the class of a producing version: `0` (base model), `1`, `2-3`, `4-7`, ..., `older`, `unknown`."""
    if not version.isdigit():
        return version
    if (number := int(version)) < 2:
        return version
    least = 1 << (number.bit_length() - 1)
    return f"{least}-{2 * least - 1}"


def in_order(classes: Iterable[str]) -> list[str]:
    """Return classes of versions from the oldest version on; `unknown` comes last."""

    def place(name: str) -> float:
        first = name.partition("-")[0]
        return float(first) if first.isdigit() else 1e18 if name == UNKNOWN else 0.5

    return sorted(classes, key=place)


def merged(figures: DraftFigures, more: DraftFigures) -> DraftFigures:
    """Return the sums of both."""
    return DraftFigures(
        figures.events + more.events,
        figures.acceptances + more.acceptances,
        figures.edit_ratio_sum + more.edit_ratio_sum,
        figures.repetition_sum + more.repetition_sum,
    )
