"""Signals ask for a stop, and a stop that never ends is given up: real signals, to this process and to others."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from corlld.errors import ExitCode
from corlld.system import signals
from corlld.system.signals import stop_on_signals, watched_stop

FOREVER = 1e6


@pytest.fixture(autouse=True)
def ignored_signals() -> Iterator[None]:
    """Handlers in Python that do nothing, in place of those that would end the tests."""
    before = {number: signal.signal(number, lambda *_: None) for number in (*signals.STOP_SIGNALS, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Watch:
    """Hears why a stop was given up."""

    def __init__(self) -> None:
        self.reason = ""
        self.gave_up = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reason = reason
        self.gave_up.set()


def test_a_block_that_outlives_its_time_after_a_signal_is_given_up() -> None:
    watch = Watch()
    with watched_stop(0.05, watch):
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.gave_up.wait(10)
    assert watch.reason == "the process has not ended within 0.05 s of a stop signal"


def test_without_a_stop_signal_and_after_its_end_a_block_is_not_given_up() -> None:
    watch, stopped = Watch(), threading.Event()
    with watched_stop(0.0, watch):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not watch.gave_up.wait(0.2)
    with watched_stop(FOREVER, watch), stop_on_signals(stopped.set):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(10)
    assert not watch.gave_up.is_set()
    assert signal.set_wakeup_fd(-1) == -1
    assert "stop" not in {thread.name for thread in threading.enumerate()}


def test_a_second_signal_that_nobody_obeys_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "OBEYED_WITHIN_SECONDS", 0.0)
    watch = Watch()
    with watched_stop(FOREVER, watch):
        while not watch.gave_up.wait(0.01):
            os.kill(os.getpid(), signal.SIGINT)
    assert watch.reason == "a second stop signal has come, and the first one was not obeyed"


def test_signals_that_come_together_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "OBEYED_WITHIN_SECONDS", FOREVER)
    watch = Watch()
    with watched_stop(FOREVER, watch):
        for _ in range(10):
            os.kill(os.getpid(), signal.SIGTERM)
            assert not watch.gave_up.wait(0.01)


HANGS = """
import ctypes, signal
from corlld.commands.ending import give_up
from corlld.operations.logs import configure_logging
from corlld.system.signals import stop_on_signals, watched_stop

def hang_in_c():
    mutex = ctypes.create_string_buffer(64)
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    print("hangs", flush=True)
    lock(mutex)

configure_logging("info", "json")
with watched_stop(0.1, give_up), stop_on_signals(lambda: print("obeyed", flush=True)):
    hang_in_c()
"""


def test_a_main_thread_that_never_comes_back_from_a_call_in_c_is_ended_with_one_entry_that_says_where() -> None:
    hanging = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert hanging.stdout is not None
        assert hanging.stdout.readline() == "hangs\n"
        hanging.send_signal(signal.SIGTERM)
        _, logged = hanging.communicate(timeout=30)
    finally:
        hanging.kill()
        hanging.wait()
    assert hanging.returncode == ExitCode.INTERNAL
    assert logged.count("\n") == 1
    assert '"gave_up"' in logged
    assert "the process has not ended within 0.1 s of a stop signal" in logged
    assert "in hang_in_c" in logged


SLOW_END = """
import signal, threading
from corlld.commands import run
from corlld.commands.ending import give_up
from corlld.system import signals

def slow_end():
    print("ends", flush=True)
    threading.Event().wait()

def start():
    for number in signals.STOP_SIGNALS:
        signal.signal(number, run._leave)
    try:
        print("runs", flush=True)
        threading.Event().wait()
    finally:
        slow_end()

def loop():
    stop = threading.Event()
    with signals.stop_on_signals(stop.set):
        print("runs", flush=True)
        stop.wait()
    slow_end()

signals.OBEYED_WITHIN_SECONDS = 0.0
with signals.watched_stop(60.0, give_up):
    {part}()
"""


@pytest.mark.parametrize("part", ["start", "loop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_what_obeys_the_first_and_is_no_hang(part: str, number: signal.Signals) -> None:
    code = SLOW_END.replace("{part}", part)
    ending = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert ending.stdout is not None
        for line in ("runs\n", "ends\n"):
            assert ending.stdout.readline() == line
            ending.send_signal(number)
        _, logged = ending.communicate(timeout=30)
    finally:
        ending.kill()
        ending.wait()
    assert (ending.returncode, logged) == (-number, "")
