"""Figures of the study of harm, on values made by hand."""

import pytest

from corlld.simulation.studies.contract import Figure
from corlld.simulation.studies.no_harm.report import rehearsal_wins


@pytest.mark.parametrize(
    ("with_it", "without", "loss", "wins"), [(1, 0.3, 0.05, 1), (1, 1, 0.0, 0), (0.7, 0.3, 0.0, 0), (1, 0.3, 0.2, 0)]
)
def test_rehearsal_wins_only_where_it_is_needed_enough_and_does_not_cost_much(
    with_it: float, without: float, loss: float, wins: float
) -> None:
    values = {
        "noisy_defaults_in_band": with_it,
        "noisy_no_rehearsal_in_band": without,
        "honest_rehearsal_held_out_distance_difference": loss,
    }
    assert rehearsal_wins({name: Figure(value, "") for name, value in values.items()}).value == wins
