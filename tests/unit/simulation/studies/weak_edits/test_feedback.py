"""Feedback that puts little right, or harms."""

import pytest

from corlld.simulation.editors import utility
from corlld.simulation.studies.weak_edits.feedback import Condition, Feedback

HIDDEN = "Hi all! Just so you know, the lift is out of order until Friday. See you around, Mira"
DRAFT = "Hello. I want to tell that the lift does not work until Friday. Thank you"


def feedback(alpha: float, epsilon: float = 0.0, harm: str = "scaled") -> Feedback:
    return Feedback(Condition(alpha, epsilon, harm), seed=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_an_honest_edit_closes_its_share_of_the_gap(alpha: float) -> None:
    before, edited = utility(DRAFT, HIDDEN), feedback(alpha).edit(DRAFT, HIDDEN, 0)
    assert utility(edited, HIDDEN) >= before + alpha * (1 - before)
    assert (edited == HIDDEN) == (alpha == 1.0)


@pytest.mark.parametrize("alpha", [0.2, 0.5])
def test_harm_goes_as_far_as_it_is_told_and_hardly_farther(alpha: float) -> None:
    """Words of at most eight letters are replaced: the last one takes away at most its share of the text."""
    draft = "Hi all! Just so you know, the lift is broken until Friday. See you"
    before, word = utility(draft, HIDDEN), 8 / len(HIDDEN)
    for harm, of in (("scaled", 1 - before), ("unscaled", before)):
        loss = before - utility(feedback(alpha, 0.999, harm).edit(draft, HIDDEN, 0), HIDDEN)
        assert alpha * of <= loss <= alpha * of + word, harm


def test_scaled_harm_spares_a_perfect_draft_and_unscaled_harm_does_not() -> None:
    assert feedback(0.5, 0.999, "scaled").edit(HIDDEN, HIDDEN, 0) == HIDDEN
    assert utility(feedback(0.5, 0.999, "unscaled").edit(HIDDEN, HIDDEN, 0), HIDDEN) <= 0.5


def test_noise_comes_as_often_as_it_is_told_and_again_the_same() -> None:
    noisy = feedback(0.5, 0.2)
    before = utility(DRAFT, HIDDEN)
    edited = [noisy.edit(DRAFT, HIDDEN, number) for number in range(400)]
    assert sum(utility(text, HIDDEN) < before for text in edited) / 400 == pytest.approx(0.2, abs=0.06)
    assert edited == [noisy.edit(DRAFT, HIDDEN, number) for number in range(400)]
    assert edited != [Feedback(noisy.condition, 2).edit(DRAFT, HIDDEN, number) for number in range(400)]


def test_the_better_of_two_drafts_is_taken_but_for_errors() -> None:
    honest, noisy = feedback(0.5), feedback(0.5, 0.2)
    assert [honest.prefers_first(*both, HIDDEN, 0) for both in ((HIDDEN, DRAFT), (DRAFT, HIDDEN))] == [True, False]
    assert honest.prefers_first(DRAFT, DRAFT, HIDDEN, 0) is None
    wrong = sum(noisy.prefers_first(DRAFT, HIDDEN, HIDDEN, number) is True for number in range(400))
    assert wrong / 400 == pytest.approx(0.2, abs=0.06)


def test_names_tell_conditions_apart() -> None:
    assert Condition(0.2).name == "alpha 0.2"
    assert Condition(0.5, 0.2, "unscaled", anywhere=True).name == "alpha 0.5, noise 0.2 unscaled, anywhere"
