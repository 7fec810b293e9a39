"""A cluster as it is seen over a long way: each answer comes late."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.support.kafka.impostors import answering


@contextmanager
def far_away(bootstrap: str, seconds: float) -> Iterator[str]:
    """Yield an address that stands for a broker, from which each answer comes so many seconds later.

    Only who asks this address waits: clients are sent on to the addresses that the brokers advertise.
    """
    host, _, port = bootstrap.rpartition(":")
    with ExitStack() as opened:

        def relay(source: socket.socket, target: socket.socket, delay: float) -> None:
            with suppress(OSError):
                while data := source.recv(65_536):
                    time.sleep(delay)  # not waiting for anything: it is the length of the way
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def connect(client: socket.socket) -> None:
            broker = opened.enter_context(socket.create_connection((host, int(port))))
            for way in ((client, broker, 0.0), (broker, client, seconds)):
                threading.Thread(target=relay, args=way, daemon=True).start()

        with answering(connect) as there:
            yield there
