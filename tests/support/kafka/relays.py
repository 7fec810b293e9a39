"""Ways to a broker: a long one, and one on which the last answer comes together with the end of the connection."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.support.kafka.impostors import answering

HELD_SECONDS = 0.3  # the broker closes a connection within this time after its last answer


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


@contextmanager
def hanging_up(bootstrap: str) -> Iterator[str]:
    """Yield an address that stands for a broker, whose last answer arrives together with the end of the connection."""
    host, _, port = bootstrap.rpartition(":")

    def ask(client: socket.socket, broker: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                broker.sendall(data)

    def answer(client: socket.socket, broker: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # what is sent waits for more, or for the end
        with suppress(OSError):
            while data := broker.recv(65_536):
                client.sendall(data)
                if not select.select([broker], [], [], HELD_SECONDS)[0]:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            client.shutdown(socket.SHUT_RDWR)

    with ExitStack() as opened:

        def connect(client: socket.socket) -> None:
            broker = opened.enter_context(socket.create_connection((host, int(port))))
            for way in (ask, answer):
                threading.Thread(target=way, args=(client, broker), daemon=True).start()

        with answering(connect) as there:
            yield there
