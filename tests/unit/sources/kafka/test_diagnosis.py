"""Sentences on why a cluster is not reached, and what a probe makes of unusual programs."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from kafka.protocol.consumer import FetchRequest
from kafka.protocol.metadata import ApiVersionsResponse, MetadataRequest
from structlog.testing import capture_logs

from corlld.errors import ConfigurationError
from corlld.sources.kafka import diagnosis
from corlld.sources.kafka.diagnosis import (
    Diagnosis,
    Finding,
    advertised_sentence,
    bootstrap_sentence,
    compare,
    find,
    probe,
)
from corlld.sources.kafka.options import client_options
from corlld.sources.kafka.probes import Listener, Place
from tests.support.kafka import impostors
from tests.support.kafka.topics import kafka_settings

PASSWORD = "pass-0f-the-tests"
PASSING = Finding("it sleeps", "wake it")
CERTAIN = Finding("it is a teapot", certain=True)


def options(address: str = "a:1", **more: Any) -> dict[str, Any]:
    return client_options(kafka_settings(address, "edits", **more))


def sasl(protocol: str, mechanism: str = "PLAIN") -> dict[str, Any]:
    return {"security_protocol": protocol, "sasl_mechanism": mechanism} | {
        "sasl_plain_username": "corlld",
        "sasl_plain_password": PASSWORD,
    }


@pytest.mark.parametrize(
    ("listener", "settings"),
    [
        (Listener(tls=False, mechanisms=()), {}),
        (Listener(tls=True, mechanisms=()), {"security_protocol": "SSL"}),
        (Listener(tls=False, mechanisms=("PLAIN",)), sasl("SASL_PLAINTEXT")),
        (Listener(tls=True, mechanisms=("SCRAM-SHA-512", "PLAIN")), sasl("SASL_SSL")),
        (Listener(tls=True, mechanisms=None), sasl("SASL_SSL")),  # a service that does not say
    ],
)
def test_a_listener_of_the_kind_that_is_set_is_fine(listener: Listener, settings: dict[str, Any]) -> None:
    assert compare(listener, options(**settings)) is None


@pytest.mark.parametrize("listener", [Listener(False, ()), Listener(True, ()), Listener(False, ("PLAIN",))])
@pytest.mark.parametrize("settings", [{}, {"security_protocol": "SSL"}, sasl("SASL_PLAINTEXT"), sasl("SASL_SSL")])
def test_a_listener_of_another_kind_is_named_with_the_setting_that_it_needs(
    listener: Listener, settings: dict[str, Any]
) -> None:
    found = compare(listener, options(**settings))
    if listener.protocol == settings.get("security_protocol", "PLAINTEXT"):
        assert found is None
        return
    assert found is not None
    assert found.certain
    assert found.advice("anything").startswith(f"set kafka.security_protocol = {listener.protocol}")


def test_addresses_with_the_same_cause_share_a_sentence_and_others_follow() -> None:
    found = {"a:1": PASSING, "b:2": CERTAIN, "c:3": PASSING}
    assert bootstrap_sentence(found) == (
        "a:1, c:3: it sleeps: wake it, or correct kafka.bootstrap_servers; "
        "b:2: it is a teapot: correct kafka.bootstrap_servers"
    )
    assert advertised_sentence(found, ["x:9", "y:9"]) == (
        "x:9, y:9 answers and advertises a:1, c:3, but it sleeps: wake it, or correct advertised.listeners of that "
        "broker; and b:2, but it is a teapot: correct advertised.listeners of that broker"
    )
    many = bootstrap_sentence(dict.fromkeys(("a:1", "b:2", "c:3", "d:4", "e:5"), CERTAIN))
    assert many == "a:1, b:2, c:3 and 2 more: it is a teapot: correct kafka.bootstrap_servers"
    assert bootstrap_sentence({}) is advertised_sentence({}, ["x:9"]) is None


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what probes of the addresses a:1 and b:2 find from now on."""

    def set_found(**found: Finding) -> None:
        addresses = {"a": "a:1", "b": "b:2"}
        monkeypatch.setattr(diagnosis, "find", lambda *_: {addresses[name]: one for name, one in found.items()})

    return set_found


def test_a_sentence_is_logged_once_and_another_one_again(finds: Callable[..., None]) -> None:
    watched = Diagnosis(options() | {"bootstrap_servers": ["a:1", "b:2"]})

    def logged() -> list[str]:
        with capture_logs() as entries:
            watched.look_at_bootstrap_servers()
        assert all((e["event"], e["log_level"]) == ("kafka_not_reached", "warning") for e in entries)
        return [e["problem"] for e in entries]

    finds(a=PASSING)
    assert logged() == [watched.problem]
    assert logged() == []
    finds(a=PASSING, b=PASSING)
    assert logged() == [watched.problem]
    finds()
    assert logged() == []
    assert watched.problem is None
    finds(a=PASSING)
    assert len(logged()) == 1
    watched.forget()
    assert len(logged()) == 1, "the cluster was reached in between"


def test_it_is_refused_only_if_waiting_helps_at_no_address(finds: Callable[..., None]) -> None:
    watched = Diagnosis(options() | {"bootstrap_servers": ["a:1", "b:2"]})
    finds(a=CERTAIN)
    watched.look_at_bootstrap_servers()
    finds(a=CERTAIN, b=PASSING)
    watched.look_at_bootstrap_servers()
    finds(a=CERTAIN, b=CERTAIN)
    with capture_logs() as entries:
        for _ in range(2):  # a daemon that runs tries again all the same
            with pytest.raises(ConfigurationError, match="a:1, b:2: it is a teapot"):
                watched.look_at_bootstrap_servers()
    assert len(entries) == 1
    with pytest.raises(ConfigurationError, match="answers and advertises a:1, b:2, but it is a teapot"):
        watched.look_at_brokers(["b:2", "a:1"])


def test_a_name_service_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: hang.wait(30) and [])
    monkeypatch.setattr(diagnosis, "PROBE_SECONDS", 0.2)
    began = time.monotonic()
    found = find(["kafka:9092"], options())
    hang.set()
    assert time.monotonic() - began < 5
    assert found["kafka:9092"].seen == "the name can't be resolved (the name service does not answer)"


@pytest.mark.parametrize("name", ["a" * 64 + ".example", "a..example"])
def test_what_can_not_be_a_name_is_a_finding(name: str) -> None:
    found = find([f"{name}:9092"], options())
    assert found[f"{name}:9092"].seen == "the name can't be resolved (it can't be a name)"


def receive(connection: socket.socket) -> bytes:
    size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    return connection.recv(size, socket.MSG_WAITALL)


def answer_api_versions(connection: socket.socket) -> bytes:
    """Answer one request for the versions as a broker does that knows two kinds of requests. Return the request."""
    if not (request := receive(connection)):
        raise ConnectionError
    key = ApiVersionsResponse.ApiVersion
    keys = [key(api_key=kind.API_KEY, min_version=0, max_version=9) for kind in (FetchRequest, MetadataRequest)]
    response = ApiVersionsResponse(version=0, error_code=0, api_keys=keys)
    response.with_header(correlation_id=1)
    connection.sendall(response.encode(header=True, framed=True))
    return request


def test_a_service_that_does_not_know_every_request_is_taken_as_it_is() -> None:
    def serve(connection: socket.socket) -> None:
        answer_api_versions(connection)
        receive(connection)
        connection.close()

    with impostors.answering(serve) as address:
        assert probe(Place.look_up(address), options(address)) is None


def test_a_tls_listener_that_is_too_busy_for_a_handshake_is_told_by_its_alert() -> None:
    def serve(connection: socket.socket) -> None:
        is_handshake = connection.recv(1) == b"\x16"
        if not is_handshake:
            connection.sendall(b"\x15\x03\x03\x00\x02\x02\x50")

    with impostors.answering(serve) as address:
        found = probe(Place.look_up(address), options(address))
    assert found is not None
    assert found.seen.startswith("the listener speaks TLS")


ALERT_OR_HTTP = [b"\x15\x03\x03\x00\x02\x02\x46", b"HTTP/1.1 400 Bad Request\r\n\r\n"]


@contextmanager
def tls_without_an_answer(*, closes: bool, to_others: bytes) -> Iterator[tuple[str, trustme.CA]]:
    """Complete each TLS handshake, and answer nothing in it. `to_others`: the answer to what is not TLS."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    kept: list[ssl.SSLSocket] = []

    def serve(connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) not in (b"\x16", b""):
            connection.sendall(to_others)
            connection.close()
            return
        kept.append(context.wrap_socket(connection, server_side=True))
        if closes:
            kept[-1].close()

    with impostors.answering(serve) as address:
        yield address, authority
    for connection in kept:
        connection.close()


@pytest.mark.parametrize("to_others", ALERT_OR_HTTP)
@pytest.mark.parametrize(("closes", "seen"), [(False, "nothing answers within"), (True, "closed without an answer")])
def test_a_broker_that_spoke_tls_and_gave_no_answer_is_waited_for(
    closes: bool, seen: str, to_others: bytes, tmp_path: Path
) -> None:
    with tls_without_an_answer(closes=closes, to_others=to_others) as (address, authority):
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        settings = options(address, security_protocol="SSL", ssl_cafile=tmp_path / "ca.pem")
        found = probe(Place.look_up(address), settings)
    assert found is not None
    assert seen in found.seen
    assert not found.certain


def test_a_tls_listener_that_is_too_busy_for_a_handshake_is_waited_for() -> None:
    def serve(connection: socket.socket) -> None:
        if connection.recv(1) not in (b"\x16", b""):
            connection.sendall(ALERT_OR_HTTP[0])

    with impostors.answering(serve) as address:
        found = probe(Place.look_up(address), options(address, security_protocol="SSL"))
    assert found is not None
    assert not found.certain


def test_a_probe_sends_no_credentials() -> None:
    received = bytearray()

    def serve(connection: socket.socket) -> None:
        received.extend(answer_api_versions(connection))
        received.extend(receive(connection))
        connection.close()

    with impostors.answering(serve) as address:
        assert probe(Place.look_up(address), options(address, **sasl("SASL_PLAINTEXT"))) is None
    assert b"PLAIN" in received, "the mechanism is asked for"
    assert PASSWORD.encode() not in received
