"""The HTTP server on a real socket: its routes, slow clients, an address that is taken."""

import contextlib
import http.client
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from wsgiref.types import WSGIApplication

import pytest
from prometheus_client.parser import text_string_to_metric_families

from corlld.errors import ConfigurationError, ExitCode, RejectReason, UnavailableError
from corlld.operations import http as server
from corlld.operations.health import Health
from corlld.operations.liveness import Liveness
from corlld.operations.metrics_observer import MetricsObserver
from corlld.operations.prometheus import Metrics
from corlld.operations.site import Site
from corlld.records import PartitionStatus, Stage
from tests.support.fakes import loop_status
from tests.support.waiting import wait_until

Answer = tuple[int, str, dict[str, str]]


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode("latin-1"), dict(response.getheaders())


class Watched:
    """A site on a free port, whose daemon's state the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.health = Health(Liveness(300), lambda: self.now)
        self.metrics = Metrics(0.0, 10)
        self.observer = MetricsObserver(self.metrics, self.health, lambda: self.now)
        self.site = Site(self.metrics.registry, self.health)
        self.port = 0


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    with server.serving("127.0.0.1:0", watched.site) as (_, watched.port):
        yield watched


def test_readyz_says_what_the_start_waits_for_and_then_that_it_is_ready(watched: Watched) -> None:
    assert ask(watched.port, "/readyz")[:2] == (503, "waiting for: input\n")
    watched.health.starting(Stage.MODEL)
    assert ask(watched.port, "/readyz")[:2] == (503, "waiting for: model\n")
    watched.health.turned(loop_status(waiting_for=(Stage.INPUT, Stage.STATE)))
    assert ask(watched.port, "/readyz")[:2] == (503, "waiting for: input, state\n")
    watched.health.turned(loop_status())
    assert ask(watched.port, "/readyz")[:2] == (200, "ready\n")
    watched.health.turned(loop_status(stopping=True))
    assert ask(watched.port, "/readyz")[:2] == (503, "stopping\n")


def test_a_first_turn_that_never_ends_and_a_stop_that_hangs_are_neither_ready_nor_alive(watched: Watched) -> None:
    watched.health.starting(Stage.STATE)
    watched.health.loop_begins(0.0)
    watched.now = 301.0
    for path in ("/livez", "/readyz"):
        assert ask(watched.port, path)[:2] == (503, "the loop has not turned for 301 s\n")
    watched.health.turned(loop_status(now=400.0, stopping=True))
    watched.now = 800.0
    assert ask(watched.port, "/readyz")[:2] == (503, "stopping, but the loop has not turned for 400 s\n")


def test_livez_is_good_while_waiting_and_fails_where_something_is_stuck(watched: Watched) -> None:
    assert ask(watched.port, "/livez")[:2] == (200, "ok\n")
    watched.health.turned(loop_status(now=0.0, waiting_for=(Stage.INPUT,)))
    assert ask(watched.port, "/livez")[:2] == (200, "ok\n")
    watched.now = 301.0
    assert ask(watched.port, "/livez")[:2] == (503, "the loop has not turned for 301 s\n")
    assert ask(watched.port, "/readyz")[:2] == (503, "the loop has not turned for 301 s\n"), "not what it waited for"
    watched.health.turned(loop_status(now=301.0, training=True))
    watched.now = 302.0
    watched.health.turned(loop_status(now=302.0))
    assert ask(watched.port, "/readyz")[:2] == (200, "ready\n")


def test_metrics_are_served_as_text_and_compressed_where_that_is_asked_for(watched: Watched) -> None:
    status, body, headers = ask(watched.port, "/metrics")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    families = {family.name for family in text_string_to_metric_families(body)}
    assert {"corlld_records", "corlld_ready", "corlld_build_info", "process_cpu_seconds"} <= families
    _, _, headers = ask(watched.port, "/metrics", **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    _, body, headers = ask(watched.port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_the_landing_page_links_the_rest_and_says_how_it_goes(watched: Watched) -> None:
    status, page, headers = ask(watched.port, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert all(f'href="{path}"' in page for path in ("/metrics", "/livez", "/readyz"))
    assert "waiting for: input" in page
    assert "<script" not in page
    assert "<tr><td>Lag</td><td>-</td></tr>" in page
    status_of_loop = loop_status(
        partitions={0: PartitionStatus(1_200, 0.0), 1: PartitionStatus(34, 0.0)}, host_memory_users=5
    )
    watched.health.turned(status_of_loop)
    watched.observer.turned(status_of_loop)
    page = ask(watched.port, "/")[1]
    assert "<strong>Ready.</strong>" in page
    assert "<tr><td>Lag</td><td>1,234</td></tr>" in page
    assert "<tr><td>Users in host memory</td><td>5</td></tr>" in page
    assert "<tr><td>Edits rejected since the start</td><td>0</td></tr>" in page
    watched.metrics.learning.rejected.labels(RejectReason.REPETITIVE).inc(2)
    watched.metrics.learning.rejected.labels(RejectReason.DRIFT).inc()
    assert "<tr><td>Edits rejected since the start</td><td>3</td></tr>" in ask(watched.port, "/")[1]


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/..%2fmetrics", "/favicon.ico"])
def test_another_path_is_not_found(watched: Watched, path: str) -> None:
    assert ask(watched.port, path)[0] == 404


@pytest.mark.parametrize("path", ["/", "/metrics", "/livez", "/readyz"])
def test_other_methods_are_refused_and_head_has_no_body(watched: Watched, path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, _, headers = ask(watched.port, path, method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    with socket.create_connection(("127.0.0.1", watched.port), timeout=10) as client:
        client.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        head = b"".join(iter(lambda: client.recv(65_536), b"")).decode()
    assert head.split()[1] == str(ask(watched.port, path)[0])
    assert head.endswith("\r\n\r\n"), "nothing after the headers"
    assert "Content-Length: 0" not in head


def test_every_answer_forbids_scripts_guessing_and_caching(watched: Watched) -> None:
    for path in ("/", "/metrics", "/livez", "/nothing"):
        headers = ask(watched.port, path)[2]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_clients_that_say_nothing_hold_up_nobody_however_many_they_are(watched: Watched) -> None:
    with contextlib.ExitStack() as silent:
        clients = [
            silent.enter_context(socket.create_connection(("127.0.0.1", watched.port), timeout=10))
            for _ in range(2 * server.MAX_CONNECTIONS)
        ]
        clients[-1].sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        assert ask(watched.port, "/livez")[:2] == (200, "ok\n")
        assert clients[0].recv(1) == b"", "the oldest was closed for the others"


def test_the_connection_of_a_client_that_stays_silent_is_closed(watched: Watched) -> None:
    with (
        server.serving("127.0.0.1:0", watched.site, client_seconds=0.05) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=2) as client,
    ):
        assert client.recv(1) == b""


def wait_until_served(clients: int) -> None:
    """Wait until this many clients have a thread of the server."""

    def served() -> int:
        return sum("process_request_thread" in thread.name for thread in threading.enumerate())

    wait_until(lambda: served() == clients, f"{clients} clients", 10, pause_seconds=0.001)


def test_clients_that_go_away_or_do_not_read_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def endless(environ: object, start_response: Callable[..., object]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield from itertools.repeat(b"x" * 1_000_000)

    with server.serving("127.0.0.1:0", endless, client_seconds=0.5) as (_, port):
        wait_until_served(0)
        for request in (b"GET /livez HT", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(request)
                wait_until_served(1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, no goodbye
            wait_until_served(0)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            wait_until_served(1)
            wait_until_served(0)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err
    assert "Exception" not in printed.err


def test_a_bug_in_a_page_is_an_answer_too_and_quotes_nothing() -> None:
    class Broken(Health):
        def not_alive(self) -> str | None:
            raise RuntimeError("kanari7731")

    site = Site(Metrics(0.0, 10).registry, Broken(Liveness(300)))
    with server.serving("127.0.0.1:0", site) as (_, port):
        status, body, _ = ask(port, "/livez")
    assert status == 500
    assert "kanari7731" not in body


def no_app() -> WSGIApplication:
    return Site(Metrics(0.0, 10).registry, Health(Liveness(300)))


def test_a_port_that_is_taken_is_reported_with_the_setting_and_may_be_tried_again(watched: Watched) -> None:
    address = f"127.0.0.1:{watched.port}"
    taken = rf"operations\.http_address = {address}: Address already in use"
    with pytest.raises(UnavailableError, match=taken) as no, server.serving(address, no_app()):
        pass
    assert no.value.exit_code is ExitCode.UNAVAILABLE
    assert "another port" in str(no.value)


@pytest.mark.parametrize("address", ["192.0.2.1:9108", "no-such-host.invalid:9108"])
def test_an_address_that_is_not_this_machines_is_a_wrong_setting(address: str) -> None:
    wrong = rf"operations\.http_address = {address}"
    with pytest.raises(ConfigurationError, match=wrong), server.serving(address, no_app()):
        pass


def test_the_port_is_free_again_when_the_block_ends(watched: Watched) -> None:
    with server.serving("127.0.0.1:0", no_app()) as (_, port):
        assert ask(port, "/livez")[0] == 200
    with server.serving(f"127.0.0.1:{port}", no_app()):
        assert ask(port, "/livez")[0] == 200


def test_ipv6_addresses_work_where_the_machine_has_them() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback; `sysctl net.ipv6.conf.lo.disable_ipv6=0` gives it one")
    with server.serving("[::1]:0", no_app()) as (host, port):
        assert (host, port > 0) == ("::1", True)
