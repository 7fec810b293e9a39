"""A site where the daemon runs, for the tests of commands."""

from pathlib import Path

import pytest

from tests.support.commands import SECRET, clear_settings
from tests.support.edits import edit, write_events


@pytest.fixture
def site(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where `corlld run` works on a file of 6 edits of 2 users; the tests then break one thing."""
    clear_settings(monkeypatch)
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "jsonl")
    monkeypatch.setenv("CORLLD_SOURCE__PATH", str(tmp_path / "events.jsonl"))
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(tiny_model))
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "state"))
    monkeypatch.setenv("CORLLD_PUBLISHING__PATH", str(tmp_path / "adapters"))
    monkeypatch.setenv("CORLLD_OPERATIONS__HTTP_ADDRESS", "127.0.0.1:0")
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "3")
    monkeypatch.setenv("CORLLD_LEARNING__LR", "1e-2")
    write_events(
        tmp_path / "events.jsonl", *(edit(n, user) for n in range(3) for user in ("ann", "bob")), edit(9, "ann")
    )
    return tmp_path
