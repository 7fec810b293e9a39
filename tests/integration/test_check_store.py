"""`corlld check`: what it says of the state store, also if the input or the model is not found."""

from pathlib import Path

import pytest

from corlld.cli import main

ANOTHER = "another secret, which is long enough too"


def lines_of(name: str, printed: str) -> list[str]:
    """Return the mark and the sentence of each line that `corlld check` printed of a part."""
    return [f"{line[:9].strip()}: {line[24:]}" for line in printed.splitlines() if line[9:23].strip() == name]


@pytest.mark.parametrize("missing", ["input", "model"])
def test_a_store_of_another_secret_is_found_also_without_the_input_or_the_model(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    assert main(["run"]) == 0
    if missing == "input":
        (site / "events.jsonl").unlink()
    else:
        monkeypatch.setenv("CORLLD_MODEL__NAME", "nobody/none")
    capsys.readouterr()
    assert main(["check"]) == 78
    (line,) = lines_of("state store", capsys.readouterr().out)
    assert line.startswith(f"skipped: {site / 'state'} belongs to this identity.secret; it is compared with input and")
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", ANOTHER)
    assert main(["check"]) == 78
    out = capsys.readouterr().out
    (line,) = lines_of("state store", out)
    assert line.startswith(f"problem: {site / 'state'}: the state store belongs to other settings: ")
    assert "identity.secret" in line
    assert ANOTHER not in out
