"""A disk that refuses some files: what it answers cannot be made otherwise."""

import errno
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest


def refuse(
    monkeypatch: pytest.MonkeyPatch,
    paths: Collection[Path],
    calls: Collection[str] = ("read_bytes",),
    problem: int = errno.EIO,
) -> None:
    """Have these calls of `Path` answer with an error for these files and folders. `paths` may change afterwards."""
    for name in calls:
        monkeypatch.setattr(Path, name, _refusing(getattr(Path, name), paths, problem))


def _refusing(call: Any, paths: Collection[Path], problem: int) -> Any:
    def called(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if path in paths:
            raise OSError(problem, os.strerror(problem), str(path))
        return call(path, *arguments, **keywords)

    return called
