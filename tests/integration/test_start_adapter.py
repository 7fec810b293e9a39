"""New users begin from an adapter that `corlld replay --shared` made of an archive: check, run, and what is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from corlld.cli import main
from corlld.events.pseudonyms import Pseudonyms
from tests.support.commands import SECRET, fails
from tests.support.edits import append_events, edit, erasure, write_events


@pytest.fixture
def style(site: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The folder and the digest of an adapter that was learnt from an archive of two users."""
    archive = write_events(site / "archive.jsonl", *(edit(n, user) for n in range(6) for user in ("dan", "eve")))
    assert main(["replay", str(archive), "--shared", "--export", str(site / "style"), "--json"]) == 0
    exported: dict[str, Any] = json.loads(capsys.readouterr().out)["exported"]
    return exported


def manifest(site: Path, user: str) -> dict[str, Any]:
    """The manifest of the user's newest version."""
    newest = max((site / "adapters" / Pseudonyms(SECRET).uid(user)).iterdir())
    found: dict[str, Any] = json.loads((newest / "manifest.json").read_text())
    return found


def start(user: str, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Return the start adapter that `corlld state show` prints."""
    capsys.readouterr()
    assert main(["state", "show", user, "--json"]) == 0
    found: str | None = json.loads(capsys.readouterr().out)["start_adapter"]
    return found


def test_new_users_begin_from_the_exported_adapter_and_users_of_before_go_on_as_they_are(
    site: Path, style: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run"]) == 0
    monkeypatch.setenv("CORLLD_ADAPTER__START_PATH", style["folder"])
    monkeypatch.setenv("CORLLD_LEARNING__LR", "1e-9")
    assert main(["check"]) == 0
    assert f"new users begin from {style['folder']}, digest {style['digest'][:12]}" in capsys.readouterr().out
    append_events(site / "events.jsonl", edit(20, "ann"), edit(0, "cy"))
    assert main(["run"]) == 0
    assert "start_adapter_changed" in capsys.readouterr().err
    assert json.loads((site / "state" / "store.json").read_text())["start_adapter"] == style["digest"]
    assert (start("ann", capsys), start("cy", capsys)) == (None, style["digest"])
    assert "start_adapter" not in manifest(site, "ann")
    assert manifest(site, "cy")["start_adapter"] == style["digest"]
    # At this learning rate a step changes next to nothing: what is published is the style.
    newest = max((site / "adapters" / Pseudonyms(SECRET).uid("cy")).iterdir())
    own = safetensors.torch.load_file(newest / "adapter_model.safetensors")
    shared = safetensors.torch.load_file(Path(style["folder"]) / "adapter_model.safetensors")
    assert own.keys() == shared.keys()
    assert all(torch.allclose(own[name], shared[name], rtol=0, atol=1e-7) for name in own)

    monkeypatch.delenv("CORLLD_ADAPTER__START_PATH")
    append_events(site / "events.jsonl", edit(1, "cy"), edit(0, "fay"))
    assert main(["run"]) == 0
    assert (start("cy", capsys), start("fay", capsys)) == (style["digest"], None)
    append_events(site / "events.jsonl", erasure("cy"), edit(2, "cy"))
    assert main(["run"]) == 0
    assert start("cy", capsys) is None, "after an erasure nothing is left of the first beginning"


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_start_adapter_of_another_shape_ends_the_start(
    site: Path, style: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("CORLLD_ADAPTER__START_PATH", style["folder"])
    monkeypatch.setenv("CORLLD_ADAPTER__R", "2")
    sentence = f"adapter.start_path: {style['folder']} has r = 8, and adapter.r is 2; both must be equal"
    if command == "run":
        assert fails(capsys, "run") == (78, f"corlld: {sentence}")
    else:
        assert main(["check"]) == 78
        assert sentence in capsys.readouterr().out
