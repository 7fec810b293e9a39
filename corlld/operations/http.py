"""A small HTTP server in threads of its own: a slow or endless client delays neither other clients nor the loop.

Knows nothing of what it serves; see `site`.
"""

import errno
import io
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

import structlog

from corlld.errors import ConfigurationError, FatalError, UnavailableError

log = structlog.get_logger("corlld.http")

CLIENT_SECONDS = 5.0
MAX_CONNECTIONS = 32  # at a time; an answer takes milliseconds, so the oldest of that many belongs to a slow client
SHUTDOWN_POLL_SECONDS = 0.1


@contextmanager
def serving(address: str, app: WSGIApplication, *, client_seconds: float = CLIENT_SECONDS) -> Iterator[tuple[str, int]]:
    """Serve `app` while the block runs. Yields the host and the port; for port 0, the free port that was found.

    Args:
        address: `host:port`.
        app: called from several threads at a time.
        client_seconds: the connection is closed after a client neither sends nor reads for this long.

    Raises:
        UnavailableError: the port is in use. A daemon that is just ending may free it soon, so a service manager may
            try again.
        ConfigurationError: this machine can't listen on the address, however long it waits.
    """
    server = _listen(address, client_seconds)
    server.set_app(app)
    thread = threading.Thread(target=server.serve_forever, args=(SHUTDOWN_POLL_SECONDS,), name="http", daemon=True)
    thread.start()
    try:
        yield server.server_name, server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listen(address: str, client_seconds: float) -> "_Server":
    host, _, port = address.rpartition(":")
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _Server(family, place[:2], client_seconds)
    except socket.gaierror:
        raise _refused(address, "no such host") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        raise (_taken if error.errno == errno.EADDRINUSE else _refused)(address, why) from None


def _taken(address: str, why: str) -> FatalError:
    return UnavailableError(
        f"operations.http_address = {address}: {why}. Stop the program that listens there (another corlld?), or "
        "set operations.http_address to another port. An empty text turns the server off"
    )


def _refused(address: str, why: str) -> FatalError:
    return ConfigurationError(
        f"operations.http_address = {address}: {why}. Set it to an address of this machine, such as 127.0.0.1:9108. "
        "An empty text turns the server off"
    )


class _Handler(WSGIRequestHandler):
    server: "_Server"

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.client_seconds)

    def get_stderr(self) -> TextIO:
        # wsgiref would print a traceback here whenever a client goes away. The site logs its own failures.
        return io.StringIO()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: a request line may hold anything. The site logs the paths that it knows."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, a burst of clients has to wait until their system tries again

    def __init__(self, family: socket.AddressFamily, place: Any, client_seconds: float) -> None:
        self.address_family = family
        self.client_seconds = client_seconds
        self._open: dict[int, socket.socket] = {}  # oldest first
        self._lock = threading.Lock()
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        # Not http.server's own method: it asks the name service for our name, and may have to wait for the answer.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # IPv4 or IPv6: (host, port, ...)
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[id(request)] = request
            slow = next(iter(self._open.values())) if len(self._open) > MAX_CONNECTIONS else None
            if slow is not None:
                del self._open[id(slow)]
        if slow is not None:
            with _gone_already():
                slow.shutdown(socket.SHUT_RDWR)  # its thread then reads the end of the stream
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(id(request), None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a client that is slow or gone at debug level. The default prints a traceback."""
        log.debug("http_client_lost", exc_info=True)


@contextmanager
def _gone_already() -> Iterator[None]:
    """Ignore the error that says that the connection is closed already."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.EBADF):
            raise
