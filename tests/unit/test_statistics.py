"""Figures are folded as ALGORITHM says: ties count half, untrained pairs are left out, drafts by their version."""

import pytest

from corlld.errors import RejectReason
from corlld.records import DraftFigures, PairOutcome, PairStatus, Statistics
from corlld.statistics import DRAFT_CLASSES_KEPT, correct_share, edit_ratio, fold
from tests.fakes import edit


def applied(margin: float, base: float = 0.0, *, trained: bool = True) -> PairOutcome:
    return PairOutcome(PairStatus.APPLIED, margin=margin, base_margin=base, scored_by_trained=trained)


@pytest.mark.parametrize(("margin", "share"), [(0.5, 1.0), (-0.5, 0.0), (0.0, 0.5), (9e-4, 0.5), (-9e-4, 0.5)])
def test_a_tie_counts_one_half(margin: float, share: float) -> None:
    assert correct_share(margin) == share


def test_pairs_scored_by_an_untrained_adapter_are_left_out_of_accuracy_but_not_of_the_control() -> None:
    events = [edit("a"), edit("b"), edit("c")]
    pairs = [applied(0.0, base=1.0, trained=False), applied(2.0, base=-1.0), applied(-1.0, base=1.0)]
    after = fold(Statistics(), events, pairs, trained=True, head=0)
    assert (after.prequential_pairs, after.prequential_correct, after.prequential_margin_sum) == (2, 1.0, 1.0)
    assert (after.base_pairs, after.base_correct, after.updates, after.pairs_applied) == (3, 2.0, 1, 3)


def test_every_outcome_is_counted_under_its_own_name() -> None:
    events = [edit("a", accepted=True), edit("b"), edit("c")]
    pairs = [
        PairOutcome(PairStatus.ACCEPTANCE),
        PairOutcome(PairStatus.NO_DIFFERENCE),
        PairOutcome(PairStatus.REJECTED, RejectReason.DRIFT),
    ]
    once = fold(Statistics(), events, pairs, trained=False, head=0)
    twice = fold(once, events, pairs, trained=False, head=0)
    assert (twice.events, twice.acceptances, twice.no_difference, twice.rejected, twice.updates) == (
        6,
        2,
        2,
        {"drift": 2},
        0,
    )


def test_the_edit_ratio_is_the_normalised_edit_distance() -> None:
    # "draft" to "text": d, r and a are replaced, f is deleted, t stays: 4 edits over the longer length 5
    assert edit_ratio(edit("a", accepted=True)) == 0.0
    assert edit_ratio(edit("a")) == pytest.approx(4 / 5)


def test_effort_belongs_to_the_version_that_made_the_draft_and_one_beyond_the_head_is_unknown() -> None:
    events = [edit("a", version=2), edit("b", version=2, accepted=True), edit("c", version=4), edit("d")]
    after = fold(Statistics(), events, [applied(1.0)] * 4, trained=True, head=3)
    assert after.drafts == {"2": DraftFigures(2, 1, 0.8), "unknown": DraftFigures(2, 0, 1.6)}


def test_versions_told_apart_are_bounded_and_older_ones_are_merged() -> None:
    figures = Statistics()
    for version in range(DRAFT_CLASSES_KEPT + 5):
        figures = fold(figures, [edit(f"e{version}", version=version)], [applied(1.0)], trained=True, head=999)
    assert len(figures.drafts) == DRAFT_CLASSES_KEPT + 1
    assert figures.drafts["older"].events == 5
    assert sum(f.events for f in figures.drafts.values()) == DRAFT_CLASSES_KEPT + 5
