"""Says in one sentence why a cluster is not reached: at which address, what was seen there, and what to change."""

import ssl
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Any

import structlog

from corlld.errors import ConfigurationError
from corlld.sources.kafka import probes
from corlld.sources.kafka.probes import ClosedError, Listener, NotKafkaError, Place, SilentError

log = structlog.get_logger("corlld.kafka")

PROBE_SECONDS = 6.0  # longer than a probe takes, unless the name service hangs
SHOWN = 3  # addresses with the same cause: a cluster may have a hundred brokers
BOOTSTRAP = "kafka.bootstrap_servers"
ADVERTISED = "advertised.listeners of that broker"
KINDS = {
    "PLAINTEXT": "neither TLS nor SASL",
    "SSL": "TLS without SASL",
    "SASL_PLAINTEXT": "SASL without TLS",
    "SASL_SSL": "TLS and SASL",
}
OTHER_NAME = (62, 64)  # OpenSSL's codes: the certificate is for another name, or for another IP address
EXPIRED = (9, 10)  # ... it is not valid yet, or not any more


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at an address.

    seen: a clause.
    remedy: what to do; empty if the address itself has to be corrected, and nothing else helps.
    elsewhere: it may be the wrong address.
    certain: waiting can't mend it. The others may pass, since the broker may just be starting.
    """

    seen: str
    remedy: str = ""
    elsewhere: bool = True
    certain: bool = False

    def advice(self, setting: str) -> str:
        """Return what to do. `setting`: where the address comes from."""
        return ", or ".join(filter(None, [self.remedy, f"correct {setting}" if self.elsewhere else ""]))


class Diagnosis:
    """Keeps the sentence on why one cluster is not reached. Each sentence that is a new one is logged.

    Args:
        options: kafka-python's options for the cluster.

    Attributes:
        problem: the sentence; None if nothing wrong was found.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.problem: str | None = None

    def look_at_bootstrap_servers(self) -> list[str]:
        """Probe the addresses of the settings. Return those at which nothing was found.

        Raises ConfigurationError if waiting can't help at any of them.
        """
        servers = self._options["bootstrap_servers"]
        found = find(servers, self._options)
        self._note(found, servers, bootstrap_sentence(found))
        return [address for address in servers if address not in found]

    def look_at_brokers(self, brokers: Iterable[str]) -> None:
        """Probe the addresses that a broker advertises. Raises ConfigurationError if waiting can't help at any."""
        brokers = sorted(brokers)
        found = find(brokers, self._options)
        self._note(found, brokers, advertised_sentence(found, self._options["bootstrap_servers"]))

    def forget(self) -> None:
        """Note that the cluster was reached: a sentence after that is a new one."""
        self.problem = None

    def _note(self, found: Mapping[str, Finding], probed: Iterable[str], sentence: str | None) -> None:
        if sentence is not None and sentence != self.problem:
            log.warning("kafka_not_reached", problem=sentence)
        self.problem = sentence
        if sentence is not None and all(address in found and found[address].certain for address in probed):
            raise ConfigurationError(sentence)


def find(addresses: Iterable[str], options: Mapping[str, Any]) -> dict[str, Finding]:
    """Probe addresses, all at the same time, and return what is wrong by address. Takes at most PROBE_SECONDS.

    Args:
        addresses: `host:port` each.
        options: kafka-python's options, as `client_options` makes them.
    """
    started = [_Probe(address, options) for address in addresses]
    wait_for([probe.finding for probe in started], PROBE_SECONDS)
    found = {probe.address: probe.result() for probe in started}
    return {address: finding for address, finding in found.items() if finding is not None}


class _Probe:
    """Probes one address in a thread of its own, since the name service may take longer than anybody waits."""

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        self.address = address
        self.finding: Future[Finding | None] = Future()
        self._options = options
        self._looked_up = False
        threading.Thread(target=self._run, name="kafka-probe", daemon=True).start()

    def result(self) -> Finding | None:
        if self.finding.done():
            return self.finding.result()
        return None if self._looked_up else _unresolved("the name service does not answer")

    def _run(self) -> None:
        try:
            self.finding.set_result(self._probe())
        except BaseException as bug:  # noqa: BLE001  # raised where the result is asked for
            self.finding.set_exception(bug)

    def _probe(self) -> Finding | None:
        try:
            place = Place.look_up(self.address)
        except (OSError, UnicodeError) as error:
            return _unresolved(getattr(error, "strerror", None) or "it can't be a name")
        self._looked_up = True
        return probe(place, self._options)


def probe(place: Place, options: Mapping[str, Any]) -> Finding | None:
    """Return what is wrong at a place; None if a Kafka listener answers there as the settings expect it."""
    try:
        place.open(None).close()
    except OSError as error:
        return _unreachable(error)
    context = options.get("ssl_context")
    try:
        listener = probes.ask(place, context, options)
    except ssl.SSLCertVerificationError as error:
        return _untrusted(error)
    except SilentError as error:  # what is said without TLS would prove nothing: the place has spoken TLS
        return _slow() if error.slow else _closed()
    except (NotKafkaError, ClosedError, OSError) as error:
        return _no_answer(place, error, options)
    return compare(listener, options)


def compare(listener: Listener, options: Mapping[str, Any]) -> Finding | None:
    """Return how a listener differs from what the settings say; None if it does not."""
    if not listener.serves_clients:
        return Finding("a KRaft controller answers there, and controllers serve no clients", certain=True)
    wanted = options["security_protocol"]
    sasl, tls = wanted.startswith("SASL"), wanted.endswith("SSL")
    if listener.tls != tls or (listener.mechanisms is not None and sasl != bool(listener.mechanisms)):
        remedy = f"set kafka.security_protocol = {listener.protocol}"
        if listener.mechanisms and not sasl:
            remedy += f" and kafka.sasl_mechanism ({', '.join(listener.mechanisms)})"
        seen = f"the listener speaks {KINDS[listener.protocol]}, and kafka.security_protocol is {wanted}"
        return Finding(seen, remedy, elsewhere=False, certain=True)
    if sasl and listener.mechanisms and options["sasl_mechanism"] not in listener.mechanisms:
        return Finding(
            f"the broker does not offer kafka.sasl_mechanism = {options['sasl_mechanism']} on this listener",
            f"set one that it offers ({', '.join(listener.mechanisms)})",
            elsewhere=False,
            certain=True,
        )
    return None


def _no_answer(place: Place, error: Exception, options: Mapping[str, Any]) -> Finding:
    """Return the finding for a place that takes connections, and did not answer as a listener of the settings."""
    speaks = error.speaks if isinstance(error, NotKafkaError) else None
    if speaks != probes.HTTP and not probes.is_alert(error):
        with_tls = options.get("ssl_context") is None
        try:
            other = probes.ask_otherwise(place, tls=with_tls, options=options)
        except NotKafkaError as something:
            other = None
            if with_tls or something.speaks != probes.TLS:  # a TLS listener of Kafka answers so too if it is busy
                speaks = something.speaks
        if other is None and speaks == probes.TLS:
            other = Listener(tls=True, mechanisms=None)
        if other is not None and (finding := compare(other, options)) is not None:
            return finding
        if probes.is_http(place):
            speaks = probes.HTTP
    if speaks is not None:
        return Finding(f"{speaks} answers there, not a Kafka broker", certain=True)
    if isinstance(error, TimeoutError):
        return _slow()
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        reason = (error.reason or "handshake failure").replace("_", " ").lower()
        return Finding(
            f"TLS failed ({reason})",
            "check kafka.ssl_certfile, kafka.ssl_keyfile and kafka.ssl_ciphers",
            elsewhere=False,
            certain=True,
        )
    return _closed()


def _slow() -> Finding:
    return Finding(
        f"connections are accepted, but nothing answers within {probes.ANSWER_SECONDS:g} s",
        "wait until the broker has started",
    )


def _closed() -> Finding:
    return Finding("connections are closed without an answer", "look into the broker's log")


def _unreachable(error: OSError) -> Finding:
    if isinstance(error, TimeoutError):
        seconds = f"{probes.CONNECT_SECONDS:g} s"
        return Finding(f"no connection comes about within {seconds}", "let connections through the firewall")
    reason = error.strerror or type(error).__name__
    if isinstance(error, ConnectionRefusedError):
        return Finding(f"nobody listens there ({reason})", "start the broker")
    return Finding(f"it can't be reached ({reason})", "repair the network")


def _unresolved(reason: str) -> Finding:
    return Finding(f"the name can't be resolved ({reason})", "enter it in the name service")


def _untrusted(error: ssl.SSLCertVerificationError) -> Finding:
    reason = error.verify_message.rstrip(".")
    if error.verify_code in OTHER_NAME:
        return Finding(
            f"the broker's certificate is for another name ({reason})",
            "give the broker one for this name",
            certain=True,
        )
    if error.verify_code in EXPIRED:
        return Finding(f"the broker's certificate is not valid now ({reason})", "renew it", False, certain=True)
    return Finding(
        f"the broker's certificate is not trusted ({reason})",
        "set kafka.ssl_cafile to the certificate of the CA that signed it",
        elsewhere=False,
        certain=True,
    )


def bootstrap_sentence(found: Mapping[str, Finding]) -> str | None:
    """Return the sentence for addresses of the settings; None if nothing was found."""
    parts = [f"{_few(same)}: {f.seen}: {f.advice(BOOTSTRAP)}" for f, same in _grouped(found).items()]
    return "; ".join(parts) or None


def advertised_sentence(found: Mapping[str, Finding], servers: Iterable[str]) -> str | None:
    """Return the sentence for addresses that a broker advertises; None if nothing was found."""
    parts = [f"{_few(same)}, but {f.seen}: {f.advice(ADVERTISED)}" for f, same in _grouped(found).items()]
    return f"{', '.join(servers)} answers and advertises {'; and '.join(parts)}" if parts else None


def _few(addresses: Sequence[str]) -> str:
    more = len(addresses) - SHOWN
    return ", ".join(addresses[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _grouped(found: Mapping[str, Finding]) -> dict[Finding, list[str]]:
    same: dict[Finding, list[str]] = {}
    for address, finding in found.items():
        same.setdefault(finding, []).append(address)
    return same
