"""`corlld replay`: the loop over an archive, on a store of its own, and a summary that can be trusted."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from corlld.cli import main
from tests.support.commands import SECRET
from tests.support.edits import edit, write_events


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
