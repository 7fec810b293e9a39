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
from kafka.net.transport import KafkaTCPTransport

Received = tuple[bytes, Exception | None]


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
    transport._sock_recv = partial(_data_first, transport._sock_recv)
    return transport


def _data_first(receive: Callable[[], Received]) -> Received:
    """Receive. An error that comes with data is left out: the next receive meets it again."""
    data, error = receive()
    return data, None if data else error
