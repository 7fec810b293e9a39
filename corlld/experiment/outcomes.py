"""Outcomes: the figures of a user's drafts after the first ones, by which arms are compared. Pure.

A user's outcome is the mean edit ratio of a fixed number of drafts. It is frozen once that many were counted: later
drafts, and later looks at it, change nothing. The first drafts are left out, since nothing could be learnt before them.
"""

from collections.abc import Sequence
from dataclasses import replace

from corlld.durable import DraftFigures, Participation, Statistics
from corlld.records import EditEvent, UpdateOutcome
from corlld.statistics import FIRST_DRAFTS, edit_ratio, repetition_ratio


def counted(
    participation: Participation,
    before: Statistics,
    events: Sequence[EditEvent],
    update: UpdateOutcome,
    *,
    drafts: int,
    now: float,
) -> Participation:
    """Return the user's part in the experiment after one more micro-batch.

    Args:
        participation: before the micro-batch.
        before: the user's figures before it.
        events: the micro-batch, without duplicates.
        update: what the learner made of it.
        drafts: number of drafts that make an outcome (`experiment.drafts`).
        now: unix time.
    """
    if update.plain_text_drop_nats is not None:
        participation = replace(
            participation,
            plain_text_drop_sum=participation.plain_text_drop_sum + update.plain_text_drop_nats,
            rehearsed_updates=participation.rehearsed_updates + 1,
        )
    if participation.completed_at is not None:
        return participation
    outcome = participation.outcome
    later = events[max(0, FIRST_DRAFTS - before.first_drafts.events) :]
    for event in later[: max(0, drafts - outcome.events)]:
        outcome = DraftFigures(
            outcome.events + 1,
            outcome.acceptances + event.is_acceptance,
            outcome.edit_ratio_sum + edit_ratio(event),
            outcome.repetition_sum + repetition_ratio(event.proposed),
        )
    return replace(participation, outcome=outcome, completed_at=now if outcome.events >= drafts else None)
