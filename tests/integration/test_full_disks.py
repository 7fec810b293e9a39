"""Disks that are full or read-only. File modes do not stop root, so real mounts in a namespace of their own do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from corlld.events.pseudonyms import Pseudonyms
from tests.support.commands import SECRET


def in_namespace(mounts: str, site: Path, seconds: float = 120) -> tuple[int, str]:
    """Run `corlld run` in a mount namespace after `mounts`. Returns its exit code and its log, the file `log`."""
    unshare = shutil.which("unshare")
    assert unshare, "these tests need unshare (Debian: util-linux)"
    mine = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    script = f'{mounts} && exec "$0" -m corlld run 2>log'
    run = subprocess.run(
        [unshare, *mine, "sh", "-c", script, sys.executable],
        cwd=site,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=seconds,
        check=False,
    )
    return run.returncode, (site / "log").read_text()


@pytest.fixture
def mountpoint(site: Path) -> Path:
    folder = site / "state"
    folder.mkdir()
    return folder


def test_a_full_disk_at_the_start_is_said(site: Path, mountpoint: Path) -> None:
    fill = f"mount -t tmpfs -o size=64k tmpfs {mountpoint} && (cat /dev/zero > {mountpoint}/fill 2>/dev/null; true)"
    code, log = in_namespace(fill, site)
    assert code == 73, log
    assert "No space left on device" in log
    assert "Traceback" not in log


def test_a_folder_that_can_not_be_written_is_said(site: Path, mountpoint: Path) -> None:
    code, log = in_namespace(f"mount -t tmpfs -o ro tmpfs {mountpoint}", site)
    assert code == 73, log
    assert "Read-only file system" in log
    assert "Traceback" not in log


def test_a_disk_that_fills_up_later_is_waited_for_and_nothing_is_lost(site: Path, mountpoint: Path) -> None:
    # Room for store.json and little more: a state of the tiny model is larger, until the ballast goes.
    ballast = f"head -c 960k /dev/zero > {mountpoint}/ballast"
    # Ends with the process, which keeps the shell's id.
    wait = "until grep -q will_try_again log; do kill -0 $$ || exit; sleep 0.1; done"
    later = f"({wait}; rm {mountpoint}/ballast) &"
    code, log = in_namespace(
        f"mount -t tmpfs -o size=1m tmpfs {mountpoint} && {ballast} && {{ {later} }} && true", site
    )
    assert code == 0, log
    assert "will_try_again" in log
    assert "No space left on device" in log
    assert {folder.name for folder in (site / "adapters").iterdir()} == {
        Pseudonyms(SECRET).uid(user) for user in ("ann", "bob")
    }
