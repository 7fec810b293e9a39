"""A user's outcome: the drafts after the first eight, up to a fixed number, and no more."""

from collections.abc import Sequence
from dataclasses import replace

from corlld.durable import DraftFigures, Participation, Statistics
from corlld.experiment.outcomes import counted
from corlld.records import EditEvent, PairOutcome, PairStatus, UpdateOutcome
from corlld.statistics import fold
from tests.support.fakes import edit_event

ACCEPTED = [edit_event(f"a{number}", accepted=True) for number in range(3)]
EDITED = [edit_event(f"e{number}") for number in range(20)]  # draft -> text: 4 of 5 letters change
JOINED = Participation("off", "terms")


def learnt(drop: float | None = None) -> UpdateOutcome:
    return UpdateOutcome("u", None, trained=True, pairs=(), plain_text_drop_nats=drop)


def after(batches: Sequence[Sequence[EditEvent]], drafts: int) -> list[Participation]:
    """Return the participation after each micro-batch."""
    participation, statistics, seen = JOINED, Statistics(), []
    for number, batch in enumerate(batches):
        participation = counted(participation, statistics, batch, learnt(), drafts=drafts, now=float(number))
        pairs = [PairOutcome(PairStatus.APPLIED)] * len(batch)
        statistics = fold(statistics, batch, pairs, trained=True, head=0)
        seen.append(participation)
    return seen


def test_the_first_eight_drafts_are_left_out() -> None:
    (eight,) = after([EDITED[:8]], drafts=4)
    assert eight == JOINED
    (nine,) = after([[*EDITED[:8], ACCEPTED[0]]], drafts=4)
    assert nine.outcome == DraftFigures(1, 1, 0.0, 0.0)
    assert nine.completed_at is None


def test_it_is_the_same_however_batches_are_cut_and_ends_with_its_number() -> None:
    drafts = [*EDITED[:8], *ACCEPTED, *EDITED[8:]]
    whole = after([drafts], drafts=5)[-1]
    parts = after([drafts[:3], drafts[3:9], drafts[9:12], drafts[12:13], drafts[13:]], drafts=5)
    assert whole.outcome == parts[-1].outcome == DraftFigures(5, 3, 2 * 0.8, 0.0)
    assert [each.completed_at for each in parts] == [None, None, None, 3.0, 3.0]
    assert parts[-1] == parts[-2], "frozen"


def test_what_was_forgotten_is_summed_over_the_updates_that_rehearsed() -> None:
    participation = JOINED
    for drop in (0.5, None, 0.25):
        participation = counted(participation, Statistics(), EDITED[:1], learnt(drop), drafts=1, now=0.0)
    assert participation == replace(JOINED, plain_text_drop_sum=0.75, rehearsed_updates=2)
