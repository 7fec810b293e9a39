"""Figures are folded as ALGORITHM says: ties count half, untrained pairs are left out, drafts by their version."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corlld.durable import DraftFigures, EditedRise, Statistics
from corlld.errors import RejectReason
from corlld.records import EditEvent, PairOutcome, PairStatus
from corlld.statistics import (
    DRAFT_CLASSES_KEPT,
    FIRST_DRAFTS,
    correct_share,
    edit_ratio,
    fold,
    judge_drafts,
    repetition_ratio,
)
from tests.support.fakes import edit_event


def applied(margin: float, base: float = 0.0, *, trained: bool = True) -> PairOutcome:
    return PairOutcome(PairStatus.APPLIED, margin=margin, base_margin=base, scored_by_trained=trained)


@pytest.mark.parametrize(("margin", "share"), [(0.5, 1.0), (-0.5, 0.0), (0.0, 0.5), (9e-4, 0.5), (-9e-4, 0.5)])
def test_a_tie_counts_one_half(margin: float, share: float) -> None:
    assert correct_share(margin) == share


def test_pairs_scored_by_an_untrained_adapter_are_left_out_of_accuracy_but_not_of_the_control() -> None:
    events = [edit_event("a"), edit_event("b"), edit_event("c")]
    pairs = [applied(0.0, base=1.0, trained=False), applied(2.0, base=-1.0), applied(-1.0, base=1.0)]
    after = fold(Statistics(), events, pairs, trained=True, head=0)
    assert (after.prequential_pairs, after.prequential_correct, after.prequential_margin_sum) == (2, 1.0, 1.0)
    assert (after.base_pairs, after.base_correct, after.updates, after.pairs_applied) == (3, 2.0, 1, 3)


def test_the_rise_of_edited_texts_counts_each_pair_alike_that_a_trained_adapter_scored() -> None:
    events = [edit_event("a"), edit_event("b"), edit_event("c"), edit_event("d", accepted=True)]
    pairs = [
        replace(applied(0.0, trained=False), edited_rise=0.0),
        replace(applied(2.0), edited_rise=0.5),
        replace(applied(1.0), edited_rise=-0.2),
        PairOutcome(PairStatus.ACCEPTANCE),
    ]
    once = fold(Statistics(), events, pairs, trained=True, head=0)
    assert once.edited_rise == EditedRise(2, 0.5 - 0.2)
    assert fold(once, events, pairs, trained=True, head=0).edited_rise == EditedRise(4, 2 * (0.5 - 0.2))


def test_every_outcome_is_counted_under_its_own_name() -> None:
    events = [edit_event("a", accepted=True), edit_event("b"), edit_event("c")]
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
    assert edit_ratio(edit_event("a", accepted=True)) == 0.0
    assert edit_ratio(edit_event("a")) == pytest.approx(4 / 5)


def test_effort_belongs_to_the_version_that_made_the_draft_and_one_beyond_the_head_is_unknown() -> None:
    events = [
        edit_event("a", version=2),
        edit_event("b", version=2, accepted=True),
        edit_event("c", version=4),
        edit_event("d"),
    ]
    after = fold(Statistics(), events, [applied(1.0)] * 4, trained=True, head=3)
    assert after.drafts == {"2": DraftFigures(2, 1, 0.8), "unknown": DraftFigures(2, 0, 1.6)}


def test_repetition_is_one_minus_the_mean_share_of_types_in_windows_of_twenty_words() -> None:
    assert repetition_ratio("") == repetition_ratio("!?") == repetition_ratio("once") == 0.0
    assert repetition_ratio("one two three") == 0.0
    assert repetition_ratio("so so") == pytest.approx(1 - 1 / 2)
    assert repetition_ratio("a rose is a rose is a rose") == pytest.approx(1 - 3 / 8)
    twenty = [f"w{n}" for n in range(20)]
    assert repetition_ratio(" ".join(twenty)) == 0.0
    # Two windows: w0..w19 with 20 types, w1..w19 and w19 again with 19.
    assert repetition_ratio(" ".join([*twenty, "w19"])) == pytest.approx(1 - (20 + 19) / 2 / 20)
    # A window forgets what left it: w0 comes back twenty words later and repeats nothing.
    assert repetition_ratio(" ".join([*twenty, "w0"])) == 0.0
    assert repetition_ratio("no " * 200) == pytest.approx(1 - 1 / 20)


def test_repetition_goes_by_words_whatever_their_case_and_the_marks_between_them() -> None:
    assert repetition_ratio("Straße, STRASSE! straße") == pytest.approx(2 / 3)
    assert repetition_ratio("же же, же") == pytest.approx(2 / 3)
    assert repetition_ratio("no-no") == pytest.approx(1 / 2)


@given(st.lists(st.sampled_from("abcdef"), max_size=60))
def test_the_moving_window_is_the_plain_definition(words: list[str]) -> None:
    size = min(20, len(words))
    windows = [words[start : start + size] for start in range(len(words) - size + 1)]
    plain = 1 - sum(len(set(w)) / size for w in windows) / len(windows) if len(words) > 1 else 0.0
    assert repetition_ratio(" ".join(words)) == pytest.approx(plain, abs=1e-12)


def looping(name: str) -> EditEvent:
    return replace(edit_event(name), proposed="so so")  # half of the words repeat


def test_the_first_drafts_are_kept_and_later_ones_do_not_touch_them() -> None:
    events = [looping("a"), *(edit_event(f"e{n}") for n in range(FIRST_DRAFTS + 3))]
    one_by_one = Statistics()
    for event in events:
        one_by_one = fold(one_by_one, [event], [applied(1.0)], trained=True, head=0)
    at_once = fold(Statistics(), events, [applied(1.0)] * len(events), trained=True, head=0)
    for figures in (one_by_one.first_drafts, at_once.first_drafts):
        assert (figures.events, figures.repetition_sum) == (FIRST_DRAFTS, 0.5)
        assert figures.edit_ratio_sum == pytest.approx(edit_ratio(events[0]) + (FIRST_DRAFTS - 1) * 4 / 5)


def test_only_drafts_after_the_first_ones_are_compared_with_them() -> None:
    seven = DraftFigures(events=FIRST_DRAFTS - 1, repetition_sum=0.3)
    judged = judge_drafts(seven, [looping("a"), looping("b"), edit_event("c")], head=0)
    assert [draft.repetition for draft in judged] == [0.5, 0.5, 0.0]
    mean = (0.3 + 0.5) / FIRST_DRAFTS
    assert [draft.repetition_rise for draft in judged] == [None, pytest.approx(0.5 - mean), 0.0]


@pytest.mark.parametrize(
    ("version", "origin"), [(None, "unknown"), (0, "base"), (1, "own"), (3, "own"), (4, "unknown")]
)
def test_a_draft_is_by_the_base_model_by_a_version_that_exists_or_nobody_knows(
    version: int | None, origin: str
) -> None:
    assert judge_drafts(DraftFigures(), [edit_event("a", version=version)], head=3)[0].origin == origin


def test_repetition_is_summed_for_each_producing_version() -> None:
    events = [replace(looping("a"), adapter_version=2), edit_event("b", version=2), looping("c")]
    after = fold(Statistics(), events, [applied(1.0)] * 3, trained=True, head=2)
    assert {name: figures.repetition_sum for name, figures in after.drafts.items()} == {"2": 0.5, "unknown": 0.5}


def test_versions_told_apart_are_bounded_and_older_ones_are_merged() -> None:
    figures = Statistics()
    for version in range(DRAFT_CLASSES_KEPT + 5):
        figures = fold(figures, [edit_event(f"e{version}", version=version)], [applied(1.0)], trained=True, head=999)
    assert len(figures.drafts) == DRAFT_CLASSES_KEPT + 1
    assert figures.drafts["older"].events == 5
    assert sum(f.events for f in figures.drafts.values()) == DRAFT_CLASSES_KEPT + 5
