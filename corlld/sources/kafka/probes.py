"""Asks an address, over a raw socket, who is there: a Kafka listener, of which kind, or something else.

A probe sends two requests that every listener answers before anybody has authenticated: ApiVersions and SaslHandshake.
It never sends credentials. What was seen is put into sentences by `diagnosis`.
"""

import socket
import ssl
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from kafka.errors import IllegalSaslStateError
from kafka.protocol.consumer import FetchRequest
from kafka.protocol.metadata import ApiVersionsRequest, ApiVersionsResponse, MetadataRequest
from kafka.protocol.sasl import SaslHandshakeRequest, SaslHandshakeResponse

from corlld.sources.kafka.features import MISREADINGS

CONNECT_SECONDS = 2.0  # longer than the second after which a lost first packet is sent again
ANSWER_SECONDS = 1.5
MAX_ANSWER_BYTES = 1_000_000
HTTP, TLS, OTHER = "an HTTP server", "a server of TLS", "some other program"
ALERT = b"\x15\x03"  # begins a TLS alert, the answer of many a TLS listener to what is not TLS


class NotKafkaError(Exception):
    """The answer is not one of Kafka's protocol.

    Args:
        speaks: who answered, in words.
    """

    def __init__(self, speaks: str) -> None:
        self.speaks = speaks
        super().__init__(speaks)


class ClosedError(Exception):
    """The connection was closed in place of an answer."""


class SilentError(Exception):
    """The place completed a TLS handshake, and then gave no answer.

    Args:
        slow: nothing came within ANSWER_SECONDS. Otherwise the connection was closed.
    """

    def __init__(self, *, slow: bool) -> None:
        self.slow = slow
        super().__init__("slow" if slow else "closed")


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener that speaks Kafka's protocol.

    tls: clients have to use TLS.
    mechanisms: with which clients can authenticate; empty if they do not; None if that is not known.
    serves_clients: False for a KRaft controller.
    """

    tls: bool
    mechanisms: tuple[str, ...] | None
    serves_clients: bool = True

    @property
    def protocol(self) -> str:
        """Return what `kafka.security_protocol` has to be for it."""
        return ("SASL_" if self.mechanisms else "") + ("SSL" if self.tls else "PLAINTEXT")


@dataclass(frozen=True, slots=True)
class Place:
    """An address whose name was looked up.

    found: what the name service knows of it, as `socket.getaddrinfo` returns it.
    """

    host: str
    found: Sequence[Any]

    @classmethod
    def look_up(cls, address: str) -> Self:
        """Return the place of `host:port`. Raises OSError, or UnicodeError if it can't be a name at all."""
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        return cls(host, socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM))

    def open(self, context: ssl.SSLContext | None) -> socket.socket:
        """Return a connection. Raises TimeoutError after CONNECT_SECONDS, OSError, and ssl.SSLError."""
        for family, kind, protocol, _, where in self.found:
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(CONNECT_SECONDS)
                opened.connect(where)
                opened.settimeout(ANSWER_SECONDS)
                return context.wrap_socket(opened, server_hostname=self.host.rstrip(".")) if context else opened
            except (TimeoutError, ssl.SSLError):  # as kafka-python, which does not try the others either
                opened.close()
                raise
            except OSError as error:
                opened.close()
                refused = error
        raise refused


def ask(place: Place, context: ssl.SSLContext | None, options: Mapping[str, Any]) -> Listener:
    """Return the listener at a place.

    Args:
        place: where to ask.
        context: for TLS; None to ask without it.
        options: kafka-python's; the mechanism and the client's name are used.

    Raises:
        NotKafkaError: something else answers.
        SilentError: TLS came about, and no answer.
        ClosedError: the connection was closed without an answer.
        TimeoutError: nothing came within ANSWER_SECONDS, or no connection came about within CONNECT_SECONDS.
        ssl.SSLError: of the handshake, or of an alert after it.
        OSError: the connection could not be made.
    """
    with place.open(context) as opened:
        conversation = _Conversation(opened, options["client_id"])
        try:
            versions = conversation.request(ApiVersionsRequest(), ApiVersionsResponse, 0)
        except (ClosedError, TimeoutError, ConnectionError, ssl.SSLEOFError) as error:
            if context is None:
                raise
            raise SilentError(slow=isinstance(error, TimeoutError)) from error
        keys = {entry.api_key for entry in versions.api_keys}
        tls = context is not None
        if MetadataRequest.API_KEY not in keys and FetchRequest.API_KEY in keys:
            return Listener(tls, None, serves_clients=False)
        mechanism = options.get("sasl_mechanism") or "PLAIN"
        try:
            answer = conversation.request(SaslHandshakeRequest(mechanism=mechanism), SaslHandshakeResponse, 1)
        except (NotKafkaError, ClosedError, OSError):  # a service that does not know the request
            return Listener(tls, None)
        authenticates = answer.error_code != IllegalSaslStateError.errno
        return Listener(tls, tuple(answer.mechanisms) if authenticates else ())


def ask_otherwise(place: Place, *, tls: bool, options: Mapping[str, Any]) -> Listener | None:
    """Return the listener at a place that was asked the wrong way first; None if it is no listener this way either.

    With TLS any certificate is taken: nothing is sent that is worth protecting. A listener that wants a certificate of
    the client is taken for one without SASL.

    Raises NotKafkaError if something else answers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return ask(place, context if tls else None, options)
    except ssl.SSLError as error:
        return Listener(tls=True, mechanisms=None) if is_alert(error) else None
    except (SilentError, ClosedError, OSError):
        return None


def is_alert(error: Exception) -> bool:
    """Return whether the other side sent a TLS alert: it speaks TLS, and refuses this client."""
    return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")


def is_http(place: Place) -> bool:
    """Return whether a place answers a request of HTTP. Some servers wait for a whole line before they answer."""
    with suppress(OSError, ClosedError), place.open(None) as opened:
        opened.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return _Conversation(opened, "").read(4) == b"HTTP"
    return False


class _Conversation:
    def __init__(self, opened: socket.socket, client_id: str) -> None:
        self._opened = opened
        self._client_id = client_id
        self._deadline = time.monotonic() + ANSWER_SECONDS
        self._number = 0

    def request(self, request: Any, response: Any, version: int) -> Any:
        """Send a request of kafka-python, and return the answer as its class `response` reads it."""
        self._number += 1
        request.API_VERSION = version
        request.with_header(correlation_id=self._number, client_id=self._client_id)
        self._opened.sendall(request.encode(header=True, framed=True))
        head = self.read(4)
        if head == b"HTTP":
            raise NotKafkaError(HTTP)
        if head.startswith(ALERT):
            raise NotKafkaError(TLS)
        (size,) = struct.unpack(">i", head)
        if not 4 < size <= MAX_ANSWER_BYTES:
            raise NotKafkaError(OTHER)
        try:
            answer = response.decode(self.read(size), version=version, header=True)
            known = answer.header.correlation_id == self._number
        except MISREADINGS:
            known = False
        if not known:
            raise NotKafkaError(OTHER)
        return answer

    def read(self, size: int) -> bytes:
        """Return so many bytes. Raises ClosedError, TimeoutError and other OSErrors."""
        got = b""
        while len(got) < size:
            self._opened.settimeout(max(0.01, self._deadline - time.monotonic()))
            try:
                more = self._opened.recv(size - len(got))
            except ConnectionError:
                more = b""
            if not more:
                raise ClosedError
            got += more
        return got
