"""Tests of the local folder only: what a kill left of an earlier start."""

import os
import time
from pathlib import Path

from corlld.publishing.folder import FolderTarget
from corlld.system.durable_files import LEFT_OVER_AFTER_SECONDS


def test_the_start_removes_what_a_kill_left_of_an_earlier_one(tmp_path: Path) -> None:
    left_over = tmp_path / f".probe-{16 * '0'}"
    left_over.write_bytes(b"")
    then = time.time() - LEFT_OVER_AFTER_SECONDS - 1
    os.utime(left_over, (then, then))
    FolderTarget(tmp_path).open()
    assert list(tmp_path.iterdir()) == []
