"""A daemon that hangs says over HTTP that it is not ready, and SIGTERM ends it: real processes, held by force."""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corlld.commands.ending import LAST_WORDS_SECONDS
from corlld.commands.run import CLOSING_SECONDS
from corlld.errors import ExitCode
from tests.support.daemon_process import Hold, Launcher, Life, http_get, http_port, tail, wait_while_running
from tests.support.edits import append_events, edit, write_events
from tests.support.waiting import wait_until

STALL_SECONDS = 1.0
SHUTDOWN_SECONDS = 2.0
FOREVER = 1e6
SLACK_SECONDS = 10.0  # a busy machine's


class Place:
    """A folder where a daemon follows a file of one edit. At most one daemon runs there."""

    def __init__(self, folder: Path, model: Path, launcher: Launcher) -> None:
        self.edits = write_events(folder / "edits.jsonl", edit(0))
        self.folder = folder
        self.log = folder / "log"
        self.life: Life | None = None
        self._launcher = launcher
        sections: dict[str, dict[str, object]] = {
            "source": {"kind": "jsonl", "path": str(self.edits), "follow": True},
            "model": {"name": str(model), "device": "cpu", "threads": 1},
            "batching": {"flush_after_seconds": 0.1},
            "state": {"path": str(folder / "state")},
            "publishing": {"path": str(folder / "adapters")},
            "operations": {
                "http_address": "127.0.0.1:0",
                "log_format": "json",
                "stall_after_seconds": STALL_SECONDS,
                "shutdown_timeout_seconds": SHUTDOWN_SECONDS,
            },
        }
        text = [
            f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in of.items()) for name, of in sections.items()
        ]
        self.config = folder / "corlld.toml"
        self.config.write_text("\n".join(text))

    def start(self, hold: Hold | None = None) -> Life:
        self.life = self._launcher.start(self.config, self.log, marks=self.folder / "marks", hold=hold)
        return self.life

    def versions(self) -> int:
        return len(list(self.folder.glob("adapters/*/*/manifest.json")))


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, launcher: Launcher) -> Iterator[Place]:
    place = Place(tmp_path, tiny_model, launcher)
    yield place
    if place.life is not None and place.life.code is None:
        place.life.kill()


def stop(daemon: Life) -> tuple[int, float]:
    """Stop it with SIGTERM. Returns its exit code, and how many seconds it took."""
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert daemon.ended.wait(60), "it did not end"
    assert daemon.code is not None
    return daemon.code, time.monotonic() - began


def wait_for_verdict(daemon: Life, port: int, path: str, verdict: str) -> None:
    wait_while_running(daemon, lambda: http_get(port, path)[1].startswith(verdict), f"{path}: {verdict}", 60)


@pytest.mark.parametrize("occurrence", [1, 2], ids=["in its first turn", "after it was ready"])
def test_a_main_thread_that_hangs_is_not_ready_and_sigterm_ends_it(place: Place, occurrence: int) -> None:
    daemon = place.start(Hold("polled", occurrence, FOREVER))
    port = http_port(daemon)
    if occurrence == 2:
        wait_while_running(daemon, lambda: place.versions() == 1, "a version", 60)
        wait_for_verdict(daemon, port, "/readyz", "ready")
        append_events(place.edits, edit(1))
    for path in ("/readyz", "/livez"):
        wait_for_verdict(daemon, port, path, "the loop has not turned for ")
        assert http_get(port, path)[0] == 503
    assert "corlld_ready 0.0" in http_get(port, "/metrics")[1]
    code, seconds = stop(daemon)
    assert code == ExitCode.INTERNAL
    assert SHUTDOWN_SECONDS < seconds < SHUTDOWN_SECONDS + CLOSING_SECONDS + LAST_WORDS_SECONDS + SLACK_SECONDS
    (entry,) = [json.loads(line) for line in place.log.read_text().splitlines() if '"gave_up"' in line]
    assert "Nothing is lost" in entry["problem"]
    assert any("in JsonlSource.poll" in frame or "marked_poll_file" in frame for frame in entry["main_thread"])
    # Nothing was committed that was not durable: the next daemon reads it again.
    again = place.start()
    wait_while_running(again, lambda: place.versions() == occurrence, "what was held up", 60)
    assert stop(again)[0] == ExitCode.OK


def test_a_store_that_never_returns_is_not_ready_and_is_abandoned_by_a_stop(place: Place) -> None:
    daemon = place.start(Hold("saving", 1, FOREVER))
    port = http_port(daemon)
    for path in ("/readyz", "/livez"):
        wait_for_verdict(daemon, port, path, "a call of the state store or the publisher has not returned for ")
    assert "corlld_ready 0.0" in http_get(port, "/metrics")[1]
    code, seconds = stop(daemon)
    assert (code, "stopped_with_work_under_way" in place.log.read_text()) == (ExitCode.OK, True), tail(place.log)
    assert seconds < SHUTDOWN_SECONDS + CLOSING_SECONDS + SLACK_SECONDS


def test_a_log_that_nobody_reads_holds_the_daemon_up_but_not_its_end(place: Place) -> None:
    os.mkfifo(place.log)
    unread = os.open(place.log, os.O_RDWR | os.O_NONBLOCK)
    fcntl.fcntl(unread, fcntl.F_SETPIPE_SZ, os.sysconf("SC_PAGESIZE"))
    said = b""

    def published() -> bool:
        nonlocal said
        try:
            said += os.read(unread, 4096)
        except BlockingIOError:
            return False
        return b'"published"' in said

    try:
        daemon = place.start()
        wait_until(published, "a version, and the log of it")  # a loop that hangs in this log makes no second version
        assert place.versions() == 1
        with contextlib.suppress(BlockingIOError):  # the pipe is full
            while True:
                os.write(unread, b"\n")
        append_events(place.edits, edit(1))
        wait_until(lambda: place.versions() == 2, "a version, of which the log can't tell")
        code, seconds = stop(daemon)
    finally:
        os.close(unread)
    assert code == ExitCode.INTERNAL
    assert seconds < SHUTDOWN_SECONDS + CLOSING_SECONDS + LAST_WORDS_SECONDS + SLACK_SECONDS
