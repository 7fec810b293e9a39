"""Makes clients of kafka-python that have reached a broker, and reports why none was reached."""

import logging
import math
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from corlld.errors import ConfigurationError, UnavailableError
from corlld.sources.kafka.diagnosis import Diagnosis
from corlld.sources.kafka.features import answers_understood
from corlld.sources.kafka.options import LOOKUP_SECONDS
from corlld.sources.kafka.refusals import explain_refusal
from corlld.sources.kafka.transports import net_client

FIRST_TRY_SECONDS = 2.0  # each try is twice as long as the one before, so that a slow network is reached too
OVERRUN_SECONDS = 0.5  # a try may take so much longer than kafka-python was asked to
SETUP_SECONDS = 10.0  # kafka-python's own default for a connection after the first


def quiet_kafka_logs() -> None:
    """Keep kafka-python from its debug level, where it logs whole requests, with texts and passwords in them."""
    logger = logging.getLogger("kafka")
    if logger.getEffectiveLevel() < logging.WARNING:
        logger.setLevel(logging.WARNING)
    # Its connections log each failure with a traceback, at every try. corlld reports it once, in a sentence.
    net = logging.getLogger("kafka.net")
    net.propagate = False
    if not net.handlers:  # without a handler, logging would print to standard error
        net.addHandler(logging.NullHandler())


def connect(
    make: Callable[..., Any],
    options: Mapping[str, Any],
    timeout_seconds: float,
    diagnosis: Diagnosis | None = None,
    setup_seconds: float = SETUP_SECONDS,
    problem_seconds: float = math.inf,
    since: float | None = None,
) -> Any:
    """Return a client of kafka-python, made by `make`, that has reached a broker.

    While it waits, it logs each new sentence on what is in the way.

    Args:
        make: a class of kafka-python, or a function that takes the same options.
        options: of `options`.
        timeout_seconds: when to give up. The time of probes does not count. A short one is given to one try.
        diagnosis: keeps the sentence over several calls.
        setup_seconds: how long the client may take for its later connections, each.
        problem_seconds: when to give up if something is wrong at each address.
        since: when the wait began, for the message (monotonic); None for now.

    Raises:
        UnavailableError: no broker was reached in time.
        ConfigurationError: waiting can't mend what is in the way.
    """
    quiet_kafka_logs()
    began = time.monotonic()
    deadline, problem_deadline = began + timeout_seconds, began + min(timeout_seconds, problem_seconds)
    sound = options["bootstrap_servers"]  # the addresses at which nothing wrong was found
    servers = ", ".join(options["bootstrap_servers"])
    diagnosis = diagnosis or Diagnosis(options)
    this_try = FIRST_TRY_SECONDS if timeout_seconds > LOOKUP_SECONDS else timeout_seconds
    while True:
        until = deadline if sound else problem_deadline
        asked = {**options, "bootstrap_servers": sound or options["bootstrap_servers"]}
        attempt = _Attempt(make, asked, min(this_try, max(0.1, until - time.monotonic())), setup_seconds)
        with answers_understood(servers):
            if (client := attempt.client()) is not None:
                return client
        if diagnosis.problem is None or time.monotonic() < until:
            probed = time.monotonic()
            sound = diagnosis.look_at_bootstrap_servers()
            deadline += time.monotonic() - probed  # on a slow network the probes would use up the time of the tries
        if (refusal := next(filter(None, map(explain_refusal, attempt.failures)), None)) is not None:
            raise ConfigurationError(f"{servers}: {refusal}")
        if time.monotonic() >= (deadline if sound else problem_deadline):
            problem = diagnosis.problem or _unexplained(servers, attempt.failures, options)
            raise UnavailableError(f"{problem} {waited_since(since or began)}")
        this_try *= 2


def waited_since(began: float) -> str:
    """Return how long it was waited, for a message. began: monotonic."""
    return f"(waited {round(time.monotonic() - began, 1):g} s)"


class _Attempt:
    """Makes one client, in a thread of its own.

    kafka-python may block there for longer than it is asked to: in the name service, or in a TLS handshake. A client
    that comes too late is closed by that thread.

    Attributes:
        failures: why connections failed, as far as it is known. kafka-python, as it bootstraps, only logs that.
    """

    def __init__(
        self, make: Callable[..., Any], options: Mapping[str, Any], seconds: float, setup_seconds: float
    ) -> None:
        self.failures: list[BaseException] = []
        self._make = make
        self._options = options
        self._seconds = seconds
        self._setup_seconds = setup_seconds
        self._nets: list[KafkaNetClient] = []
        self._made: Future[Any] = Future()
        self._thread = threading.Thread(target=self._run, name="kafka-connect", daemon=True)

    def client(self) -> Any:
        """Return the client; None if no broker was reached. Raises what kafka-python raises, but no KafkaError."""
        self._thread.start()
        try:
            return self._made.result(self._seconds + OVERRUN_SECONDS)
        except TimeoutError:
            return None if self._made.cancel() else self._made.result()

    def _run(self) -> None:
        client, error = None, None
        try:
            with _collected(self.failures, self._threads):
                client = self._make(
                    **self._options, bootstrap_timeout_ms=round(self._seconds * 1000), kafka_client=self._make_net
                )
        except KafkaError as failure:
            self.failures.append(failure)
        except Exception as unexpected:  # noqa: BLE001  # passed on to the thread that waits
            error = unexpected
        if client is None:
            for net in self._nets:  # a client whose constructor failed leaves its thread behind
                net.close()
        if not self._made.set_running_or_notify_cancel():
            if client is not None:
                client.close()
        elif error is not None:
            self._made.set_exception(error)
        else:
            self._made.set_result(client)

    def _make_net(self, **config: Any) -> KafkaNetClient:
        setup_ms = round(self._setup_seconds * 1000)
        self._nets.append(net_client(**config, socket_connection_setup_timeout_ms=setup_ms))
        return self._nets[-1]

    def _threads(self) -> set[int | None]:
        """Return the threads of this client alone: several clients may be connecting at the same time."""
        own = [self._thread, *(net._net._io_thread for net in self._nets)]
        return {thread.ident for thread in own if thread is not None}


class _Failures(logging.Handler):
    def __init__(self, failures: list[BaseException], threads: Callable[[], set[int | None]]) -> None:
        super().__init__(logging.WARNING)
        self._failures = failures
        self._threads = threads

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and record.thread in self._threads():
            self._failures += [arg for arg in record.args if isinstance(arg, BaseException)]


@contextmanager
def _collected(failures: list[BaseException], threads: Callable[[], set[int | None]]) -> Iterator[None]:
    """Collect into `failures` why connections of `threads` fail while the block runs."""
    handler = _Failures(failures, threads)
    logger = logging.getLogger("kafka.net")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _unexplained(servers: str, failures: list[BaseException], options: Mapping[str, Any]) -> str:
    """Return the sentence if each address answers as it should, and kafka-python still reaches none.

    A broker closes the connection behind its answer to a wrong password. kafka-python may see that before the answer.
    """
    if options.get("sasl_mechanism") and any("disconnected" in str(failure) for failure in failures):
        return (
            f"{servers}: the broker refused the user name or the password, as it seems: it closes connections in the "
            "middle of the authentication. Check kafka.sasl_plain_username and its password"
        )
    reason = next(filter(None, map(_reason, reversed(failures))), None)
    return f"{servers}: no broker could be reached" + (f" ({reason})" if reason else "")


def _reason(failure: BaseException | None) -> str | None:
    """Return what the operating system or TLS said of a failed connection; None if neither said anything."""
    while failure is not None:
        if isinstance(failure, ssl.SSLError):
            return f"TLS: {failure.reason or 'the handshake failed'}"
        if isinstance(failure, OSError) and failure.strerror:
            return failure.strerror
        # kafka-python keeps an OSError's number and name as text only.
        if found := re.search(r"\b(\d+) E[A-Z]+\b", str(failure)):
            return os.strerror(int(found[1]))
        failure = failure.__cause__ or failure.__context__
    return None
