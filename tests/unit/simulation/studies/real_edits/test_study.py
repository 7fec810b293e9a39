"""The study of real edits, on a tiny model and editors whose habits are known."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from corlld.errors import FatalError
from corlld.settings.sections import LearningSettings
from corlld.simulation.studies.contract import Figure, Options, Row
from corlld.simulation.studies.real_edits.rules import Rule, Rules
from corlld.simulation.studies.real_edits.study import STUDY, RealEdits
from tests.support.archives import archived, write_archive

LONG = "before long"
HABITS = {"ann": ("please", LONG), "bob": (LONG, "please")}  # each undoes what the other one does
FAST = LearningSettings(lr=1e-2)  # the tiny model's logits hardly move at the default
CORLL = Rule("corll", FAST)
SFT = Rule("sft", FAST.model_copy(update={"acceptance_weight": 1.0}), texts=True)
FLIPPED = replace(CORLL, name="corll-flipped", flipped=True)
ANCHORED = Rule("corll-anchor-.1", FAST.model_copy(update={"anchor": 0.1}))


def study(corll: Rule = CORLL, chosen: Rule = ANCHORED) -> RealEdits:
    rules = Rules(
        corll=corll,
        flipped=replace(FLIPPED, learning=corll.learning),
        corll_candidates=(corll, chosen),
        sft_candidates=(SFT,),
        chosen_corll=chosen,
        chosen_sft=SFT,
    )
    return RealEdits(rules=rules)


def run(folder: Path, model: Path, which: RealEdits) -> tuple[Sequence[Row], dict[str, Figure]]:
    """All units and the report, as `run_study` calls them."""
    rows = [archived(user, number, *habit) for number in range(32) for user, habit in HABITS.items()]
    rows += [archived("carl", number, "please", "now") for number in range(16)]
    options = Options((1,), True, str(model), write_archive(folder, *rows))
    done: list[Row] = [{"unit": unit.key, **row} for unit in which.units(options) for row in unit.run()]
    return done, dict(which.report(done, folder, options))


def test_a_habit_is_learnt_and_it_is_the_editors_own(tmp_path: Path, tiny_model: Path) -> None:
    rows, figures = run(tmp_path, tiny_model, study())
    assert figures["accuracy_corll"].value > 0.9
    assert figures["accuracy_chosen"].value > 0.9
    assert figures["accuracy_sft"].value > 0.7
    assert figures["accuracy_words"].value > 0.9  # a word tells all, so that counting is enough
    assert figures["margin_corll"].value > 1.0
    # Labels by a coin teach nothing, neither of the coin nor of the editor.
    for name in ("accuracy_flipped", "accuracy_flipped_labels"):
        assert 0.2 < figures[name].value < 0.8
    # Each editor's habit is the opposite of the other one's.
    assert figures["own_accuracy"].value > 0.9
    assert figures["others_accuracy"].value < 0.1
    assert figures["own_minus_others_gain"].value > 0
    # To a model that knows nothing the longer text is the less likely one: the edited texts are not the proposed ones.
    for name, sign in (("editor 1", -1), ("editor 2", 1)):
        own = [row for row in rows if row["editor"] == name and "base_margin" in row]
        assert all(float(row["base_margin"]) * sign > 0 for row in own if not row.get("flipped"))
    assert figures["refused_share"].value < 0.2
    assert figures["edits"].value == 2 * (32 - 8)
    assert {row["editor"] for row in rows} == {"editor 1", "editor 2", "validation editor 1"}
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("curves.png", "persons.png"))


def test_nothing_is_found_where_nothing_is_learnt(tmp_path: Path, tiny_model: Path) -> None:
    """Steps too small to matter: the same code must then say so."""
    hardly = Rule("corll", LearningSettings(lr=1e-12))
    _, figures = run(tmp_path, tiny_model, study(hardly, hardly))
    assert abs(figures["margin_corll"].value) < 0.5
    assert figures["own_minus_others_gain"].value == pytest.approx(0, abs=0.05)


def test_the_same_options_give_the_same_rows(tmp_path: Path, tiny_model: Path) -> None:
    def unit(name: str) -> Sequence[Row]:
        rows = [archived(user, number, *habit) for number in range(32) for user, habit in HABITS.items()]
        rows += [archived("carl", number, "please", "now") for number in range(16)]
        options = Options((1,), True, str(tiny_model), write_archive(tmp_path, *rows))
        return next(unit for unit in study().units(options) if unit.key == name).run()

    for name in ("validation/corll-anchor-.1", "reported/corll-flipped/1/1"):
        assert unit(name) == unit(name)


def test_without_an_archive_there_is_one_sentence() -> None:
    with pytest.raises(FatalError, match="--edits FILE"):
        STUDY.units(Options((1,), False, "demo", None))
