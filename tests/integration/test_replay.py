"""`corlld replay`: the loop over an archive, on a store of its own, and a summary that can be trusted."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from corlld.cli import main
from corlld.events.pseudonyms import Pseudonyms
from tests.support.commands import SECRET, fails
from tests.support.edits import edit, erasure, write_events


@pytest.fixture
def replayed(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(tiny_model))
    monkeypatch.setenv("CORLLD_LEARNING__LR", "1e-2")

    def run(file: Path, *arguments: str) -> dict[str, Any]:
        assert main(["replay", str(file), "--json", *arguments]) == 0
        summary: dict[str, Any] = json.loads(capsys.readouterr().out)
        return summary

    return run


def test_each_user_gets_a_summary_and_bad_lines_are_counted(tmp_path: Path, replayed: Any) -> None:
    file = write_events(
        tmp_path / "archive.jsonl", *(edit(n, u) for n in range(12) for u in ("ann", "bob")), edit(99, "ann")
    )
    with file.open("a") as lines:
        lines.write("{broken\n")
    summary = replayed(file)
    assert [(user["events"], user["pairs"]) for user in summary["users"]] == [(13, 13), (12, 12)]
    assert summary["dead_letters"] == {"not_json": 1}
    assert all(user["prequential_accuracy"] is not None for user in summary["users"])
    assert all(user["edited_rise_nats"] > 0 for user in summary["users"]), "edits that repeat themselves are learnt"
    assert all(user["edited_rise_nats_last_quarter"] > user["edited_rise_nats"] for user in summary["users"])
    assert "user_id" not in summary["users"][0], "raw ids only where they are asked for"


def test_users_and_limit_choose_what_is_replayed(tmp_path: Path, replayed: Any) -> None:
    file = write_events(tmp_path / "archive.jsonl", *(edit(n, u) for n in range(6) for u in ("a", "b")), edit(9, "b"))
    summary = replayed(file, "--users", "1", "--limit", "2", "--show-users")
    assert [(user["user_id"], user["events"]) for user in summary["users"]] == [("b", 2)]


def test_a_first_event_alone_counts_in_no_accuracy(tmp_path: Path, replayed: Any) -> None:
    user = replayed(write_events(tmp_path / "archive.jsonl", edit(0)))["users"][0]
    assert (user["pairs"], user["prequential_pairs"], user["prequential_accuracy"]) == (1, 0, None)
    assert user["edited_rise_nats"] is None


def test_proposed_and_edited_exchanged_give_one_minus_the_base_preference(tmp_path: Path, replayed: Any) -> None:
    events = [edit(n, edited="goes " * (n % 4) + f"down {n}", proposed=f"sleeps {n * 7}") for n in range(9)]
    there = replayed(write_events(tmp_path / "there.jsonl", *events))["users"][0]
    turned = [{**each, "proposed": each["edited"], "edited": each["proposed"]} for each in events]
    back = replayed(write_events(tmp_path / "back.jsonl", *turned))["users"][0]
    assert 0 < there["base_preference"] < 1
    assert back["base_preference"] == pytest.approx(1 - there["base_preference"])


def test_a_replay_is_repeatable(tmp_path: Path, replayed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    file = write_events(tmp_path / "archive.jsonl", *(edit(n, u) for n in range(9) for u in ("ann", "bob")))
    assert replayed(file) == replayed(file)


def test_a_replay_learns_from_everybody_whatever_arms_the_settings_have(
    tmp_path: Path, replayed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    archive = write_events(tmp_path / "a.jsonl", *(edit(n) for n in range(4)))
    plain = replayed(archive)
    monkeypatch.setenv("CORLLD_EXPERIMENT__ARMS", '[{"name": "off", "share": 0.99, "holdout": true}]')
    assert replayed(archive) == plain


@pytest.mark.parametrize("secret", [SECRET, None])
def test_pseudonyms_are_printed_whole_and_those_of_no_store_are_called_so(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    secret: str | None,
) -> None:
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(tiny_model))
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", secret or "")
    assert main(["replay", str(write_events(tmp_path / "archive.jsonl", edit(0)))]) == 0
    printed = capsys.readouterr().out
    assert (Pseudonyms(SECRET).uid("ann") in printed.split()) == (secret is not None)
    assert ("of this replay alone: identity.secret is not set" in printed) == (secret is None)


def test_a_missing_archive_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_an_archive_of_another_format_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "archive.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    assert main(["replay", str(tmp_path / "archive.jsonl.gz")]) == 65
    assert "archive.jsonl.gz: it is compressed (gzip)" in capsys.readouterr().err


def test_a_byte_order_mark_is_no_part_of_an_archive(tmp_path: Path, replayed: Any) -> None:
    file = write_events(tmp_path / "archive.jsonl", edit(0), edit(1))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    summary = replayed(file, "--limit", "1")
    assert (summary["users"][0]["events"], summary["dead_letters"]) == (1, {})


def test_an_archive_without_a_usable_event_is_an_error(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(tiny_model))
    file = tmp_path / "archive.jsonl"
    file.write_text("garbage\n")
    assert main(["replay", str(file)]) == 65
    assert "it has no usable event (1 not_json)" in capsys.readouterr().err


# --- one adapter for all users ----------------------------------------------------------------------------------------


def archive_of_many(folder: Path) -> Path:
    """Three users, whose event ids are the same. Cy is erased, and edits once more; one event is there twice."""
    events = [{**edit(n, user), "event_id": str(n)} for n in range(4) for user in ("ann", "bob", "cy")]
    cloud = {"specversion": "1.0", "id": "c", "source": "s", "type": "app.edit", "time": "2026-01-02T12:00:00Z"}
    cloud["data"] = {name: value for name, value in edit(7, "bob").items() if name not in ("event_id", "occurred_at")}
    return write_events(folder / "many.jsonl", *events, erasure("cy"), edit(5, "cy"), cloud, events[0])


# PEFT 0.21 asks transformers 5 for a property by its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_one_adapter_for_all_users_is_exported_as_peft_has_it(tmp_path: Path, replayed: Any, tiny_model: Path) -> None:
    summary = replayed(archive_of_many(tmp_path), "--shared", "--export", str(tmp_path / "style"), "--show-users")
    (everyone,) = summary["users"]
    # Ann's 4, bob's 5 and cy's last one. What cy wrote before the erasure must not be in it.
    assert (everyone["user_id"], everyone["events"], everyone["pairs"]) == ("everyone", 10, 10)
    assert summary["dead_letters"] == {}
    assert sorted(file.name for file in (tmp_path / "style").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]
    data = (tmp_path / "style" / "adapter_model.safetensors").read_bytes()
    assert summary["exported"] == {"folder": str(tmp_path / "style"), "digest": hashlib.sha256(data).hexdigest()}
    assert json.loads((tmp_path / "style" / "manifest.json").read_text())["counts"]["pairs_applied"] == 10
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(tmp_path / "style"))
    assert any(weight.any() for name, weight in adapted.named_parameters() if ".lora_B." in name)


def test_a_limit_takes_no_erasure_away_from_a_shared_adapter(tmp_path: Path, replayed: Any) -> None:
    (everyone,) = replayed(archive_of_many(tmp_path), "--shared", "--limit", "2")["users"]
    assert everyone["events"] == 2 + 2 + 1


def test_users_whose_edits_are_shared_are_chosen_by_their_own_number(tmp_path: Path, replayed: Any) -> None:
    (everyone,) = replayed(archive_of_many(tmp_path), "--shared", "--users", "1")["users"]
    assert everyone["events"] == 5


def test_an_export_overwrites_nothing_and_needs_a_shared_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = archive_of_many(tmp_path)
    code, problem = fails(capsys, "replay", str(file), "--export", str(tmp_path / "style"))
    assert (code, "--export: needs --shared" in problem) == (2, True)
    code, problem = fails(capsys, "replay", str(file), "--shared", "--export", str(tmp_path))
    assert (code, f"--export: {tmp_path} is not empty" in problem) == (2, True)


def test_an_archive_of_acceptances_alone_gives_no_adapter_to_export(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(tiny_model))
    monkeypatch.setenv("CORLLD_LEARNING__ACCEPTANCE_WEIGHT", "0")
    file = write_events(tmp_path / "archive.jsonl", edit(0, proposed="the same", edited="the same"))
    code, problem = fails(capsys, "replay", str(file), "--shared", "--export", str(tmp_path / "style"))
    assert (code, "no edit of the archive could be learnt" in problem) == (65, True)
    assert not (tmp_path / "style").exists()
