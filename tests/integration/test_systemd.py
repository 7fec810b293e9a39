"""The unit and its user, judged by systemd's own tools, and run by a real systemd with every restriction in force."""

import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corlld.events.pseudonyms import Pseudonyms
from tests.support.commands import SECRET
from tests.support.edits import edit, lines
from tests.support.installation import ROOT, SYSUSERS, UNIT, build_wheel, unit_value
from tests.support.systemd_machine import Machine, why_not

LARGEST_EXPOSURE = 2.0  # of 10, as systemd-analyze counts; 1.7 when this was written
LOG = "/var/log/corlld.log"

SETTINGS = """\
[source]
kind = "jsonl"
path = "/srv/edits.jsonl"
follow = true
[model]
name = "/srv/model"
device = "cpu"
threads = 1
[batching]
flush_after_seconds = 0.1
"""


def tool(name: str) -> str:
    found = shutil.which(name)
    assert found, f"these tests need {name} (Debian: systemd)"
    return found


def test_the_unit_is_right_in_every_line(tmp_path: Path) -> None:
    # As it stands after an installation, but for a command that exists: what is missing is not a fault of the unit.
    unit = tmp_path / "corlld.service"
    unit.write_text(UNIT.read_text().replace("/opt/corlld/bin/corlld", "/bin/true"))
    done = subprocess.run([tool("systemd-analyze"), "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_has_few_privileges() -> None:
    analyze = [tool("systemd-analyze"), "security", "--offline=true", f"--threshold={LARGEST_EXPOSURE * 10:g}"]
    done = subprocess.run([*analyze, UNIT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_user_and_the_group_of_the_unit_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    sysusers = tmp_path / "usr/lib/sysusers.d"
    sysusers.mkdir(parents=True)
    shutil.copy(SYSUSERS, sysusers / "corlld.conf")
    subprocess.run([tool("systemd-sysusers"), f"--root={tmp_path}"], check=True, capture_output=True, text=True)
    users = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    groups = [line.split(":") for line in (tmp_path / "etc/group").read_text().splitlines()]
    ((name, _, _, gid, _, _, shell),) = users
    assert name == unit_value("User")
    assert shell.endswith("/nologin")
    assert [(group[0], group[2]) for group in groups] == [(unit_value("Group"), gid)]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Machine]:
    """A machine where corlld was installed as the unit file says, with a model and six edits of two users."""
    if why := why_not():
        pytest.skip(f"a systemd of its own {why}")  # says what is missing, or what would run it
    folder = tmp_path_factory.mktemp("machine")
    wheel = build_wheel(folder)
    with Machine(folder) as machine:
        machine.do("chmod", "755", "/srv", "/opt")
        machine.do(sys.executable, ROOT / "tests/support/installation.py", wheel, "/opt/corlld")
        machine.do("systemd-sysusers", SYSUSERS)
        machine.do("install", "-m", "644", UNIT, "/run/systemd/system/corlld.service")
        machine.do("cp", "-r", tiny_model, "/srv/model")
        machine.do("chmod", "-R", "a+rX", "/srv/model")
        six = lines(*(edit(n, user) for n in range(3) for user in ("ann", "bob")))
        machine.write("/srv/edits.jsonl", six.decode())
        machine.write("/etc/corlld/credentials/uid_secret", SECRET, 0o600)
        # Where this machine's Python is, perhaps in a home; and a file in place of the journal.
        python = f"{sys.base_prefix} {sysconfig.get_path('purelib')}"
        machine.write(
            "/run/systemd/system/corlld.service.d/machine.conf",
            f"[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={python}\nStandardOutput=append:{LOG}\nStandardError=append:{LOG}\n",
        )
        yield machine


@pytest.fixture
def unit(machine: Machine) -> Iterator[Machine]:
    """The machine with the unit not running, and settings that work."""
    machine.write("/etc/corlld/corlld.toml", SETTINGS)
    machine.do("systemctl", "daemon-reload")
    yield machine
    print(machine.run("cat", LOG).stdout)  # shown where a test fails
    machine.systemctl("kill", "--signal=KILL", "corlld")
    machine.systemctl("stop", "corlld")
    machine.systemctl("reset-failed", "corlld")
    machine.do("rm", "-rf", "/var/lib/corlld", "/run/systemd/system/corlld.service.d/test.conf", LOG)


def published(machine: Machine) -> list[str]:
    return machine.run("find", "/var/lib/corlld/adapters", "-name", "adapter_config.json").stdout.split()


def wait_for_versions_of_both(machine: Machine) -> list[str]:
    deadline = time.monotonic() + 60
    while len({Path(file).parts[-3] for file in published(machine)}) < 2:
        assert time.monotonic() < deadline, machine.run("cat", LOG).stdout
        machine.wait_for("corlld", ActiveState="active")
    return published(machine)


def test_the_unit_starts_the_installed_daemon_which_learns_publishes_and_stops(unit: Machine) -> None:
    unit.do("systemctl", "start", "corlld")  # returns at READY=1
    running = unit.wait_for("corlld", ActiveState="active", SubState="running")
    assert (running["User"], running["NRestarts"]) == ("corlld", "0")
    versions = wait_for_versions_of_both(unit)
    assert {Path(file).parts[-3] for file in versions} == {Pseudonyms(SECRET).uid(user) for user in ("ann", "bob")}
    running = unit.wait_for("corlld", StatusText="ready: 1 partition, 0 edits waiting, 2 versions published")
    assert "Operation not permitted" not in unit.do("cat", LOG)

    def as_nobody(group: str, *command: str) -> bool:
        return unit.run("setpriv", "--reuid=nobody", f"--regid={group}", "--clear-groups", *command).returncode == 0

    engines, others = unit_value("Group"), "nogroup"
    assert as_nobody(engines, "cat", versions[0])
    assert as_nobody(engines, "ls", "/var/lib/corlld/adapters")
    assert not as_nobody(engines, "ls", "/var/lib/corlld/state")
    assert not as_nobody(others, "cat", versions[0])
    assert not as_nobody(engines, "cat", f"/proc/{running['MainPID']}/environ")

    unit.do("systemctl", "stop", "corlld")
    stopped = unit.wait_for("corlld", ActiveState="inactive")
    assert (stopped["Result"], stopped["ExecMainStatus"]) == ("success", "0")


def test_wrong_settings_end_the_unit_and_it_is_not_started_again(unit: Machine) -> None:
    unit.write("/etc/corlld/corlld.toml", SETTINGS + "[learning]\nbeta = -1\n")
    assert unit.systemctl("start", "corlld").returncode != 0
    failed = unit.wait_for("corlld", ActiveState="failed")
    assert (failed["ExecMainStatus"], failed["NRestarts"]) == ("78", "0")
    assert "learning.beta: found -1" in unit.do("cat", LOG)


def test_a_broker_that_is_away_is_tried_again(unit: Machine) -> None:
    unit.write(
        "/etc/corlld/corlld.toml",
        '[kafka]\nbootstrap_servers = ["127.0.0.1:9"]\n[model]\nname = "/srv/model"\n'
        "[operations]\nstartup_timeout_seconds = 1.0\n",
    )
    assert unit.systemctl("start", "corlld").returncode != 0
    waiting = unit.wait_for("corlld", ActiveState="activating", SubState="auto-restart")
    assert waiting["ExecMainStatus"] == "69"


def test_a_daemon_that_no_longer_turns_is_ended_by_the_watchdog_and_started_again(unit: Machine) -> None:
    shorter = "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\nRestartSec=0\n"
    unit.write("/run/systemd/system/corlld.service.d/test.conf", shorter)
    unit.do("systemctl", "daemon-reload")
    unit.do("systemctl", "start", "corlld")
    wait_for_versions_of_both(unit)
    first = unit.show("corlld")
    assert first["NRestarts"] == "0"
    unit.do("kill", "-STOP", first["MainPID"])
    again = unit.wait_for("corlld", NRestarts="1", ActiveState="active", SubState="running")
    assert again["MainPID"] != first["MainPID"]
