"""Series of the study `tastes`, from rows that are made by hand."""

import pytest

from corlld.settings.sections import LearningSettings
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.tastes.report import CELLS, cell_differences
from corlld.simulation.studies.tastes.series import DEFAULT, cell_rows, held_out_distances, late_ratios, running


def round_row(part: str, method: str, user: str, edits: int, ratio: float) -> Row:
    return {
        "part": part,
        "method": method,
        "kind": "round",
        "seed": 1,
        "user": user,
        "edits": edits,
        "edit_ratio": ratio,
    }


def held_out_row(part: str, method: str, user: str, edits: int, prompt: int, distance: float) -> Row:
    return round_row(part, method, user, edits, 0.0) | {"kind": "held-out", "prompt": prompt, "distance": distance}


# The long run has two users, 16 edits, and a mark after 8; the cell one of the users, and 8 edits.
ROWS = [
    *(round_row("long", DEFAULT, user, edits, edits / 100) for edits in (4, 8, 12, 16) for user in ("ann", "bob")),
    *(held_out_row("long", DEFAULT, "ann", edits, prompt, 0.5) for edits in (8, 16) for prompt in (0, 1)),
    *(held_out_row("long", DEFAULT, "bob", edits, prompt, 0.9) for edits in (8, 16) for prompt in (0, 1)),
    *(round_row("cell", "other", "ann", edits, 0.5) for edits in (4, 8)),
    held_out_row("cell", "other", "ann", 8, 1, 0.4),
    held_out_row("cell", "other", "ann", 8, 0, 0.2),
]


def test_the_default_of_a_cell_is_the_same_users_first_edits_in_the_long_run() -> None:
    found = cell_rows(ROWS, DEFAULT)
    assert {row["user"] for row in found} == {"ann"}
    assert [row["edits"] for row in found if row["kind"] == "round"] == [4, 8]
    assert [row["edits"] for row in found if row["kind"] == "held-out"] == [8, 8]


def test_a_cell_is_compared_prompt_by_prompt_and_round_by_round() -> None:
    assert held_out_distances(ROWS, "other") == [0.2, 0.4]  # in the prompts' order, whatever that of the rows
    assert late_ratios(ROWS, "other") == [0.5]  # the later half of 8 edits
    held_out, late = cell_differences(ROWS, "other", DEFAULT)
    assert held_out.value == pytest.approx((0.2 - 0.5 + 0.4 - 0.5) / 2)
    assert late.value == pytest.approx(0.5 - 0.08)


def test_a_running_mean_is_of_one_user_and_of_half_the_rounds_at_most() -> None:
    rounds = [row for row in ROWS if row["part"] == "long" and row["kind"] == "round"]
    assert running(rounds, "edit_ratio")[1, "ann"] == pytest.approx([0.04, 0.06, 0.10, 0.14])


def test_every_cell_differs_from_the_default() -> None:
    learnt = [LearningSettings.model_validate(changes) for changes in CELLS.values()]
    assert LearningSettings() not in learnt
    assert all(learnt.count(one) == 1 for one in learnt)
