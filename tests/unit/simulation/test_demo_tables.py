"""The demo's progress: its figures go the way that the user sees, and each is explained."""

import io

import pytest
from rich.console import Console

from corlld.records import PairOutcome, PairStatus
from corlld.simulation.demo_session import _rise
from corlld.simulation.demo_tables import Progress, ProgressTable

# An adapter that writes what its user wants by now: nothing is left to edit.
LEARNT = Progress("mira", 60, edit_ratio_start=0.8, edit_ratio_now=0.0, rise=1.25, version=15, newest_draft="Hi all!")
HOLDOUT = Progress("ines", 60, edit_ratio_start=0.8, edit_ratio_now=0.8, rise=None, version=0, newest_draft="Dear you,")


def printed(terminal: bool) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=120, color_system=None)
    with ProgressTable(console, rounds=1) as table:
        table.round([LEARNT, HOLDOUT])
    return " ".join(screen.getvalue().split())


@pytest.mark.parametrize("terminal", [True, False])
def test_each_figure_is_explained_and_none_is_a_coin_toss(terminal: bool) -> None:
    text = printed(terminal)
    assert "accuracy" not in text
    assert "1.25" in text
    for explained in ("edit ratio: share of a draft", "rise: how much likelier than the base model", "nats per token"):
        assert explained in text


def test_the_rise_is_of_pairs_that_a_trained_adapter_has_scored() -> None:
    scored = [(0.5, True), (1.5, True), (9.0, False), (None, True)]
    outcomes = [
        PairOutcome(PairStatus.APPLIED, edited_rise=rise, scored_by_trained=trained) for rise, trained in scored
    ]
    assert _rise(outcomes) == pytest.approx((0.5 + 1.5) / 2)
    assert _rise([*outcomes, *(PairOutcome(PairStatus.ACCEPTANCE) for _ in range(20))]) == _rise(outcomes)
    assert _rise(outcomes[2:]) is None
