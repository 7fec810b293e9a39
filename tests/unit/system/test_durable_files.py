"""A look at the rights makes nothing, and looks at the very folder that a later write would need."""

import os
from pathlib import Path

import pytest

from corlld.errors import ExitCode, FatalError
from corlld.system.durable_files import check_permission


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """Paths and modes that the kernel is asked for; it refuses all. Root, who may run this test, has every right."""
    questions: list[tuple[Path, int]] = []

    def refuse(path: Path, mode: int) -> bool:
        questions.append((path, mode))
        return False

    monkeypatch.setattr(os, "access", refuse)
    return questions


def test_a_missing_folder_needs_the_right_to_the_nearest_one_above_it(
    tmp_path: Path, asked: list[tuple[Path, int]]
) -> None:
    with pytest.raises(FatalError, match=f"{tmp_path} can't be written") as caught:
        check_permission(tmp_path / "not" / "there")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_a_file_needs_the_right_to_itself(tmp_path: Path, asked: list[tuple[Path, int]]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FatalError, match=f"{file} can't be written"):
        check_permission(file)
    assert asked == [(file, os.W_OK)]


def test_what_may_be_written_is_not_made(tmp_path: Path) -> None:
    check_permission(tmp_path / "not" / "there")
    assert list(tmp_path.iterdir()) == []
