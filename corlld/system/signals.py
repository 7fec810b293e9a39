"""SIGTERM and SIGINT ask for a stop. A second signal has its default effect: it ends the process at once.

A handler in Python runs in the main thread, between two of its instructions: never, if the main thread does not come
back from a call. `watched_stop` therefore watches the stop from another thread.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# A main thread that is only busy obeys a signal sooner. Two signals within this time are one request to stop, as some
# programs pass a signal on that the terminal has sent to their whole group.
OBEYED_WITHIN_SECONDS = 1.0


def let_the_next_end_the_process() -> None:
    """Give the stop signals their default effect: a handler calls it as it obeys the first one."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_DFL)


@contextmanager
def stop_on_signals(request_stop: Callable[[], None]) -> Iterator[None]:
    """Call `request_stop` on the first signal while the block runs; it may only set a flag.

    A second signal ends the process, also after the block: its end is a part of the stop.
    """
    obeyed = False

    def first(number: int, frame: FrameType | None) -> None:
        nonlocal obeyed
        obeyed = True
        let_the_next_end_the_process()
        request_stop()

    before = {number: signal.signal(number, first) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if not obeyed:
                signal.signal(number, handler)


@contextmanager
def watched_stop(seconds: float, give_up: Callable[[str], None]) -> Iterator[None]:
    """Call `give_up` in another thread if the block still runs `seconds` after a stop signal. It may end the process.

    `give_up` gets the reason, a clause. It is also called for a second signal if the main thread has not obeyed the
    first one, since then the default effect is not in place.

    The interpreter writes the number of each signal that has a handler in Python to a pipe, whichever call the signal
    interrupts. So the watching thread hears of the signal although the main thread hangs. It does not run while
    another thread keeps the interpreter's lock for ever: only SIGKILL ends such a process.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # `set_wakeup_fd` asks for it
    thread = threading.Thread(target=_watch, args=(reader, seconds, give_up), name="stop", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)  # ends the thread
        thread.join()
        os.close(reader)


def _watch(reader: int, seconds: float, give_up: Callable[[str], None]) -> None:
    """Read the numbers of signals until the pipe is closed. Then the block has ended, and all is well."""
    asked_at: float | None = None  # monotonic seconds
    while True:
        left = None if asked_at is None else max(0.0, asked_at + seconds - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            give_up(f"the process has not ended within {seconds:g} s of a stop signal")
            return
        numbers = os.read(reader, 256)
        if not numbers:
            return
        if not set(STOP_SIGNALS).intersection(numbers):
            continue
        if asked_at is None:
            asked_at = time.monotonic()
        elif time.monotonic() - asked_at > OBEYED_WITHIN_SECONDS:
            give_up("a second stop signal has come, and the first one was not obeyed")
            return
