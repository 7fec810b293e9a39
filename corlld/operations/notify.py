"""Report the daemon's state to systemd, or to any supervisor that speaks its protocol (sd_notify).

READY=1 is sent with the loop's first turn: the input was reached within `operations.startup_timeout_seconds`, and the
model is resident. It is not delayed until the daemon waits for nothing. READY can't be taken back, and without it
systemd's start timeout would kill a daemon that holds a model and only waits for a broker that has just gone away.
After READY, STATUS and /readyz say what the daemon waits for.

While the model loads, a separate thread asks for more time, up to `operations.model_load_timeout_seconds`: loading
blocks the main thread, and a load that hangs must end in systemd's start timeout. The watchdog is fed by the loop's
own thread, and only while `Liveness` finds nothing stuck.

A socket that can't be used is logged once and otherwise ignored: learning does not depend on supervision, and a
supervisor that waits for READY or for a ping in vain has a timeout of its own.
"""

import socket
import threading
from collections.abc import Mapping, Sequence

import structlog

from corlld.durable import UserState
from corlld.observer import Observer
from corlld.operations.liveness import Liveness
from corlld.records import Arrival, LoopStatus, Stage
from corlld.settings.sections import OperationsSettings

log = structlog.get_logger("corlld.notify")

EXTEND_EVERY_SECONDS = 10.0
EXTENSION_SECONDS = 30.0  # three missed requests
STOP_MARGIN_SECONDS = 15.0  # beyond the shutdown timeout: to close the parts and to end the interpreter
STATUS_EVERY_SECONDS = 3.0
PINGS_PER_TIMEOUT = 3

_STARTING = {
    Stage.INPUT: "waiting for: input",
    Stage.MODEL: "loading the model",
    Stage.STATE: "opening the state store",
}


class NotifySocket:
    """The datagram socket that $NOTIFY_SOCKET names. Never blocks, never raises; thread-safe.

    Args:
        address: a path, or `@` and an abstract name. Empty or None: there is no supervisor, and nothing is sent.
    """

    def __init__(self, address: str | None) -> None:
        self._address: str | None = None
        self._failing = False
        if address and address[0] not in "/@":
            log.warning("notify_socket_unusable", problem="allowed: a path, or @ and an abstract name")
        elif address:
            self._address = address if address[0] == "/" else "\0" + address[1:]
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # A supervisor that does not read must not block the loop. What it missed is sent again or soon out of date.
            self._socket.setblocking(False)

    def send(self, *assignments: str) -> bool:
        """Send `NAME=value` lines as one datagram. Returns False if it was not sent."""
        if self._address is None:
            return False
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            if not self._failing:
                log.warning("notify_socket_unusable", problem=error.strerror or str(error))
            self._failing = True
            return False
        self._failing = False
        return True

    def close(self) -> None:
        if self._address is not None:
            self._address = None
            self._socket.close()


def watchdog_timeout(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds within which the supervisor wants a ping; None if it wants none from this process."""
    asked = environ.get("WATCHDOG_USEC", "")
    if not asked or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    if not asked.isdecimal() or int(asked) == 0:
        log.warning("watchdog_time_unusable", problem="WATCHDOG_USEC is no positive number of microseconds")
        return None
    return int(asked) / 1e6


class Notifier(Observer):
    """Reports the start and the turns of the loop to the supervisor.

    Args:
        notify_socket: the supervisor's socket.
        operations: `model_load_timeout_seconds` and `shutdown_timeout_seconds`.
        liveness: receives each turn before this observer does.
        watchdog_seconds: see `watchdog_timeout`.
        extend_every_seconds: pause between requests for more time while the model loads.
    """

    def __init__(
        self,
        notify_socket: NotifySocket,
        operations: OperationsSettings,
        liveness: Liveness,
        watchdog_seconds: float | None,
        extend_every_seconds: float = EXTEND_EVERY_SECONDS,
    ) -> None:
        self._socket = notify_socket
        self._operations = operations
        self._liveness = liveness
        self._ping_every_seconds = watchdog_seconds and watchdog_seconds / PINGS_PER_TIMEOUT
        self._extend_every_seconds = extend_every_seconds
        self._started = threading.Event()  # or given up: ask for no more time
        self._extending: threading.Thread | None = None
        self._sent_ready = False
        self._sent_stopping = False
        self._next_ping = 0.0
        self._next_status = 0.0
        self._line = ""
        self._versions = 0

    def starting(self, waiting_for: Stage) -> None:
        """See `Observer`."""
        self._socket.send(f"STATUS={_STARTING[waiting_for]}")
        if waiting_for is Stage.MODEL:
            self._extending = threading.Thread(target=self._extend_start, name="notify", daemon=True)
            self._extending.start()

    def published(self, state: UserState, arrivals: Sequence[Arrival], seconds: float) -> None:
        """See `Observer`."""
        self._versions += not state.erased

    def turned(self, status: LoopStatus) -> None:
        """See `Observer`."""
        self._started.set()
        problem = self._liveness.problem(status.now)
        if not self._sent_ready and not status.stopping:
            self._sent_ready = self._socket.send("READY=1")
        if status.stopping and not self._sent_stopping:
            needed = self._operations.shutdown_timeout_seconds + STOP_MARGIN_SECONDS
            self._sent_stopping = self._socket.send("STOPPING=1", _extension(needed))
            self._next_status = status.now
        if self._ping_every_seconds and problem is None and status.now >= self._next_ping:
            self._socket.send("WATCHDOG=1")
            self._next_ping = status.now + self._ping_every_seconds
        line = _line(status, problem, self._versions)
        if line != self._line and status.now >= self._next_status and self._socket.send(f"STATUS={line}"):
            self._line = line
            self._next_status = status.now + STATUS_EVERY_SECONDS

    def close(self) -> None:
        """Stop asking for time and close the socket. Also for a start that failed."""
        self._started.set()
        if self._extending is not None:
            self._extending.join()
        self._socket.close()

    def _extend_start(self) -> None:
        left = self._operations.model_load_timeout_seconds
        while left > 0 and not self._started.is_set():
            self._socket.send(_extension(EXTENSION_SECONDS))
            self._started.wait(min(left, self._extend_every_seconds))
            left -= self._extend_every_seconds


def _extension(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def _line(status: LoopStatus, problem: str | None, versions: int) -> str:
    if problem is not None:
        return problem
    if status.stopping:
        return f"stopping: {_count(status.buffered_events, 'edit')} not finished"
    if status.waiting_for:
        return f"waiting for: {', '.join(status.waiting_for)}"
    return (
        f"ready: {_count(len(status.partitions), 'partition')}, {_count(status.buffered_events, 'edit')} waiting, "
        f"{_count(versions, 'version')} published"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
