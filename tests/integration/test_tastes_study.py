"""The study `tastes` on a tiny model, at its quick scale: too little for drafts to change, not for likelihoods."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from corlld.errors import FatalError
from corlld.publishing.peft_format import CONFIG_FILE, TENSORS_FILE
from corlld.simulation.drafting import PeftEngine
from corlld.simulation.editors import WeakEditor
from corlld.simulation.personas import FIVE_TASTES, PAVEL, YUKI
from corlld.simulation.studies.contract import Options
from corlld.simulation.studies.runner import run_study
from corlld.simulation.studies.tastes.direct_loop import DirectLoop, writers
from corlld.simulation.studies.tastes.report import CELLS
from corlld.simulation.studies.tastes.study import QUICK, STUDY, corll, fine_tuning
from corlld.simulation.studies.workshop import Workshop

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tastes")
    console = Console(file=io.StringIO())
    run_study(STUDY, Options((1,), quick=True, model=str(tiny_model), edits=None), folder, "typed", console, console)
    return folder


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((folder / "summary.json").read_text())["figures"]
    return figures


def test_what_users_have_in_mind_becomes_more_likely_for_held_out_prompts_too(figures: dict[str, Any]) -> None:
    """They rise by nats for each of five users. A reversed, an exchanged or a left-out step turns this around."""
    assert figures["hidden_rise_nats"]["low"] > 0.5
    assert figures["delta_edited_nats"]["value"] > 0.1
    assert figures["delta_edited_falls"]["value"] < 0.1


def test_every_cell_and_both_methods_are_reported(folder: Path, figures: dict[str, Any]) -> None:
    for cell in [*CELLS, "fine-tuning"]:
        assert {"value", "low", "high"} <= figures[f"cell_{cell.replace(' ', '_')}_late_difference"].keys()
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    long = [row for row in rows if row["part"] == "long" and row["kind"] == "round"]
    assert len(long) == QUICK.edits // 4 * len(FIVE_TASTES)


def test_pictures_are_there_and_what_was_needed_on_the_way_is_not(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "cells.png",
        "learning.png",
        "results.csv",
        "soundness.png",
        "summary.json",
    ]
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_loop_that_is_restored_goes_on_as_if_it_had_not_ended(tiny_model: Path, tmp_path: Path) -> None:
    def loop() -> DirectLoop:
        users = writers((PAVEL, YUKI), FIVE_TASTES, seed=3)
        return DirectLoop(Workshop(str(tiny_model)), corll("default"), users, WeakEditor(1.0))

    whole = loop()
    first, second = whole.round(), whole.round()
    cut = loop()
    assert cut.round() == first
    cut.save(tmp_path / "state.safetensors")
    restored = loop()
    restored.restore(tmp_path / "state.safetensors")
    assert restored.round() == second
    assert restored.mark(2) == whole.mark(2)
    assert second != first


def test_after_each_round_the_engine_is_given_every_users_newest_adapter(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, bytes]] = []

    def load(engine: PeftEngine, user: str, folder: Path) -> None:
        assert (folder / CONFIG_FILE).exists()
        loaded.append((user, (folder / TENSORS_FILE).read_bytes()))

    monkeypatch.setattr(PeftEngine, "load", load)
    users = writers((PAVEL, YUKI), FIVE_TASTES, 1)
    loop = DirectLoop(Workshop(str(tiny_model)), corll("default"), users, WeakEditor(1.0))
    loop.round()
    loop.round()
    assert [user for user, _ in loaded] == [PAVEL.user_id, YUKI.user_id] * 2
    assert len({tensors for _, tensors in loaded}) == 4


def test_a_state_that_is_gone_is_not_begun_anew_in_silence(tiny_model: Path, tmp_path: Path) -> None:
    users = writers((PAVEL,), FIVE_TASTES, 1)
    loop = DirectLoop(Workshop(str(tiny_model)), corll("default"), users, WeakEditor(1.0))
    with pytest.raises(FatalError, match=r"long\.safetensors is missing"):
        loop.restore(tmp_path / "long.safetensors")


def test_fine_tuning_learns_from_the_edited_text_alone(tiny_model: Path, tmp_path: Path) -> None:
    users = writers((PAVEL,), FIVE_TASTES, 1)
    loop = DirectLoop(Workshop(str(tiny_model)), fine_tuning(), users, WeakEditor(1.0))
    (row,) = loop.round()
    assert float(row["edit_ratio"]) > 0.5
    assert row["accepted"] == 0, "what is reported is the draft"
    assert "margin_nats" not in row, "what is learnt is no pair"
    rises = [float(row["hidden_rise_nats"]) for row in loop.mark(2) if row["kind"] == "held-out"]
    assert min(rises) > 0
