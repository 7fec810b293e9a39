"""The daemon as installed from its wheel, started by the unit's own command, with a test in systemd's place.

How it fares under a real systemd, with the unit's restrictions in force, is test_systemd.py's to tell.
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from corlld import __version__
from corlld.errors import ExitCode
from corlld.events.pseudonyms import Pseudonyms
from corlld.operations.notify import EXTENSION_SECONDS, STOP_MARGIN_SECONDS
from tests.support.commands import SECRET
from tests.support.daemon_process import ENVIRON, START_SECONDS, STOP_SECONDS, Hold, Launcher, tail
from tests.support.installation import ROOT, build_wheel, install, install_with_dependencies, unit_command
from tests.support.notify_listener import NotifyListener

WATCHDOG_SECONDS = 6.0
SHUTDOWN_TIMEOUT_SECONDS = 40.0


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A virtual environment with the wheel in it; with dependencies of its own where `make test-install` asks so."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = build_wheel(folder)
    if os.environ.get("CORLLD_TEST_INSTALL") != "dependencies too":
        install(wheel, folder / "environment")
        yield folder / "environment"
        return
    with tempfile.TemporaryDirectory() as gone_afterwards:  # gigabytes, of which pytest would keep three
        install_with_dependencies(wheel, Path(gone_afterwards))
        yield Path(gone_afterwards)


@dataclass(frozen=True)
class Place:
    """The things that systemd gives to the unit: folders, credentials, and a socket that is listened on."""

    folder: Path
    listener: NotifyListener

    @property
    def config(self) -> Path:
        return self.folder / "corlld.toml"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def environ(self) -> dict[str, str]:
        """All of the daemon's environment, but for WATCHDOG_PID."""
        return {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": "/nonexistent",
            "NOTIFY_SOCKET": self.listener.address,
            "WATCHDOG_USEC": str(round(WATCHDOG_SECONDS * 1e6)),
            "CREDENTIALS_DIRECTORY": str(self.folder / "credentials"),
            "STATE_DIRECTORY": str(self.folder / "lib"),
            "CACHE_DIRECTORY": str(self.folder / "cache"),
            "HF_HOME": str(self.folder / "cache/huggingface"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def write_settings(self, model: Path, **changes: Mapping[str, object]) -> None:
        """Write settings for a file of one edit, to which more edits are appended."""
        sections: dict[str, Mapping[str, object]] = {
            "source": {"kind": "jsonl", "path": str(self.folder / "edits.jsonl"), "follow": True},
            "model": {"name": str(model), "device": "cpu", "threads": 1},
            "batching": {"flush_after_seconds": 0.1},
            "state": {"path": str(self.folder / "lib/state")},
            "publishing": {"path": str(self.folder / "lib/adapters")},
            "operations": {"shutdown_timeout_seconds": SHUTDOWN_TIMEOUT_SECONDS},
        }
        lines = []
        for name, values in (sections | changes).items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.config.write_text("\n".join(lines) + "\n")


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path) -> Iterator[Place]:
    for name in ("credentials", "lib", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "credentials/uid_secret").write_text(SECRET + "\n")
    texts = {"prompt": "The sun\n", "proposed": "rises in the west.", "edited": "rises in the east."}
    event = {"event_id": "e1", "user_id": "ann", "occurred_at": "2026-01-02T12:00:00Z"} | texts
    (tmp_path / "edits.jsonl").write_text(json.dumps(event) + "\n")
    with NotifyListener(tmp_path / "notify") as listener:
        place = Place(tmp_path, listener)
        place.write_settings(tiny_model)
        yield place


@contextmanager
def started(command: Sequence[str], place: Place) -> Iterator["subprocess.Popen[bytes]"]:
    """The unit's command as systemd starts it: in an environment of its own, its pid known to it as the watched one."""
    with place.log.open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", 'export WATCHDOG_PID="$$"; exec "$@"', "sh", *command],
            cwd="/",
            env=place.environ(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        print(tail(place.log))  # shown where a test fails


def output(installed: Path, *arguments: str) -> str:
    command = [str(installed / "bin" / arguments[0]), *arguments[1:]]
    return subprocess.run(command, cwd="/", env={}, check=True, capture_output=True, text=True).stdout


def test_the_wheel_holds_every_file_of_the_package_and_is_what_gets_imported(installed: Path) -> None:
    assert output(installed, "corlld", "--version") == f"corlld {__version__}\n"
    assert "[kafka]" in output(installed, "corlld", "settings")
    package = Path(output(installed, "python", "-c", "import corlld; print(corlld.__file__, end='')")).parent
    assert package.is_relative_to(installed)

    def files(folder: Path) -> set[Path]:
        found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
        # The pages beside the code are for those who read it, and are not installed.
        return {file for file in found if "__pycache__" not in file.parts and file.suffix != ".md"}

    assert files(package) == files(ROOT / "corlld")


def test_its_life_is_told_from_the_load_to_the_stop(installed: Path, place: Place) -> None:
    heard = place.listener
    with started(unit_command(installed, place.config), place) as daemon:
        heard.wait_for("READY", "1", seconds=START_SECONDS)
        before = heard.names()[: heard.names().index("READY")]
        assert before.count("EXTEND_TIMEOUT_USEC") >= 1
        assert "WATCHDOG" not in before
        assert set(heard.values("EXTEND_TIMEOUT_USEC")) == {f"{EXTENSION_SECONDS * 1e6:.0f}"}
        assert heard.values("STATUS")[:3] == ["waiting for: input", "loading the model", "opening the state store"]
        extension = heard.all("EXTEND_TIMEOUT_USEC")[0].at
        loading, loaded = heard.wait_for("STATUS", "loading the model"), heard.wait_for("STATUS", count=3)
        assert loading.at <= extension <= loaded.at

        heard.wait_for("STATUS", "ready: 1 partition, 0 edits waiting, 1 version published", seconds=START_SECONDS)
        heard.wait_for("WATCHDOG", "1", count=4)
        pings = [ping.at for ping in heard.all("WATCHDOG")]
        assert all(later - earlier < WATCHDOG_SECONDS for earlier, later in pairwise(pings)), "systemd would end it"
        assert pings[3] - pings[0] > 3 * WATCHDOG_SECONDS / 3 - 1, "three to a timeout, but for when they are heard"

        extensions = len(heard.all("EXTEND_TIMEOUT_USEC"))
        daemon.send_signal(signal.SIGTERM)
        stopping = heard.wait_for("STOPPING", "1")
        assert daemon.wait(STOP_SECONDS) == ExitCode.OK
        (for_the_stop,) = heard.all("EXTEND_TIMEOUT_USEC")[extensions:]
        assert for_the_stop.datagram == stopping.datagram
        assert for_the_stop.value == f"{(SHUTDOWN_TIMEOUT_SECONDS + STOP_MARGIN_SECONDS) * 1e6:.0f}"
        assert heard.values("READY") == ["1"]
    assert [folder.name for folder in (place.folder / "lib/adapters").iterdir()] == [Pseudonyms(SECRET).uid("ann")]
    problems = [line for line in place.log.read_text().splitlines() if json.loads(line)["level"] != "info"]
    assert problems == []


def test_wrong_settings_end_it_before_anything_is_told(installed: Path, place: Place, tiny_model: Path) -> None:
    place.write_settings(tiny_model, learning={"beta": -1})
    with started(unit_command(installed, place.config), place) as daemon:
        assert daemon.wait(START_SECONDS) == ExitCode.CONFIGURATION
    assert "learning.beta: found -1" in place.log.read_text()
    assert place.listener.names() == []


def test_a_broker_that_is_away_ends_the_start_without_ready(installed: Path, place: Place, tiny_model: Path) -> None:
    with socket.socket() as taken:  # bound, and not listening: who connects is refused
        taken.bind(("127.0.0.1", 0))
        place.write_settings(
            tiny_model,
            source={"kind": "kafka"},
            kafka={"bootstrap_servers": [f"127.0.0.1:{taken.getsockname()[1]}"]},
            operations={"startup_timeout_seconds": 1.0},
        )
        with started(unit_command(installed, place.config), place) as daemon:
            assert daemon.wait(START_SECONDS) == ExitCode.UNAVAILABLE
    assert place.listener.names() == ["STATUS"]
    assert place.listener.values("STATUS") == ["waiting for: input"]


def test_a_stuck_trainer_stops_the_pings_of_a_daemon_that_goes_on(
    place: Place, tiny_model: Path, launcher: Launcher
) -> None:
    # Not the installed one: to be held, the trainer's thread has to be reached from inside.
    stall, held_for = 3.0, 3.0 + 3 * WATCHDOG_SECONDS
    place.write_settings(tiny_model, operations={"stall_after_seconds": stall})
    life = launcher.start(
        place.config,
        place.log,
        marks=place.folder / "marks",
        hold=Hold("training", 1, held_for),
        environ=ENVIRON | place.environ(),
    )
    heard = place.listener
    try:
        heard.wait_for("STATUS", "ready: 1 partition, 0 edits waiting, 1 version published", seconds=held_for + 60)
        stuck = [told.at for told in heard.all("STATUS") if told.value.startswith("the trainer has made no progress")]
        pings = [ping.at for ping in heard.all("WATCHDOG")]
        assert len(stuck) >= 3, "the loop turns, and tells how long it has been"
        assert stuck[-1] - stuck[0] > WATCHDOG_SECONDS, "long enough for systemd to end it"
        assert [at for at in pings if stuck[0] <= at <= stuck[-1]] == []
        assert pings[0] < stuck[0]
        heard.wait_for("WATCHDOG", count=len(pings) + 1)
        assert life.stop() == ExitCode.OK
    finally:
        if life.code is None:
            life.kill()
        print(tail(place.log))
