"""The Makefile takes the first Python that runs and is new enough, and says so if there is none."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS, TOO_OLD = 0, 1  # what a Python that is asked for its version exits with
NOT_THERE = 127  # as pyenv's stand-ins do


def make(folder: Path, pythons: Mapping[str, int], *options: str) -> "subprocess.CompletedProcess[str]":
    """Make a virtual environment in `folder`, with these programs and no others in the path."""
    path = folder / "bin"
    path.mkdir()
    for tool in ("sh", "make"):
        (path / tool).symlink_to(shutil.which(tool) or tool)
    for name, code in pythons.items():
        (path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (path / name).chmod(0o755)
    command = ["make", *options, f"VENV={folder}/venv", f"{folder}/venv/.installed"]
    return subprocess.run(command, cwd=ROOT, env={"PATH": str(path)}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("pythons", "taken"),
    [
        ({"python3.11": RUNS, "python3.13": RUNS, "python3": RUNS}, "python3.11"),
        ({"python3.11": NOT_THERE, "python3.12": RUNS, "python3": RUNS}, "python3.12"),
        ({"python3.12": RUNS, "python3.13": RUNS}, "python3.13"),
        ({"python3": RUNS}, "python3"),
    ],
)
def test_the_first_python_that_is_new_enough_makes_the_environment(
    pythons: dict[str, int], taken: str, tmp_path: Path
) -> None:
    planned = make(tmp_path, pythons, "--dry-run").stdout
    assert f"|| {taken} -m venv {tmp_path}/venv\n" in planned


@pytest.mark.parametrize("pythons", [{}, {"python3": TOO_OLD}])
def test_without_such_a_python_one_sentence_says_what_is_needed(pythons: dict[str, int], tmp_path: Path) -> None:
    done = make(tmp_path, pythons)
    assert done.returncode != 0
    assert done.stderr.startswith("corlld needs Python 3.11 or newer, and none of these is: python3.11 python3.13 ")
    assert "venv" not in done.stdout
