"""The choice of the pairs that are trained on."""

import json
from pathlib import Path

import pytest

from corlld.bench import ours
from corlld.bench.workloads import PAIRS, Workload, choose, made_up_edits, read_edits
from corlld.errors import ExitCode, FatalError
from corlld.learning.model.pairs import PairEncoder
from tests.support.tiny_models import tiny_resident


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> PairEncoder:
    return ours.make_encoder(tiny_resident(tiny_model).tokenizer)


@pytest.fixture(scope="module")
def workloads(encoder: PairEncoder) -> dict[str, Workload]:
    return choose(made_up_edits(), encoder)


def test_the_same_pairs_are_shared_out_among_16_4_and_1_users(workloads: dict[str, Workload]) -> None:
    for users in (16, 4, 1):
        workload = workloads[f"{users}x{PAIRS // users}"]
        assert [len(edits) for edits in workload.users] == [PAIRS // users] * users
        assert workload.pairs == workloads["16x1"].pairs
    assert len(set(workloads["16x1"].pairs)) == PAIRS


def test_contexts_and_changes_are_what_the_names_say(workloads: dict[str, Workload]) -> None:
    def mean_prompt(name: str) -> float:
        return sum(len(pair.prompt) for pair in workloads[name].pairs) / PAIRS

    def mean_changed(name: str) -> float:
        return sum((len(p.chosen) + len(p.rejected)) / p.tokens for p in workloads[name].pairs) / PAIRS

    assert mean_prompt("long") > mean_prompt("16x1")
    assert mean_changed("light") < mean_changed("16x1") < mean_changed("heavy")


def test_a_file_gives_its_edits_without_acceptances_erasures_and_broken_lines(tmp_path: Path) -> None:
    row = {"event_id": "1", "user_id": "u", "occurred_at": "2026-01-01T00:00:00Z", "prompt": "p", "proposed": "a"}
    rows = [row | {"edited": "b"}, row | {"edited": "a"}, {**row, "type": "erase"}, {"event_id": "2"}]
    file = tmp_path / "edits.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert [event.edited for event in read_edits(file)] == ["b"]


def test_too_few_edits_are_refused_in_a_sentence(encoder: PairEncoder) -> None:
    with pytest.raises(FatalError, match=f"15 usable edits, and the bench needs {PAIRS}") as caught:
        choose(made_up_edits()[:15], encoder)
    assert caught.value.exit_code == ExitCode.DATA
