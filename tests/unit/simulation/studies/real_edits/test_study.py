"""The study of real edits, on a tiny model and editors whose habits are known."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from corlld.errors import FatalError
from corlld.learning.model.loading import load_resident_model
from corlld.settings.sections import AdapterSettings, ModelSettings
from corlld.simulation.studies.contract import Figure, Options, Row
from corlld.simulation.studies.real_edits.archive import read_edits, split
from corlld.simulation.studies.real_edits.prequential import replay
from corlld.simulation.studies.real_edits.report import Report
from corlld.simulation.studies.real_edits.rules import Rule, Rules, ruled
from corlld.simulation.studies.real_edits.study import QUICK, SECOND_HALF, STUDY, VALIDATION_SEED, RealEdits
from tests.support.archives import archived, write_archive

LONG = "before long"
HABITS = {"ann": ("please", LONG), "bob": (LONG, "please")}  # each undoes what the other one does
# The tiny model's logits hardly move at the default learning rate. It knows no English that could be rehearsed.
FAST = {"lr": 1e-2, "rehearsal_weight": 0.0}
PLAIN = ruled("tail", **FAST)
CHOSEN = ruled("changed + imitation", **FAST, margin="changed", imitation_weight=0.1)
SFT = ruled("fine-tuning", **FAST, beta=1e-4, imitation_weight=1.0)
WHOLE = ruled("fine-tuning on whole texts", **FAST, whole=True, acceptance_weight=1.0)


def study(plain: Rule = PLAIN, chosen: Rule = CHOSEN, sft: Rule = SFT) -> RealEdits:
    rules = Rules(
        candidates=(plain, chosen, sft, WHOLE),
        plain=plain,
        chosen=chosen,
        fine_tuning=sft,
        others=(),
        flipped=replace(plain, name="labels by a coin", flipped=True),
    )
    return RealEdits(rules=rules)


def options(folder: Path, model: Path) -> Options:
    rows = [archived(user, number, *habit) for number in range(32) for user, habit in HABITS.items()]
    rows += [archived("carl", number, "please", "now") for number in range(16)]
    return Options((1,), True, str(model), write_archive(folder, *rows), folder / "scratch")


def run(folder: Path, model: Path, which: RealEdits) -> tuple[Sequence[Row], dict[str, Figure]]:
    """All units and the report, as `run_study` calls them."""
    given = options(folder, model)
    done: list[Row] = [{"unit": unit.key, **row} for unit in which.units(given) for row in unit.run()]
    return done, dict(which.report(done, folder, given))


def test_a_habit_is_learnt_and_it_is_the_editors_own(tmp_path: Path, tiny_model: Path) -> None:
    rows, figures = run(tmp_path, tiny_model, study())
    for rule in ("tail", "changed_imitation", "fine_tuning"):
        assert figures[f"reported_{rule}_accuracy"].value > 0.7
    for rule in ("changed_imitation", "fine_tuning"):
        assert figures[f"reported_{rule}_rise"].value > 0.1
        assert figures[f"reported_{rule}_falls"].value == 0
        assert figures[f"reported_{rule}_rise_of_the_worst"].value > 0
    assert figures["validation_fine_tuning_on_whole_texts_rise"].value > 0.1
    assert figures["accuracy_words"].value > 0.9  # a word tells all, so that counting is enough
    # Labels by a coin teach nothing, neither of the coin nor of the editor.
    for name in ("coin_accuracy", "coin_accuracy_of_labels"):
        assert 0.2 < figures[name].value < 0.8
    # Each editor's habit is the opposite of the other one's.
    assert figures["own_changed_imitation_accuracy"].value > 0.9
    assert figures["others_changed_imitation_accuracy"].value < 0.1
    assert figures["own_minus_others_changed_imitation_rise"].low > 0  # type: ignore[operator]
    # To a model that knows nothing the longer text is the less likely one: the edited texts are not the proposed ones.
    for name, sign in (("editor 1", -1), ("editor 2", 1)):
        own = [row for row in rows if row.get("editor") == name and "base_margin" in row]
        assert all(float(row["base_margin"]) * sign > 0 for row in own if not row.get("flipped"))
    assert figures["reported_tail_refused"].value < 0.2
    assert figures["edits"].value == 2 * (32 - 4), "the first round counts nowhere"
    assert {row["editor"] for row in rows} == {"editor 1", "editor 2", "validation editor 1"}
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("rises.png", "persons.png"))


def test_nothing_is_found_where_nothing_is_learnt(tmp_path: Path, tiny_model: Path) -> None:
    """Steps too small to matter: the same code must then say so."""
    hardly = ruled("tail", lr=1e-12)
    _, figures = run(tmp_path, tiny_model, study(hardly, replace(hardly, name="changed"), replace(SFT, name="sft")))
    assert abs(figures["reported_tail_margin"].value) < 0.5
    assert figures["reported_tail_rise"].value == pytest.approx(0, abs=0.01)
    assert figures["own_minus_others_tail_rise"].value == pytest.approx(0, abs=0.01)


def test_second_halves_go_on_where_first_halves_ended(tmp_path: Path, tiny_model: Path) -> None:
    """The two units of an editor make the rows of an uncut replay, and so does a repetition."""
    given = options(tmp_path, tiny_model)
    units = {unit.key: unit.run for unit in study().units(given)}
    halves = [units[f"{kind}/{PLAIN.name}/1/editor 1"] for kind in ("reported", "reported, second half")]
    rows = [row for half in halves for row in half()]
    assert [row["edit"] for row in rows] == list(range(32))
    assert [row["trained"] for row in rows] == [0] * 4 + [1] * 28
    resident = load_resident_model(ModelSettings(name=str(tiny_model), dtype="bfloat16"), AdapterSettings())
    (editor, _) = split(read_edits(given.edits or tmp_path), QUICK).reported
    uncut = replay(resident, editor, PLAIN, 1, range(32)).rows
    assert [row["margin"] for row in rows] == [row["margin"] for row in uncut]


def test_later_seeds_run_the_principal_rules_alone(tmp_path: Path, tiny_model: Path) -> None:
    def keys(seed: int) -> set[tuple[str, str]]:
        units = study().units(replace(options(tmp_path, tiny_model), seeds=(5, 6)))
        parts = [unit.key.split("/") for unit in units]
        return {(part[0], part[1]) for part in parts if len(part) > 2 and part[2] == str(seed)}

    principal = {(kind, rule.name) for kind in ("reported", SECOND_HALF) for rule in (PLAIN, CHOSEN, SFT)}
    assert keys(6) == principal
    assert keys(5) - principal == {("reported", "labels by a coin")} | {
        ("persons", rule.name) for rule in (PLAIN, CHOSEN, SFT)
    }


def test_a_part_of_the_units_gives_a_report_of_that_part(tmp_path: Path, tiny_model: Path) -> None:
    given = options(tmp_path, tiny_model)
    units = study().units(given)
    wanted = ("baselines", "validation/tail/", "reported/tail/1/editor 1", "reported/fine-tuning/1/editor 1")
    rows: list[Row] = [{"unit": unit.key, **row} for unit in units if unit.key.startswith(wanted) for row in unit.run()]
    figures = study().report(rows, tmp_path, given)
    assert figures["editors"].value == 1
    assert "fine_tuning_minus_tail_rise" in figures
    assert "reported_tail_rise" in figures
    assert "reported_tail_rise_second_half" not in figures, "only the first half was done"
    assert {name for name in figures if "changed" in name or name.startswith("own_")} == set()
    assert (tmp_path / "rises.png").exists()
    assert not (tmp_path / "persons.png").exists()
    assert "reported_tail_rise" not in study().report([row for row in rows if "kind" not in row], tmp_path, given)


def validated(rules: dict[str, tuple[tuple[float, float], float]], harmful: tuple[Rule, ...] = ()) -> dict[str, Figure]:
    """Figures of a validation: by rule the rise of two editors' edits, each of its own commit, and the margin."""
    rows: list[Row] = [
        {"kind": "baselines", "editor": editor, "edit": edit, "commit": edit, "words": 0.5, "longer": 0.5}
        for editor in "ab"
        for edit in range(4, 14)
    ]
    for rule, (rises, margin) in rules.items():
        rows += [
            {"kind": "validation", "rule": rule, "editor": editor, "edit": edit, "seed": 1, "trained": 1, "applied": 1}
            | {"rise": rise + 0.1 * (edit % 2), "margin": margin, "base_margin": 0.0}
            for editor, rise in zip("ab", rises, strict=True)
            for edit in range(4, 14)
        ]
    return Report(rows, replace(study().rules, harmful=harmful)).figures()


def test_a_rule_that_is_known_to_harm_is_not_chosen() -> None:
    most = {PLAIN.name: ((0.9, 0.9), 1.0), CHOSEN.name: ((0.5, 0.5), -1.0)}
    assert f"chooses ({PLAIN.name})" in validated(most)["choice_agrees"].meaning
    figures = validated(most, harmful=(PLAIN,))
    assert f"chooses ({CHOSEN.name})" in figures["choice_agrees"].meaning
    assert figures["candidates"].value == 1
    assert figures["validation_tail_rise"].value == pytest.approx(0.95), "it is shown all the same"


def test_a_rule_under_which_an_editors_mean_falls_is_not_chosen() -> None:
    figures = validated({"tail": ((3.0, -1.0), 1.0), CHOSEN.name: ((0.5, 0.1), 1.0), SFT.name: ((0.2, 0.2), 1.0)})
    assert figures["choice_agrees"].value == 1
    assert f"chooses ({CHOSEN.name})" in figures["choice_agrees"].meaning
    assert figures["validation_tail_falls"].value == 1
    assert figures["validation_tail_rise_of_the_worst"].value == pytest.approx(-0.95)
    assert figures["validation_tail_rise"].value == pytest.approx(1.05)


def test_of_rules_whose_rises_can_not_be_told_apart_the_more_accurate_one_is_chosen() -> None:
    """A rise that is smaller for sure is out, however accurate. Fine-tuning is compared, and is not chosen."""
    figures = validated({"tail": ((0.5, 0.5), -1.0), CHOSEN.name: ((0.5, 0.5), 1.0), SFT.name: ((0.9, 0.9), 1.0)})
    assert f"chooses ({CHOSEN.name})" in figures["choice_agrees"].meaning
    assert ". 2 rules can't be told from" in figures["choice_agrees"].meaning
    assert figures["validation_changed_imitation_minus_fine_tuning_rise"].value == pytest.approx(-0.4)
    figures = validated({CHOSEN.name: ((0.5, 0.5), 1.0), "tail": ((0.6, 0.6), -1.0)})
    assert "chooses (tail)" in figures["choice_agrees"].meaning
    assert figures["choice_agrees"].value == 0


def test_without_an_archive_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="--edits FILE"):
        STUDY.units(Options((1,), False, "demo", None, tmp_path))


def test_the_seed_of_the_choice_is_never_reported(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(FatalError, match=f"--seeds: {VALIDATION_SEED}"):
        STUDY.units(replace(options(tmp_path, tiny_model), seeds=(VALIDATION_SEED,)))
