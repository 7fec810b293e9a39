"""A supervisor's end of the notify protocol: what was sent, in order, with when."""

import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self


class Heard(NamedTuple):
    """One `NAME=value` line. at: monotonic seconds. datagram: which one it came in."""

    at: float
    datagram: int
    name: str
    value: str


class NotifyListener:
    """Listens on a socket of its own, as systemd does, until closed.

    Args:
        address: as $NOTIFY_SOCKET has it: a path, or `@` and an abstract name.
    """

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address.replace("@", "\0", 1) if self.address.startswith("@") else self.address)
        self._changed = threading.Condition()
        self._heard: list[Heard] = []
        self._ended = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def all(self, name: str) -> list[Heard]:
        with self._changed:
            return [heard for heard in self._heard if heard.name == name]

    def values(self, name: str) -> list[str]:
        return [heard.value for heard in self.all(name)]

    def names(self) -> list[str]:
        with self._changed:
            return [heard.name for heard in self._heard]

    def wait_for(self, name: str, value: str | None = None, *, count: int = 1, seconds: float = 60.0) -> Heard:
        """The `count`-th line with that name (and value), as soon as it was heard. Fails after `seconds`."""

        def found() -> list[Heard]:
            return [heard for heard in self._heard if heard.name == name and value in (None, heard.value)]

        with self._changed:
            there = self._changed.wait_for(lambda: len(found()) >= count, seconds)
            assert there, f"{count} x {name}={value or '...'} not within {seconds:g} s; heard: {self._heard}"
            return found()[count - 1]

    def close(self) -> None:
        self._ended = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join(10)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        datagram = 0
        while True:
            lines = self._socket.recv(4096).decode().splitlines()
            if self._ended:
                return
            datagram += 1
            with self._changed:
                for line in lines:
                    name, _, value = line.partition("=")
                    self._heard.append(Heard(time.monotonic(), datagram, name, value))
                self._changed.notify_all()
