"""What a connection brings together with its end is not lost, and the end follows at once."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from kafka.future import Future

from corlld.sources.kafka.transports import net_client

PATIENCE_SECONDS = 10


class Protocol:
    """What kafka-python's connection does: what it receives wakes a task, which needs the connection's future."""

    _sensors = None

    def __init__(self, net: Any) -> None:
        self.seen: list[str] = []
        self.answer, self.lost = Future(), Future()
        net.call_soon(self._wait)

    async def _wait(self) -> None:
        self.seen.append(f"read {await self.answer}")

    def data_received(self, data: bytes) -> None:
        self.answer.success(data.decode())

    def connection_lost(self, error: Exception | None) -> None:
        self.seen.append(f"lost: {error}")
        self.lost.success(None)


@contextmanager
def peer(tls: ssl.SSLContext | None) -> Iterator[SimpleNamespace]:
    """Answer the first connection, and end it in the same moment. Under TLS only the TLS part ends."""
    with ExitStack() as opened:
        listening = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        may_close = threading.Event()

        def serve() -> None:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            if tls is None:
                connection.sendall(b"answer")
                connection.close()  # sends both in one segment
                return
            with tls.wrap_socket(connection, server_side=True, suppress_ragged_eofs=True) as wrapped:
                wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
                wrapped.sendall(b"answer")
                wrapped.setblocking(False)
                with pytest.raises(ssl.SSLWantReadError):
                    wrapped.unwrap()  # sends the end, and does not wait for the other's
                wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
                assert may_close.wait(2 * PATIENCE_SECONDS)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield SimpleNamespace(node_id=0, host="127.0.0.1", port=listening.getsockname()[1])
        finally:
            may_close.set()
            thread.join()


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_what_comes_with_the_end_of_a_connection_is_received_before_the_end(protocol: str, tmp_path: Path) -> None:
    tls, options = None, {}
    if protocol == "SSL":
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        options = {"ssl_cafile": str(tmp_path / "ca.pem")}
    with peer(tls) as node:
        client = net_client(bootstrap_servers="127.0.0.1:1", security_protocol=protocol, **options)
        net = client._net
        transport = net.run(client._manager._build_transport, node)
        receiving = Protocol(net)
        transport.set_protocol(receiving)
        transport.resume_reading()
        net.poll(timeout_ms=1000 * PATIENCE_SECONDS, future=receiving.lost)
        client.close()
    assert receiving.seen == ["read answer", "lost: KafkaConnectionError: socket disconnected"]
