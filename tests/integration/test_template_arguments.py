"""`model.chat_template_kwargs`: the start refuses what no template reads; the learner gets what the template reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from corlld.assembly import build_daemon
from corlld.cli import main
from corlld.learning.model import pairs
from corlld.learning.model.control_tokens import ControlTokens
from corlld.learning.model.conversation import Conversation
from corlld.observer import Observer
from corlld.settings.load import load_settings
from tests.support.chat_templates import THINKING
from tests.support.commands import SECRET, clear_settings, row
from tests.support.edits import edit, write_events
from tests.support.tiny_models import make_tiny_model

EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_model(tmp_path_factory.mktemp("thinking"), chat_template=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% if messages[0].role == 'oracle' %}{{ 1 // 0 }}{% endif %}" + THINKING
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _settings(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear_settings(monkeypatch)
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "jsonl")
    monkeypatch.setenv("CORLLD_SOURCE__PATH", str(tmp_path / "edits.jsonl"))
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(model))
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "state"))
    monkeypatch.setenv("CORLLD_PUBLISHING__PATH", str(tmp_path / "adapters"))
    monkeypatch.setenv("CORLLD_OPERATIONS__HTTP_ADDRESS", "127.0.0.1:0")
    events = [edit(number, prompt=None, messages=[{"role": "user", "content": "When?"}]) for number in range(3)]
    oracle = edit(3, prompt=None, messages=[{"role": "oracle", "content": "When?"}])
    image = edit(4, prompt=None, messages=[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])
    write_events(tmp_path / "edits.jsonl", *events, oracle, image)


def give(monkeypatch: pytest.MonkeyPatch, **arguments: object) -> None:
    monkeypatch.setenv("CORLLD_MODEL__CHAT_TEMPLATE_KWARGS", json.dumps(arguments))


@pytest.mark.parametrize("command", ["check", "run"])
def test_an_argument_that_the_template_does_not_read_is_refused_with_a_sentence(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, enabel_thinking=False)
    assert main([command]) == 78
    captured = capsys.readouterr()
    sentence = "model.chat_template_kwargs: the model's chat template does not read enabel_thinking"
    assert sentence in " ".join((captured.out + captured.err).split())


def test_a_sample_shows_what_the_template_refuses_and_what_can_t_be_passed_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, enable_thinking=False)
    assert main(["check", "--sample", "10"]) == 0
    shown = capsys.readouterr().out
    assert row(shown, "valid") == "4 of 5 (80.0%)"
    assert row(shown, "unrenderable") == "1 of 4 (25.0%) the chat template refuses them"
    assert "unsupported_content: messages[].content; for example " in " ".join(shown.split())


def test_every_chat_is_learnt_in_the_context_that_the_setting_makes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    give(monkeypatch, enable_thinking=False)
    contexts: list[str | None] = []
    rendering = pairs.render_conversation

    def note(tokenizer: Any, control: ControlTokens, conversation: Conversation) -> str | None:
        text = rendering(tokenizer, control, conversation)
        shown = text
        for token, nonce in control.nonces.items():
            shown = shown and shown.replace(nonce, token)
        contexts.append(shown)
        return text

    monkeypatch.setattr(pairs, "render_conversation", note)
    build_daemon(load_settings(None), Observer()).run()
    assert contexts == [f"<|turn>user\nWhen?<turn|>\n<|turn>assistant\n{EMPTY_THOUGHT}"] * 3 + [None]
    assert list((tmp_path / "adapters").glob("*/v*"))
