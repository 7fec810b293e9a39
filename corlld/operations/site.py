"""The pages of the HTTP server: metrics, health and a landing page. They show no settings and no user's data."""

import html
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from corlld import __version__
from corlld.operations.health import Health

log = structlog.get_logger("corlld.http")

HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
)

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>corlld</title>
<style>
body {{ font-family: sans-serif; margin: 3em; line-height: 1.5 }}
td {{ padding-right: 2em }}
</style>
</head>
<body>
<h1>corlld</h1>
<p>Version {version}. A streaming online-learning daemon:
one LoRA adapter per user, learnt from the user's edits of drafts.</p>
<p><strong>{ready}</strong></p>
<table>
{rows}
</table>
<ul>
<li><a href="/metrics">/metrics</a>: metrics for Prometheus</li>
<li><a href="/livez">/livez</a>: 200 while nothing is stuck</li>
<li><a href="/readyz">/readyz</a>: 200 while the daemon learns from edits</li>
</ul>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer to a request; by default its body is plain text."""

    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/plain; charset=utf-8"),)


class Site:
    """The WSGI application that serves the pages. Several threads may call it at a time.

    Args:
        registry: the metrics to serve.
        health: judges readiness and liveness.
    """

    def __init__(self, registry: CollectorRegistry, health: Health) -> None:
        self._registry = registry
        self._health = health
        self._metrics_app: Any = make_wsgi_app(registry)
        self._routes: dict[str, Callable[[WSGIEnvironment], Response]] = {
            "/": self._landing_page,
            "/metrics": self._metrics,
            "/livez": lambda _: _verdict("ok", self._health.not_alive()),
            "/readyz": lambda _: _verdict("ready", self._health.not_ready()),
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        try:
            response = self._respond(method, path, environ)
        except Exception:  # a bug in a page must not end the learning: the answer and the log report it
            log.exception("http_bug")
            response = Response(HTTPStatus.INTERNAL_SERVER_ERROR, b"a bug in corlld: see http_bug in its log\n")
        # Log the path only if it is ours: a request may hold anything.
        log.debug("http_request", path=path if path in self._routes else None, status=response.status.value)
        length = ("Content-Length", str(len(response.body)))
        start_response(f"{response.status.value} {response.status.phrase}", [*response.headers, *HEADERS, length])
        return [] if method == "HEAD" else [response.body]

    def _respond(self, method: str, path: str, environ: WSGIEnvironment) -> Response:
        if (route := self._routes.get(path)) is None:
            return Response(HTTPStatus.NOT_FOUND, f"no such page; the pages are {', '.join(self._routes)}\n".encode())
        if method not in ("GET", "HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, b"allowed methods: GET, HEAD\n", (("Allow", "GET, HEAD"),))
        return route(environ)

    def _metrics(self, environ: WSGIEnvironment) -> Response:
        """Serve the metrics in the format and the compression that the request asks for."""
        status, headers = "", []

        def start_response(given_status: str, given_headers: list[tuple[str, str]]) -> None:
            nonlocal status, headers
            status, headers = given_status, given_headers

        body = b"".join(self._metrics_app({**environ, "REQUEST_METHOD": "GET"}, start_response))
        return Response(HTTPStatus(int(status.split()[0])), body, tuple(headers))

    def _landing_page(self, environ: WSGIEnvironment) -> Response:
        problem = self._health.not_ready()
        figures = {
            "Lag": self._figure("corlld_consumer_lag"),
            "Events buffered": self._figure("corlld_buffered_events"),
            "Users in host memory": self._figure("corlld_host_memory_users"),
            "Versions published since the start": self._figure("corlld_versions_published_total"),
            "Edits rejected since the start": self._figure("corlld_rejected_total"),
            "Records set aside since the start": self._figure("corlld_dead_letters_total"),
        }
        page = PAGE.format(
            version=html.escape(__version__),
            ready=html.escape("Ready." if problem is None else f"Not ready: {problem}."),
            rows="\n".join(f"<tr><td>{name}</td><td>{figure}</td></tr>" for name, figure in figures.items()),
        )
        return Response(HTTPStatus.OK, page.encode(), (("Content-Type", "text/html; charset=utf-8"),))

    def _figure(self, name: str) -> str:
        """Return the sum over a metric's series, or a dash if there are none yet."""
        families = self._registry.restricted_registry([name]).collect()
        values = [sample.value for family in families for sample in family.samples]
        return f"{sum(values):,.0f}" if values else "-"


def _verdict(good: str, problem: str | None) -> Response:
    if problem is None:
        return Response(HTTPStatus.OK, f"{good}\n".encode())
    return Response(HTTPStatus.SERVICE_UNAVAILABLE, f"{problem}\n".encode())
