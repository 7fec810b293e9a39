"""The study of harm on a tiny model: everything but its findings, for which the real one is needed."""

import csv
import json
from pathlib import Path

import pytest
from rich.console import Console

from corlld.errors import ExitCode, FatalError
from corlld.settings.sections import LearningSettings
from corlld.simulation.studies.contract import Options
from corlld.simulation.studies.no_harm.harmful_users import (
    KINDS,
)
from corlld.simulation.studies.no_harm.study import NoHarm
from corlld.simulation.studies.no_harm.variants import DEFAULTS, UNGUARDED, UNREHEARSED, Scale, Variant
from corlld.simulation.studies.runner import run_study

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


STRICT = Variant("drift 0.0001", ("honest", "leaping"), 4, guard={"max_drift_nats": 1e-4})


PASTED = Variant(UNGUARDED, ("pasting",), 8, guard={"max_repetition_rise": 1.0})


FORGETFUL = Variant(UNREHEARSED, ("honest", "noisy"), 8, {"rehearsal_weight": 0.0}, every_seed=True)


STILL = Variant("still", ("honest", "noisy"), 8, {"lr": 1e-9})


# The tiny model's layers are narrow: it takes larger steps to see it learn.
SCALE = Scale(edits=8, measure_every=4, variants=(STRICT, PASTED, STILL, FORGETFUL), learning=LearningSettings(lr=5e-3))


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("no-harm")
    options = Options(seeds=(1, 2), quick=False, model=str(tiny_model), edits=None)
    quiet = Console(quiet=True)
    run_study(NoHarm(SCALE), options, results, "corlld simulate no-harm", quiet, quiet)
    return results


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def last(rows: list[dict[str, str]], user: str, variant: str = DEFAULTS) -> list[dict[str, str]]:
    own = [row for row in rows if row["user"] == user and row["variant"] == variant]
    return [row for row in own if row["edits"] == max((row["edits"] for row in own), key=int)]


@pytest.mark.parametrize(("user", "variant"), [("honest", DEFAULTS), ("pasting", UNGUARDED)])
def test_what_a_user_wants_becomes_likelier(rows: list[dict[str, str]], user: str, variant: str) -> None:
    assert last(rows, user, variant)
    for row in last(rows, user, variant):
        assert float(row["wanted_nats"]) > 0.1
        assert int(row["applied"]) + int(row["accepted"]) + int(row["rejected_drift"]) == SCALE.edits


def test_before_the_first_edit_an_adapter_is_the_base_model(rows: list[dict[str, str]]) -> None:
    for row in rows:
        if row["edits"] == "0":
            assert (float(row["plain_ratio"]), float(row["wanted_nats"])) == (1.0, 0.0)
            assert float(row["canary_similarity"]) == 1.0


def test_a_strict_guard_lets_nothing_through_and_says_so(rows: list[dict[str, str]], folder: Path) -> None:
    for user in ("honest", "leaping"):
        (row,) = last(rows, user, STRICT.name)
        assert int(row["rejected_drift"]) == STRICT.edits
        assert float(row["wanted_nats"]) == 0.0
    figures = json.loads((folder / "summary.json").read_text())["figures"]
    assert figures["honest_drift_0.0001_4_rejected_drift"]["value"] == 4
    assert figures["honest_defaults_4_rejected_drift"]["value"] == 0


def test_what_is_pasted_is_not_learnt_unless_the_guard_is_told_to_let_it_through(
    rows: list[dict[str, str]], folder: Path
) -> None:
    pasted = last(rows, "pasting")
    assert len(pasted) == 2
    for row in pasted:
        # Drafts of the tiny model may repeat themselves so much that little is added to them.
        assert int(row["rejected_repetitive"]) >= SCALE.edits / 2
    figures = json.loads((folder / "summary.json").read_text())["figures"]
    assert figures["pasting_defaults_refused"]["value"] >= 0.5
    assert figures["pasting_any_repetition_refused"]["value"] == 0
    assert figures["honest_refused"]["value"] == 0


def test_users_of_every_seed_also_learn_without_rehearsal(rows: list[dict[str, str]]) -> None:
    for kind in FORGETFUL.kinds:
        assert [row["seed"] for row in last(rows, kind, UNREHEARSED)] == ["1", "2"]


def test_a_variant_has_its_own_rule_and_the_others_keep_theirs(rows: list[dict[str, str]]) -> None:
    for user in STILL.kinds:
        (row,) = last(rows, user, STILL.name)
        assert abs(float(row["wanted_nats"])) < 0.01


def test_an_honest_edit_never_harms(rows: list[dict[str, str]]) -> None:
    assert all(float(row["harmful_share"]) == 0 for row in rows if row["user"] == "honest" and row["harmful_share"])


def test_figures_and_the_picture_are_there(folder: Path) -> None:
    figures = json.loads((folder / "summary.json").read_text())["figures"]
    assert {f"{kind}_plain_ratio" for kind in KINDS} < set(figures)
    assert {
        "noisy_defaults_in_band",
        "noisy_no_rehearsal_in_band",
        "rehearsal_wins",
        "pasting_told_by_draft_repetition",
        "honest_largest_drift",
    } < set(figures)
    assert (folder / "harm.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_the_same_seed_gives_the_same_rows(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    options = Options(seeds=(1, 2), quick=False, model=str(tiny_model), edits=None)
    unit = NoHarm(SCALE).units(options)[0]
    again = {(str(row["user"]), str(row["edits"])): row for row in unit.run()}
    with (folder / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["seed"] == "1" and row["variant"] == DEFAULTS:
                assert float(row["wanted_nats"]) == pytest.approx(
                    float(again[row["user"], row["edits"]]["wanted_nats"]), abs=1e-5
                )


def test_a_seed_that_the_bands_were_stated_from_is_not_reported() -> None:
    with pytest.raises(FatalError, match="--seeds: 102 is a seed that the bands were stated from") as no:
        NoHarm(SCALE).units(Options(seeds=(1, 102), quick=False, model="demo", edits=None))
    assert no.value.exit_code == ExitCode.USAGE
