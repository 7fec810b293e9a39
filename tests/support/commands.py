"""Commands run in the process of the tests: their environment, their failures, and the rows that they print."""

import os

import pytest

from corlld.cli import main

SECRET = "a secret of the tests, which is long enough"


def clear_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every setting from the environment."""
    for name in [name for name in os.environ if name.startswith("CORLLD_") and not name.startswith("CORLLD_TEST_")]:
        monkeypatch.delenv(name)


def set_topic(monkeypatch: pytest.MonkeyPatch, bootstrap: str, topic: str) -> None:
    """Set a topic and nothing else: neither a secret nor a model is set, and the daemon's own input is a file."""
    clear_settings(monkeypatch)
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "jsonl")
    monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", bootstrap)
    monkeypatch.setenv("CORLLD_KAFKA__TOPIC", topic)
    monkeypatch.setenv("CORLLD_KAFKA__REQUEST_TIMEOUT_SECONDS", "2")
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "3")


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that is expected to fail. Returns its exit code and its sentences."""
    code = main(arguments)
    err = capsys.readouterr().err
    assert code != 0
    assert "Traceback" not in err
    problem = [line for line in err.splitlines() if line.startswith("corlld: ")]
    assert problem, err
    return code, "\n".join(problem)


def row(text: str, name: str) -> str:
    """Return the cells behind `name` in the one line of a printed table that begins with it."""
    (found,) = [line.split(name, 1)[1].strip() for line in text.splitlines() if line.strip().startswith(name)]
    return " ".join(found.split())
