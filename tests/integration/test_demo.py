"""`corlld demo` on a tiny model: everything but learning to be seen, which takes the real one (tests/real)."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from pydantic import SecretStr
from rich.console import Console
from transformers import AutoModelForCausalLM

from corlld.cli import main
from corlld.errors import FatalError
from corlld.settings.sections import Settings
from corlld.simulation.closed_loop import ClosedLoop
from corlld.simulation.demo_session import demo_settings, run
from corlld.simulation.drafting import DRAFTS_EACH, PeftEngine
from corlld.simulation.editors import WeakEditor
from corlld.simulation.personas import MIRA, TASTES
from corlld.simulation.prompts import TRAINING

EDITS = 2 * DRAFTS_EACH
MAX_NEW_TOKENS = 12


pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def settings(tiny_model: Path) -> Settings:
    return Settings.model_validate(
        {
            "model": {"name": str(tiny_model), "dtype": "float32", "device": "cpu"},
            "identity": {"secret": SecretStr("s" * 32)},
            "learning": {"lr": 1e-2},
            "guard": {"max_drift_nats": 100.0},
            "operations": {"shutdown_timeout_seconds": 20.0},
        }
    )


@pytest.fixture
def command(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CORLLD_") and not name.startswith("CORLLD_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(tiny_model))
    monkeypatch.setenv("CORLLD_MODEL__DTYPE", "float32")
    monkeypatch.setenv("CORLLD_GUARD__MAX_DRIFT_NATS", "100")


@pytest.mark.usefixtures("command")
def test_it_shows_figures_drafts_picture_and_how_to_load_an_adapter(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--edits", str(EDITS), "--folder", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    for step in ("looking up the model", "the base model drafts", "the adapters draft"):
        assert any(line.startswith(step) for line in out.splitlines()), "else a pipe is silent for minutes"
    for user in ("mira", "jonas"):
        assert f"{user}: {EDITS} drafts, edit ratio " in out  # no terminal here: plain lines
        assert f"{user}, asked: " in out
    assert out.count("before  ") == out.count("after   ") == 3
    assert f"ines (holdout): {EDITS} drafts, edit ratio " in out
    assert f"ines (holdout): {EDITS} drafts" in out.partition("version 2")[2], "after the others have learnt"
    (line,) = [line for line in out.splitlines() if line.startswith(f"ines (holdout): {EDITS} drafts")]
    assert line.endswith("rise -, version 0")
    rises = re.findall(rf"^(?:mira|jonas): {EDITS} drafts, .*, rise (-?\d+\.\d\d), version 2$", out, re.MULTILINE)
    assert len(rises) == 2
    assert out.count("rise: how much likelier") == 1
    (row,) = [line.split() for line in out.splitlines() if line.lstrip().startswith("ines (holdout) ")]
    assert row[2] == row[3], "the base model drafts for the holdout"
    assert (tmp_path / "demo" / "edits.png").read_bytes().startswith(b"\x89PNG")
    lines = out[out.index("To load one:") :].splitlines()[1:4]
    assert len(list((tmp_path / "demo" / "adapters").glob("*/v000002/adapter_config.json"))) == 2
    assert len(list((tmp_path / "demo" / "adapters").iterdir())) == 2, "nothing of the holdout"
    code = "; ".join(line.strip() for line in lines) + "; print(type(model).__name__)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "PeftModelForCausalLM"
    assert str(tiny_model) in code


@pytest.mark.usefixtures("command")
def test_where_every_step_is_undone_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_GUARD__MAX_DRIFT_NATS", "1e-12")
    assert main(["demo", "--edits", str(DRAFTS_EACH), "--folder", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    assert "version 0" in out
    assert "No adapter: every step was undone" in out


@pytest.mark.usefixtures("command")
def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("x")
    assert main(["demo", "--folder", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["demo", "--folder", str(tmp_path / "mine" / "demo")]) == 73


@pytest.mark.parametrize("alpha", ["0", "1.5", "much"])
def test_a_share_that_is_none_is_refused(alpha: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--alpha", alpha])
    assert ended.value.code == 2
    assert "--alpha" in capsys.readouterr().err


def test_a_terminal_gets_a_live_table(tmp_path: Path, settings: Settings, tiny_model: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    own = demo_settings(settings, tmp_path)
    editors = {taste.user_id: WeakEditor(1.0) for taste in TASTES}
    result = run(own, PeftEngine(tiny_model, own.model, MAX_NEW_TOKENS), editors, edits=EDITS, console=console)
    assert "at the start" in screen.getvalue()
    assert "newest draft" in screen.getvalue()
    assert screen.getvalue().count("for the held-out prompts") >= 2, "the two waits before and after are explained"
    assert [len([x for x in result.exchanges if x.user_id == user]) for user in editors] == [EDITS, EDITS]
    assert {x.version for x in result.exchanges[-2 * DRAFTS_EACH :]} == {
        1
    }  # the second round's drafts are the adapters'


def test_events_say_which_version_wrote_the_draft(tmp_path: Path, settings: Settings, tiny_model: Path) -> None:
    own = demo_settings(settings, tmp_path)
    engine = PeftEngine(tiny_model, own.model, MAX_NEW_TOKENS)
    with ClosedLoop(own, engine, {"mira": TRAINING.prompts(MIRA)}, {"mira": WeakEditor(1.0)}) as loop:
        for _ in range(2):
            loop.learn(loop.draft_and_edit(DRAFTS_EACH))
        assert loop.versions() == {"mira": 2}
    events = [json.loads(line) for line in (tmp_path / "edits.jsonl").read_text().splitlines()]
    assert [event["adapter_version"] for event in events] == [0] * DRAFTS_EACH + [1] * DRAFTS_EACH
    assert all(event["truncated"] in (True, False) for event in events)


def test_an_end_of_the_daemon_ends_the_loop_with_its_reason(
    tmp_path: Path, settings: Settings, tiny_model: Path
) -> None:
    own = demo_settings(settings, tmp_path)
    engine = PeftEngine(tiny_model, own.model, MAX_NEW_TOKENS)

    def lose_the_file() -> None:
        with ClosedLoop(own, engine, {"mira": TRAINING.prompts(MIRA)}, {"mira": WeakEditor(1.0)}) as loop:
            edited = loop.draft_and_edit(1)
            (tmp_path / "edits.jsonl").unlink()
            loop.learn(edited)

    with pytest.raises(FatalError, match=r"was re(moved|placed)"):
        lose_the_file()


def test_each_row_of_a_batch_is_drafted_with_its_own_users_adapter(
    tmp_path: Path, settings: Settings, tiny_model: Path
) -> None:
    own = demo_settings(settings, tmp_path)
    engine = PeftEngine(tiny_model, own.model, MAX_NEW_TOKENS)
    editors = {taste.user_id: WeakEditor(1.0) for taste in TASTES}
    result = run(own, engine, editors, edits=EDITS, console=Console(file=io.StringIO()))
    prompt = result.exchanges[0].prompt.text
    base = PeftEngine(tiny_model, own.model, MAX_NEW_TOKENS).draft([(None, prompt)])[0]
    users = list(editors)
    together = [draft.text for draft in engine.draft([(users[0], prompt), (None, prompt), (users[1], prompt)])]
    assert together[1] == base.text
    for user, text in zip(users, together[::2], strict=True):
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        alone = PeftModel.from_pretrained(model, result.adapters[user])
        inputs = engine._tokenizer(prompt, return_tensors="pt")
        ids = alone.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=engine._ends)
        assert engine._draft(ids[0, inputs["input_ids"].shape[1] :].tolist()).text == text
    assert len(set(together)) == 3
