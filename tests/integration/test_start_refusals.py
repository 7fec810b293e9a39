"""Refused starts: each mistake is one clear sentence and its exit code, never a traceback."""

import json
import socket
import sys
import time
from pathlib import Path

import pytest

from corlld.cli import main
from corlld.errors import ExitCode
from tests.support.commands import fails
from tests.support.edits import edit, write_events
from tests.support.kafka.broker import KafkaCluster
from tests.support.tiny_models import make_tiny_model


def test_a_wrong_setting_names_the_key_what_was_found_what_is_allowed_and_where(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[learning]\nbeta = -1\nbetta = 2\n[batching]\nmax_events = 'many'\n")
    code, problem = fails(capsys, "run", "--config", str(file))
    assert code == 78
    assert "learning.beta: found -1" in problem
    assert "learning.betta" in problem
    assert "batching.max_events: found 'many'" in problem
    assert problem.count(str(file)) >= 3


def test_a_port_in_use_is_said_with_the_setting_before_anything_is_loaded(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("CORLLD_OPERATIONS__HTTP_ADDRESS", address)
        code, problem = fails(capsys, "run")
        assert code == 69
        assert f"operations.http_address = {address}: Address already in use" in problem
        assert "another port" in problem
        assert len(problem.splitlines()) == 1
        assert not (site / "state").exists()
        assert main(["check"]) == 0, "a check serves nothing"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"CORLLD_IDENTITY__SECRET": ""}, "identity.secret: not set"),
        ({"CORLLD_SOURCE__PATH": ""}, "source.path: not set"),
        ({"CORLLD_MODEL__NAME": "./no-model"}, "model.name: there is no folder"),
        ({"CORLLD_ADAPTER__START_PATH": "./no-style"}, "no-style/adapter_config.json is missing"),
        ({"CORLLD_STATE__URL": "s3://bucket/prefix", "CORLLD_DEAD_LETTERS__PATH": "letters.jsonl"}, "extra `s3`"),
        (
            {
                "CORLLD_SOURCE__KIND": "kafka",
                "CORLLD_KAFKA__BOOTSTRAP_SERVERS": "localhost:1",
                "CORLLD_KAFKA__SECURITY_PROTOCOL": "SSL",
                "CORLLD_KAFKA__SSL_CAFILE": "./no-ca.pem",
            },
            "no-ca.pem can't be used: No such file",
        ),
    ],
    ids=["secret", "input", "model", "start-adapter", "package", "certificate"],
)
def test_what_the_settings_alone_show_to_be_wrong_is_said_before_the_port_opens(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    said: str,
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "corlld.state.object_store", None)  # its package is not installed
    assert main(["run"]) == ExitCode.CONFIGURATION
    output = capsys.readouterr().err
    assert said in output
    assert "http_listening" not in output


def test_a_missing_settings_file(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, problem = fails(capsys, "run", "--config", str(site / "none.toml"))
    assert code == 78
    assert "none.toml" in problem


def test_a_missing_secret(site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("CORLLD_IDENTITY__SECRET")
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "identity.secret" in problem
    assert "uid_secret" in problem


def test_a_missing_model_folder(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(site / "no-model"))
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "there is no folder" in problem


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "can't be read"), ("", "has no passage"), ("short", "needed: more than 8")],
)
def test_wrong_passages_are_said_before_anything_is_learnt(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    content: str | None,
    said: str,
) -> None:
    file = site / "passages.txt"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_WEIGHT", "0.1")
    monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_PATH", str(file))
    assert main([command]) == 78
    output = capsys.readouterr()
    [line] = [line for line in (output.out + output.err).splitlines() if "learning.rehearsal_path: " in line]
    assert said in line
    assert not list((site / "adapters").glob("*"))


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("rehearsing", ["[learning]", "an arm"])
def test_passages_that_can_not_be_read_are_said_before_the_model_is_looked_at(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, rehearsing: str
) -> None:
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(site / "no-model"))
    monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_WEIGHT", "0.1" if rehearsing == "[learning]" else "0")
    if rehearsing == "an arm":
        arm = {"name": "rehearsing", "share": 0.5, "learning": {"rehearsal_weight": 0.1}}
        monkeypatch.setenv("CORLLD_EXPERIMENT__ARMS", json.dumps([arm]))
    monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_PATH", str(site / "none.txt"))
    assert main([command]) == 78
    output = capsys.readouterr()
    assert "learning.rehearsal_path: " in output.out + output.err
    assert "there is no folder" not in output.out + output.err


@pytest.mark.parametrize("command", ["run", "check"])
def test_dead_letters_below_a_file_are_refused_before_one_is_due(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__PATH", str(site / "events.jsonl" / "folder" / "letters.jsonl"))
    assert main([command]) == ExitCode.CANNOT_WRITE
    output = capsys.readouterr()
    assert f"can't be a folder: {site / 'events.jsonl'} is a file" in output.out + output.err


def test_a_broker_that_is_away_at_the_start_is_named_after_the_deadline(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
        monkeypatch.delenv("CORLLD_SOURCE__PATH")
        monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", address)
        started = time.monotonic()
        code, problem = fails(capsys, "run")
    assert code == 69
    assert address in problem
    assert "Connection refused" in problem
    assert time.monotonic() - started < 20


def test_a_missing_topic_is_named(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kafka_broker: KafkaCluster
) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
    monkeypatch.delenv("CORLLD_SOURCE__PATH")
    monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", kafka_broker.bootstrap)
    monkeypatch.setenv("CORLLD_KAFKA__TOPIC", "nobody-made-this")
    code, problem = fails(capsys, "run")
    assert code == 69
    assert "nobody-made-this" in problem


def test_a_store_of_another_secret_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run"]) == 0
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", "another secret, which is long enough too")
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "identity.secret" in problem
    assert "another secret" not in problem


@pytest.mark.parametrize(
    ("field", "meaning"),
    [("secret_fingerprint", "identity.secret"), ("cluster_id", "the input's cluster"), ("group", "kafka.group_id")],
)
def test_a_store_of_others_is_refused_before_the_model_is_loaded(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], field: str, meaning: str
) -> None:
    assert main(["run"]) == 0
    file = site / "state" / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: "others"}))
    monkeypatch.setitem(sys.modules, "corlld.learning.loaded_learner", None)  # whoever loads the model fails
    code, problem = fails(capsys, "run")
    assert code == ExitCode.CONFIGURATION
    assert problem.startswith(f"corlld: {site / 'state'}: the state store belongs to other settings: ")
    assert meaning in problem


def test_a_store_of_another_model_is_refused(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run"]) == 0
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(make_tiny_model(tmp_path / "other", seed=1)))
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "base model" in problem


def test_a_store_that_vanished_is_not_taken_for_new_users(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    (site / "state" / "store.json").unlink()
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "must not look like new users" in problem


def test_a_replaced_file_is_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    write_events(site / "events.jsonl", *(edit(n, "someone-else") for n in range(99)))
    code, problem = fails(capsys, "run")
    assert code == 65
    assert "replaced" in problem
