"""A real systemd as process 1 of namespaces of its own: units are started, watched and restricted as on a machine.

The real machine is read-only in there. What is written to /etc, /opt, /srv, /var and /tmp lies in memory, and is gone
with it. It has a network of its own (loopback alone), its own units alone, and no journal: units write to files.
"""

import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import PAUSE_SECONDS, wait_until

BOOT_SECONDS = 30.0

# In a control group of its own, so that it finds no processes but its own in what it takes for the root.
_ENTER = """\
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$2"
echo 0 > "/sys/fs/cgroup/$2/cgroup.procs"
umount /sys/fs/cgroup
exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child sh "$1/boot.sh" "$1"
"""
_LEAVE = """\
mount -t cgroup2 cgroup2 /sys/fs/cgroup
find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} +
"""
_BOOT = """\
set -e
read -r pid rest < /proc/self/stat  # as it is called outside
echo "$pid" > "$1/pid"
mount --make-rprivate /
# Whatever a unit does, nothing of the real machine is written to: all of it is read-only here, before anything else.
cut -d' ' -f5 /proc/self/mountinfo | while read -r each; do mount -o remount,bind,ro "$each" 2>/dev/null || true; done
for each in / /tmp "$1" /var/tmp /dev/shm; do
    if touch "$each/.written" 2>/dev/null; then rm "$each/.written"; echo "$each can be written to"; exit 1; fi
done
mount -t proc -o ro proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
for each in etc opt srv tmp var; do
    mkdir -p "/run/over/$each/upper" "/run/over/$each/work"
    mount -t overlay -o "lowerdir=/$each,upperdir=/run/over/$each/upper,workdir=/run/over/$each/work" overlay "/$each"
done
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/systemd/system
for target in idle sysinit basic network-online shutdown multi-user; do
    printf '[Unit]\\nDefaultDependencies=no\\n' > "/run/systemd/system/$target.target"
done
mount --bind "$(tty)" /dev/console
mount --make-rshared /  # among its own; credentials are mounted for a unit by another process
# The units of the real machine are none of ours: some of them clean up /tmp, or set devices.
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    SYSTEMD_UNIT_PATH=/run/systemd/system SYSTEMD_GENERATOR_PATH=/run/systemd/none \\
    /lib/systemd/systemd --system --unit=idle.target --log-target=console --log-level=info --show-status=no
"""


def why_not() -> str | None:
    """Return why no such machine can be had here; None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/lib/systemd/systemd").exists():
        return "needs systemd (Debian: systemd)"
    probe = ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"needs namespaces and cgroup2: {done.stderr.strip()}"


class Machine:
    """Booted when made, gone when closed.

    Args:
        folder: for its pid and its console's log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        pid = folder / "pid"
        (folder / "enter.sh").write_text(_ENTER)
        (folder / "boot.sh").write_text(_BOOT)
        self._control_group = f"corlld-test-{uuid.uuid4().hex}"
        command = shlex.join(["unshare", "--mount", "sh", str(folder / "enter.sh"), str(folder), self._control_group])
        script = shutil.which("script")
        assert script, "needs script (Debian: bsdutils), for a terminal that becomes the console"
        self._console = subprocess.Popen(
            [script, "--quiet", "--flush", "--return", "--command", command, str(folder / "console.log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"), "its pid")
        self._pid = int(pid.read_text())
        self._wait_until(lambda: self.systemctl("is-system-running").stdout.strip() == "running", "a running system")

    def run(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        """A command in the machine, as root."""
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=False, cwd="/")

    def do(self, *command: str | Path) -> str:
        """A command that works; what it printed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.console()}"
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        self.do("install", "-d", str(Path(path).parent))
        self.do("sh", "-c", 'printf %s "$1" > "$2" && chmod "$3" "$2"', "sh", text, path, f"{mode:o}")

    def systemctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.run("systemctl", *arguments)

    def show(self, unit: str) -> dict[str, str]:
        """The unit's properties."""
        lines = self.do("systemctl", "show", unit).splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def wait_for(self, unit: str, seconds: float = 60.0, **properties: str) -> dict[str, str]:
        """Wait until the unit's properties are so, and return all of them."""
        deadline = time.monotonic() + seconds
        while True:
            shown = self.show(unit)
            if all(shown.get(name) == value for name, value in properties.items()):
                return shown
            there = {name: shown.get(name) for name in (*properties, "StatusText", "Result", "ExecMainStatus")}
            assert time.monotonic() < deadline, f"not {properties} within {seconds:g} s, but {there}\n{self.console()}"
            threading.Event().wait(PAUSE_SECONDS)

    def console(self) -> str:
        return (self._folder / "console.log").read_text(errors="replace")

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)  # of a namespace's first process: all of them end
        self._console.wait(BOOT_SECONDS)
        leave = ["unshare", "--mount", "sh", "-c", _LEAVE, "sh", self._control_group]
        subprocess.run(leave, check=True, capture_output=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        def holds() -> bool:
            if condition():
                return True
            assert self._console.poll() is None, f"systemd ended\n{self.console()}"
            return False

        wait_until(holds, what, BOOT_SECONDS, report=self.console)
