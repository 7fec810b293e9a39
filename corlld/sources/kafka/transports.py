"""Has kafka-python read a broker's last answer, also if the broker hangs up right behind it.

kafka-python throws away what it reads together with the end of a connection. So a refused password looks like a broken
network to it: the broker answers, and closes the connection.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

# Named here, so that a kafka-python without these parts is refused when it is imported.
_PARTS = (KafkaTCPTransport._sock_recv, KafkaSSLTransport._sock_recv, KafkaConnectionManager._build_transport)


def net_client(**config: Any) -> KafkaNetClient:
    """Return a client of kafka-python whose connections lose no answer. config: as `KafkaNetClient` takes it."""
    net = NetworkSelector(**config)
    manager = KafkaConnectionManager(net, **config)
    manager._build_transport = partial(_build_transport, manager._build_transport)
    return KafkaNetClient(net=net, manager=manager)


async def _build_transport(
    build: Callable[..., Awaitable[KafkaTCPTransport]], *args: Any, **options: Any
) -> KafkaTCPTransport:
    transport = await build(*args, **options)
    transport._sock_recv = _Receiver(transport)
    return transport


class _Receiver:
    """Receives for a transport: first what came together with the end of the connection, and then the end."""

    def __init__(self, transport: KafkaTCPTransport) -> None:
        self._transport = transport
        self._receive = transport._sock_recv
        self._end: Exception | None = None

    def __call__(self) -> tuple[bytes, Exception | None]:
        if self._end is not None:
            return b"", self._end
        data, end = self._receive()
        if not data or end is None:
            return data, end
        self._end = end
        # After a last TLS record the socket may never become readable again. This comes behind all that `data` wakes.
        self._transport._net.call_later(0, lambda: self._transport.abort(error=end))
        return data, None
