"""corlld as people install it: a wheel, in an environment of its own, started by the unit's own command line."""

import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd/corlld.service"
SYSUSERS = ROOT / "systemd/corlld.sysusers"


def unit_values(key: str) -> list[str]:
    """Every value of a key in the unit file, in order; comments are none."""
    lines = (line.partition("=") for line in UNIT.read_text().splitlines())
    return [value for name, _, value in lines if name == key]


def unit_value(key: str) -> str:
    """The value of a key that stands there once."""
    (value,) = unit_values(key)
    return value


def unit_command(environment: Path, config: Path) -> list[str]:
    """The unit's command line, with its two paths mapped to where they are here."""
    here = {"/opt/corlld/bin/corlld": str(environment / "bin/corlld"), "/etc/corlld/corlld.toml": str(config)}
    command = shlex.split(unit_value("ExecStart"))
    assert set(here) <= set(command), command
    return [here.get(word, word) for word in command]


def build_wheel(folder: Path) -> Path:
    """Build from a copy of what belongs to a release: a build folder left in the tree would end up in the wheel."""
    source = folder / "source"
    shutil.copytree(ROOT / "corlld", source / "corlld", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _run(*_pip(), "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("corlld-*.whl")
    return wheel


def install(wheel: Path, environment: Path) -> None:
    """Make a virtual environment with the wheel in it, whose dependencies are this interpreter's.

    A .pth names their folder; the .pth files in there are not followed, so that a corlld which is installed there as
    editable can't be imported.
    """
    _run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _run(*_pip(), "--python", str(environment / "bin/python"), "install", "--no-deps", "--no-index", str(wheel))


def install_with_dependencies(wheel: Path, environment: Path) -> None:
    """Install into an empty environment, with the versions that were tested together, as the unit file asks for."""
    _run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    constraints = str(ROOT / "deploy/constraints.txt")
    _run(*_pip(), "--python", str(environment / "bin/python"), "install", "-c", constraints, str(wheel))


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":  # `installation.py WHEEL FOLDER`
    install(Path(sys.argv[1]), Path(sys.argv[2]))
