"""A proxy before an HTTP server that loses requests and answers."""

import contextlib
import http.client
import random
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TIMEOUT_SECONDS = 30.0


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: callers are killed in the middle of a request."""


class FaultyProxy:
    """Passes requests on to an endpoint, and does to a share of them what networks and gateways do.

    faults: counts by kind. `lost request`: cut off before the server saw it. `lost answer`: the server obeyed, and the
    caller does not hear of it. `503`: refused. `late`: answered after a pause.
    """

    KINDS = ("lost request", "lost answer", "503", "late")

    def __init__(self, endpoint: str, share: float, seed: int) -> None:
        self.faults: Counter[str] = Counter()
        self._host = endpoint.removeprefix("http://")
        self._share = share
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def _pass_on(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on  # noqa: N815 - names of http.server

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self._next_fault()
        if fault == "lost request":
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "503":
            request.send_response(503)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        status, headers, answer = self._ask(request, body)
        if fault == "lost answer":
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "late":
            threading.Event().wait(0.5)
        with contextlib.suppress(OSError):  # the caller was killed meanwhile
            request.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    request.send_header(name, value)
            length = {n.lower(): v for n, v in headers}.get("content-length", "0")
            request.send_header("Content-Length", length if request.command == "HEAD" else str(len(answer)))
            request.end_headers()
            request.wfile.write(answer)

    def _ask(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            # The headers are signed, `Host` among them: they go on as they came.
            connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()

    def _next_fault(self) -> str | None:
        with self._lock:
            if self._draw.random() >= self._share:
                return None
            kind = self._draw.choice(self.KINDS)
            self.faults[kind] += 1
            return kind
