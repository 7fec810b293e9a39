"""Judgements of edits, and intervals over commits."""

import pytest

from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.real_edits import judgements


def test_differences_are_taken_edit_by_edit_and_commits_stay_together() -> None:
    commits = {("a", 0): 0, ("a", 1): 0, ("a", 2): 1, ("b", 0): 0}
    ours = {(1, "a", 0): 1.0, (1, "a", 1): 1.0, (1, "a", 2): 0.0, (1, "b", 0): 1.0}
    theirs = {(1, "a", 0): 0.0, (1, "a", 2): 0.5, (1, "b", 0): 1.0}
    assert judgements.blocks(ours, commits) == {"a": [[1.0, 1.0], [0.0]], "b": [[1.0]]}
    found = judgements.difference(ours, theirs, commits, "")
    # Editor a has the mean of 1 and -.5, editor b has 0; each counts the same.
    assert found.value == pytest.approx((0.25 + 0.0) / 2)
    # Twice the block of -.5, or twice that of 1.
    assert (found.low, found.high) == (-0.25, 0.5)


def test_an_editor_has_the_mean_of_all_seeds() -> None:
    found = {(1, "a", 0): 1.0, (2, "a", 0): 2.0, (1, "b", 0): -1.0}
    assert judgements.of_editors(found) == {"a": 1.5, "b": -1.0}


def test_a_cumulative_figure_counts_the_edits_before_its_end() -> None:
    commits = {("a", place): place for place in range(3)}
    found = {(1, "a", place): float(place) for place in range(3)}
    assert [figure.value for figure in judgements.cumulative(found, commits, (1, 3))] == [0.0, 1.0]


def test_a_flipped_label_counts_against_what_the_editor_did() -> None:
    row: Row = {"seed": 1, "editor": "a", "edit": 0, "margin": 2.0, "base_margin": -3.0, "flipped": 1}
    assert (judgements.correct(row), judgements.truly_correct(row)) == (1.0, 0.0)
    assert (judgements.base_correct(row), judgements.preferred(row)) == (0.0, 0.0)
    assert judgements.preferred({**row, "margin": 4.0}) == 1.0
