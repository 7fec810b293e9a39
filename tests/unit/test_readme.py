"""What the README tells of the program is what the program tells of itself."""

import subprocess
import sys
from pathlib import Path

import pytest

from corlld.cli import main
from corlld.settings.words import KEYS, SECTIONS, is_secret

ROOT = Path(__file__).parents[2]


def readme(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, ROOT / "deploy/readme.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_readme_is_not_behind_the_program() -> None:
    assert "<!-- settings:begin -->" in (ROOT / "README.md").read_text()
    checked = readme("--check", "README.md")
    assert checked.returncode == 0, checked.stderr


def test_a_part_that_is_behind_is_told_and_rewritten_and_nothing_else_is_touched(tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    before = "Before\n<!-- guide:begin -->\nby hand\n<!-- guide:end -->\n"
    copy.write_text(f"{before}<!-- settings:begin -->\nout of date\n<!-- settings:end -->\nAfter\n")
    assert readme("--check", copy).returncode == 1
    assert "out of date" in copy.read_text()
    assert readme(copy).returncode == 0
    assert readme("--check", copy).returncode == 0
    text = copy.read_text()
    assert text.startswith(f"{before}<!-- settings:begin -->\n")
    assert text.endswith("<!-- settings:end -->\nAfter\n")
    assert "out of date" not in text


def test_the_settings_tables_have_each_setting_once_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--markdown"]) == 0
    tables = ("\n\n" + capsys.readouterr().out).split("\n\n`[")[1:]
    assert [table.partition("]`")[0] for table in tables] == list(SECTIONS)
    for section, table in zip(SECTIONS, tables, strict=True):
        rows = [line for line in table.splitlines() if line.startswith("| `")]
        names = [(section, row.split("`")[1]) for row in rows]
        assert names == [name for name in KEYS if name[0] == section]
        for name, row in zip(names, rows, strict=True):
            assert row.replace("\\|", "").count("|") == 5, "four cells, whatever a description holds"
            assert KEYS[name]["description"].replace("|", "\\|") in row
            default = row.split(" | ")[1]
            assert bool(default) == (KEYS[name].get("default") is not None)
            assert is_secret(name) == ("the credential file `" in row)


def test_defaults_are_written_as_the_settings_file_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    main(["settings", "--markdown"])
    out = capsys.readouterr().out
    assert '| `topic` | `"edits"` |' in out
    assert "| `max_record_bytes` | `1_000_000` | an integer > 0 |" in out
    assert '| `cloudevents_edit_types` | `["*.edit"]` |' in out
