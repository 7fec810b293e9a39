"""Turns settings into kafka-python's options. Only this module knows milliseconds, and only it unwraps secrets."""

import socket
import ssl
import threading
from importlib.util import find_spec
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from corlld.errors import ConfigurationError
from corlld.settings.sections import KafkaSettings

ASSIGNORS = {
    "cooperative-sticky": CooperativeStickyAssignor,
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}
SASL_PACKAGES = {"GSSAPI": "gssapi", "AWS_MSK_IAM": "botocore"}
RECONNECT_MAX_SECONDS = 5.0  # kafka-python's own 30 s would keep the daemon away long after the broker is back
FETCH_MAX_WAIT_SECONDS = 0.5
LOOKUP_SECONDS = 5.0  # how long an answer about topic or group is waited for
HANDSHAKE_SECONDS = 10.0
IDLE_CLOSE_SECONDS = 540.0
# So large that the topic's own limit decides (the broker answers), not the client's guess of it.
MAX_REQUEST_BYTES = 64 * 1024 * 1024
SEND_BLOCKS_SECONDS = 1.0  # at most, if the topic's metadata went away


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return what all clients share. Raises ConfigurationError for certificates, or a mechanism, that can't be used."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "client_id": settings.client_id,
        "request_timeout_ms": _ms(settings.request_timeout_seconds),
        "connections_max_idle_ms": _ms(max(IDLE_CLOSE_SECONDS, 2 * settings.request_timeout_seconds)),
        "reconnect_backoff_max_ms": _ms(RECONNECT_MAX_SECONDS),
        "metadata_max_age_ms": _ms(settings.metadata_max_age_seconds),
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = ssl_context(settings)
    if settings.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        options |= _sasl_options(settings)
    return options


def admin_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the options of a client that asks about topics and groups. Raises as `client_options`."""
    return client_options(settings) | {
        "request_timeout_ms": _ms(min(LOOKUP_SECONDS, settings.request_timeout_seconds)),
    }


def consumer_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the consumer's options. Raises as `client_options`.

    Only corlld commits offsets, kafka-python guesses none, and no topic is created by asking for it.
    """
    return client_options(settings) | {
        "group_id": settings.group_id,
        "group_instance_id": settings.group_instance_id,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "allow_auto_create_topics": False,
        "partition_assignment_strategy": [ASSIGNORS[settings.assignor]],
        "session_timeout_ms": _ms(settings.session_timeout_seconds),
        "heartbeat_interval_ms": _ms(settings.heartbeat_interval_seconds),
        "max_poll_interval_ms": _ms(settings.max_poll_interval_seconds),
        "max_poll_records": settings.max_poll_records,
        "max_partition_fetch_bytes": settings.max_partition_fetch_bytes,
        "fetch_max_wait_ms": _ms(min(FETCH_MAX_WAIT_SECONDS, settings.request_timeout_seconds / 2)),
        "metrics_enabled": False,
    }


def delivery_seconds(settings: KafkaSettings) -> float:
    """Return how long a producer tries to deliver a record."""
    return 2 * settings.request_timeout_seconds


def producer_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the producers' options: all replicas acknowledge. Raises as `client_options`."""
    return client_options(settings) | {
        "acks": "all",
        "allow_auto_create_topics": False,
        "max_request_size": MAX_REQUEST_BYTES,
        "max_block_ms": _ms(SEND_BLOCKS_SECONDS),
        "delivery_timeout_ms": _ms(delivery_seconds(settings)),
        "metrics_enabled": False,
    }


class TlsSocket(ssl.SSLSocket):
    """Fails if a TLS handshake takes longer than HANDSHAKE_SECONDS, and closes itself if a handshake fails.

    kafka-python 3.0 would wait for an answer for ever, and leave what failed to the garbage collector.
    """

    _limit: threading.Timer | None = None

    def do_handshake(self, block: bool = False) -> None:
        """Go on with the handshake, as `ssl.SSLSocket` does. kafka-python calls this once more for each answer."""
        if self._limit is None:
            # With the connection shut down, kafka-python is woken up, and finds an end of file.
            self._limit = threading.Timer(HANDSHAKE_SECONDS, socket.socket.shutdown, (self, socket.SHUT_RDWR))
            self._limit.daemon = True
            self._limit.start()
        try:
            super().do_handshake(block)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            self._limit.cancel()
            self.close()
            raise
        self._limit.cancel()


def ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    """Return the TLS context. kafka-python 3.0 would ignore `ssl_ciphers`, and report a wrong file with a traceback.

    Raises ConfigurationError that names the setting.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = TlsSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.ssl_check_hostname
    password = settings.ssl_password.get_secret_value() if settings.ssl_password else None
    setting = ""
    try:
        if settings.ssl_cafile is not None:
            setting = f"ssl_cafile = {settings.ssl_cafile}"
            context.load_verify_locations(settings.ssl_cafile)
        else:
            context.load_default_certs()
        if settings.ssl_certfile is not None:
            setting = f"ssl_certfile = {settings.ssl_certfile}, or its ssl_keyfile or ssl_password,"
            # Never let OpenSSL ask at the terminal: an encrypted key without a password is a wrong setting.
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password or (lambda: b""))
        if settings.ssl_crlfile is not None:
            setting = f"ssl_crlfile = {settings.ssl_crlfile}"
            context.load_verify_locations(settings.ssl_crlfile)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        if settings.ssl_ciphers is not None:
            setting = f"ssl_ciphers = {settings.ssl_ciphers}"
            context.set_ciphers(settings.ssl_ciphers)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigurationError(f"kafka.{setting} can't be used: {_why(error)}") from None
    return context


def _sasl_options(settings: KafkaSettings) -> dict[str, Any]:
    package = SASL_PACKAGES.get(settings.sasl_mechanism or "")
    if package is not None and find_spec(package) is None:
        raise ConfigurationError(f"kafka.sasl_mechanism = {settings.sasl_mechanism} needs the Python package {package}")
    password = settings.sasl_plain_password
    options = {
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_plain_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
        "sasl_kerberos_name": settings.sasl_kerberos_name,
        "sasl_kerberos_service_name": settings.sasl_kerberos_service_name,
        "sasl_kerberos_domain_name": settings.sasl_kerberos_domain_name,
    }
    return {name: value for name, value in options.items() if value is not None}


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (getattr(error, "reason", None) or "not what OpenSSL expects").replace("_", " ").lower()
    return (error.strerror or "it can't be read") if isinstance(error, OSError) else "not what OpenSSL expects"


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
