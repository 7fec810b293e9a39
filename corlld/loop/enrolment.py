"""The experiment as the loop sees it: users join it with their first event, and a holdout's users are only counted.

A change of the settings moves no user. Where an arm is gone, or has another rule than when a user joined it, that is
logged once per arm.
"""

from collections.abc import Callable
from dataclasses import replace

import structlog

from corlld.durable import Participation, Statistics, UserState
from corlld.experiment.arms import Arms
from corlld.experiment.outcomes import counted
from corlld.records import EditEvent, PairOutcome, PairStatus, UpdateOutcome
from corlld.settings.sections import Settings

log = structlog.get_logger("corlld.experiment")


class Enrolment:
    """Puts users into arms, and keeps their outcomes.

    wall_clock: unix time.
    """

    def __init__(self, settings: Settings, wall_clock: Callable[[], float]) -> None:
        self._arms = Arms(settings.experiment, settings.learning, settings.guard)
        self._drafts = settings.experiment.drafts
        self._wall_clock = wall_clock
        self._logged: set[tuple[str, str]] = set()

    def rule_of(self, uid: str, state: UserState | None) -> str:
        """Return the name of the arm whose rule teaches the user."""
        participation = self._arms.joined(uid, state)
        self._log_changes(participation)
        return self._arms.rule_of(participation)

    def held_out(self, uid: str, state: UserState | None, edits: tuple[EditEvent, ...]) -> UpdateOutcome | None:
        """Return the outcome of edits that are counted and not learnt from; None if the user is to learn."""
        if not self._arms.holds_out(self._arms.joined(uid, state)):
            return None
        statuses = (PairStatus.ACCEPTANCE if edit.is_acceptance else PairStatus.HELD_OUT for edit in edits)
        adapter = None if state is None else state.adapter
        return UpdateOutcome(uid, adapter, trained=False, pairs=tuple(map(PairOutcome, statuses)))

    def taken_in(
        self, before: UserState | None, after: UserState, edits: tuple[EditEvent, ...], outcome: UpdateOutcome
    ) -> UserState:
        """Return `after` with the edits counted for the user's arm.

        Args:
            before: the state before the micro-batch; None for a new user.
            after: the state with the micro-batch in it.
            edits: the micro-batch, without duplicates.
            outcome: the learner's outcome for them.
        """
        participation = self._arms.joined(after.uid, before)
        if participation is None or not edits:
            return after
        statistics = Statistics() if before is None else before.statistics
        now = self._wall_clock()
        return replace(
            after, participation=counted(participation, statistics, edits, outcome, drafts=self._drafts, now=now)
        )

    def _log_changes(self, participation: Participation | None) -> None:
        if participation is None:
            return
        arm = self._arms.by_name.get(participation.arm)
        if arm is None:
            self._log("arm_retired", participation.arm, "its users learn by [learning], and are not compared any more")
        elif arm.digest != participation.terms:
            self._log("arm_changed", participation.arm, "its users stay in it, those of before are not compared")

    def _log(self, event: str, arm: str, meaning: str) -> None:
        if (event, arm) not in self._logged:
            self._logged.add((event, arm))
            log.warning(event, arm=arm, meaning=meaning)
