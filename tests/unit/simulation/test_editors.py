"""Simulated users are weak and honest."""

from hypothesis import given
from hypothesis import strategies as st

from corlld.simulation.editors import WeakEditor, utility

WORDS = st.lists(st.sampled_from(["a", "bb", "the", "report", "is", "late", "soon"]), min_size=1, max_size=9).map(
    " ".join
)


@given(draft=WORDS, hidden=WORDS, alpha=st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_an_edit_closes_its_share_of_the_gap(draft: str, hidden: str, alpha: float) -> None:
    edited = WeakEditor(alpha).edit(draft, hidden)
    gap = 1 - utility(draft, hidden)
    assert utility(edited, hidden) - utility(draft, hidden) >= alpha * gap - 1e-9


def test_an_edit_goes_no_further_than_it_has_to() -> None:
    # Three words of four letters are wrong of four, each a quarter of the distance of 12 letters and no space.
    draft, hidden = "aaaa bbbb cccc same", "xxxx yyyy zzzz same"
    assert WeakEditor(0.3).edit(draft, hidden) == "xxxx bbbb cccc same"
    assert WeakEditor(0.5).edit(draft, hidden) == "xxxx yyyy cccc same"
    assert WeakEditor(1.0).edit(draft, hidden) == hidden


def test_words_are_put_in_and_taken_out() -> None:
    assert WeakEditor(0.3).edit("one three four five", "zero one two three four") == "zero one three four five"
    assert WeakEditor(1.0).edit("", "one two") == "one two"


def test_a_draft_that_is_right_is_accepted() -> None:
    assert WeakEditor(1.0).edit("as it was", "as it was") == "as it was"


def test_the_words_that_matter_most_are_put_right_first_wherever_they_are() -> None:
    draft, hidden = "a b incomprehensible c", "x y extraordinarily c"
    assert WeakEditor(0.5).edit(draft, hidden) == "x y extraordinarily c"
    assert WeakEditor(0.5, anywhere=True).edit(draft, hidden) == "a b extraordinarily c"


@given(draft=WORDS, hidden=WORDS, alpha=st.sampled_from([0.2, 0.5, 1.0]))
def test_an_edit_anywhere_closes_its_share_too(draft: str, hidden: str, alpha: float) -> None:
    gap = 1 - utility(draft, hidden)
    assert utility(WeakEditor(alpha, anywhere=True).edit(draft, hidden), hidden) >= 1 - gap + alpha * gap - 1e-9
