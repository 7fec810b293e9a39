"""Programs on loopback that are no brokers. Each yields its `host:port`, and ends with its block."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accepts connections, and calls `answer` with each. Connections that `answer` leaves open stay open."""
    with ExitStack() as opened:
        listening = opened.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            while True:
                try:
                    connection = opened.enter_context(listening.accept()[0])
                except OSError:  # the block has ended
                    return
                with suppress(OSError):  # the other side has gone
                    answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield address(listening)
        finally:
            listening.shutdown(socket.SHUT_RDWR)  # wakes `accept`
            thread.join()


@contextmanager
def silent() -> Iterator[str]:
    """Accepts connections, and says nothing."""
    with answering(lambda _: None) as there:
        yield there


@contextmanager
def closing() -> Iterator[str]:
    """Closes each connection at once."""
    with answering(lambda connection: connection.close()) as there:
        yield there


@contextmanager
def greeting(banner: bytes) -> Iterator[str]:
    """Says something of its own to whoever connects, as servers of mail or SSH do."""
    with answering(lambda connection: connection.sendall(banner)) as there:
        yield there


@contextmanager
def http() -> Iterator[str]:
    """Python's HTTP server: it waits for a whole line before it answers anything."""

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield address(server.socket)
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def swallowing() -> Iterator[str]:
    """Lets no connection come about, as a firewall that drops packets: its queue of connections is full."""
    with ExitStack() as opened:
        listening = opened.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield address(listening)


@contextmanager
def nobody() -> Iterator[str]:
    """Keeps a port that nobody listens on: connections are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield address(taken)


def address(bound: socket.socket) -> str:
    """Return where a socket is bound."""
    host, port = bound.getsockname()
    return f"{host}:{port}"
