"""Tables in a terminal of 80 columns show fewer figures and cut none of them; in a wide one they show all."""

import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from corlld.commands.experiment_views import FEW_COLUMNS, arms_table
from corlld.commands.replay_summary import summary_table
from corlld.commands.shared import PIPE_COLUMNS, print_table
from corlld.experiment.arms import Arms
from corlld.experiment.tally import Tally
from corlld.settings.sections import Settings

UID = "0123456789abcdef" * 2


def lines(whole: Table, narrow: Table, width: int) -> list[str]:
    """Print a table in a terminal of this width, and see that nothing in it was cut."""
    text = io.StringIO()
    print_table(Console(file=text, width=width), whole, narrow)
    assert "…" not in text.getvalue()
    found = text.getvalue().splitlines()
    assert max(map(len, found)) <= width
    return found


@pytest.mark.parametrize("width", [80, PIPE_COLUMNS])
def test_a_replays_summary(width: int) -> None:
    figures = dict.fromkeys(
        ("prequential_accuracy", "prequential_accuracy_last_quarter", "margin_nats", "base_preference"), 0.25
    )
    figures |= dict.fromkeys(("word_count_perceptron", "longer_wins", "edit_ratio"), 0.5)
    user: dict[str, Any] = {"uid": UID, "pairs": 1_000_000, "edited_rise_nats": -0.125, **figures}
    user["rejected"] = {"out_of_memory": 12_345, "unrenderable": 2}
    summary = {"users": [user]}
    whole, narrow = (summary_table(summary, show_users=False, narrow=each) for each in (False, True))
    words = " ".join(lines(whole, narrow, width)).split()
    assert {"1000000", "0.25", "-0.125", "0.50", "12345", "out_of_memory", "2", "unrenderable"} <= set(words)
    is_wide = width > 80
    assert (UID in words, UID[:12] in words) == (is_wide, not is_wide)
    assert {"margin:", "base:", "words:", "longer:"}.isdisjoint(words) == (not is_wide), "columns that are not there"
    assert {"accuracy:", "rise:", "edit:"} <= set(words)


@pytest.mark.parametrize("width", [80, PIPE_COLUMNS])
def test_the_arms_of_an_experiment(width: int) -> None:
    given = [
        {"name": "holdout", "share": 0.05, "holdout": True},
        {"name": "x" * 32, "share": 0.5, "learning": {"lr": 1}},
    ]
    settings = Settings.model_validate({"experiment": {"arms": given}})
    arms = Arms(settings.experiment, settings.learning, settings.guard)
    tally = Tally(arms, 24, None)
    tally.arms["holdout"].users = 1_000_000
    found = lines(arms_table(arms, tally), arms_table(arms, tally, FEW_COLUMNS), width)
    (row,) = [line.split() for line in found if line.strip().startswith("holdout")]
    assert row[:5] == ["holdout", "(no", "learning)", "1,000,000", "0"]
    is_wide = width > 80
    assert len(row) == 3 + (8 if is_wide else 3)
    assert ("--json" in " ".join(found)) == (not is_wide)
