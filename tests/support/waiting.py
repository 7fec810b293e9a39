"""Waiting for what other threads and processes do: for a condition, with a deadline, never for a length of time."""

import threading
import time
from collections.abc import Callable

PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.05  # between looks at the condition


def wait_until(
    condition: Callable[[], object],
    what: str,
    seconds: float = PATIENCE_SECONDS,
    *,
    pause_seconds: float = PAUSE_SECONDS,
    report: Callable[[], str] = lambda: "",
) -> None:
    """Return as soon as the condition holds. After so many seconds, fail with `what` was awaited, and the report."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{report()}"
        threading.Event().wait(pause_seconds)
