"""Daemons of the tests: what each is waited for."""

import os
from pathlib import Path

from tests.support.daemon_process import Life


def test_a_daemon_is_not_taken_for_an_earlier_one_of_the_same_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"event": "partition_assigned"}\n')
    daemon = Life(os.getpid(), log, log.stat().st_size)

    before = daemon.logged("partition_assigned")
    with log.open("a") as appended:
        appended.write('{"event": "partition_assigned"}\n')

    assert (before, daemon.logged("partition_assigned")) == (False, True)
