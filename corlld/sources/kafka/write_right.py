"""Keeps whether a topic may be written to, while a producer runs: a right may be taken away, and be given again."""

import threading
import time
from contextlib import suppress

import structlog
from kafka.errors import AuthorizationError, KafkaError

from corlld.errors import ConfigurationError, UnavailableError
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.client import TopicLookup
from corlld.sources.kafka.rights import Granted, missing_rights, refused_rights, writing
from corlld.sources.kafka.standing import REFUSED_SECONDS

log = structlog.get_logger("corlld.kafka")

ASK_AGAIN_SECONDS = 5.0


class WriteRight:
    """Logs once that the right was lost, and once that it is there. Thread-safe.

    While it is missing, a thread asks for it: there may be nothing to send, by which it would show. A broker that does
    not say is taken to give it some seconds after the last refusal: otherwise nothing would be sent that shows it.

    Args:
        settings: how to reach the cluster.
        topic: where records are sent.
        idempotent: the producer needs IdempotentWrite too.
    """

    def __init__(self, settings: KafkaSettings, topic: str, *, idempotent: bool) -> None:
        self._settings = settings
        self._topic = topic
        self.needed = writing(topic, idempotent=idempotent)
        self._lock = threading.Lock()
        self._asking = False
        self._closed = threading.Event()
        self._problem: str | None = None
        self._refused_at = 0.0  # monotonic

    @property
    def problem(self) -> str | None:
        """Return the sentence that names what is missing; None if nothing is known to be missing."""
        return self._problem

    def begin(self, granted: Granted) -> None:
        """Note the first answer of a broker. It is not logged: who asked says what is missing."""
        if granted.missing:
            self._missing(missing_rights(granted.missing, self._settings, hidden=granted.hidden), logged=False)

    def refused(self, error: AuthorizationError) -> None:
        """Note that a record was refused."""
        if rights := refused_rights(error, self.needed):
            self._missing(missing_rights(rights, self._settings), logged=True)

    def acknowledged(self) -> None:
        """Note that a record was acknowledged, or would be."""
        self._forget("right_granted")

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _forget(self, event: str) -> None:
        with self._lock:
            problem, self._problem = self._problem, None
        if problem is not None:
            log.info(event, topic=self._topic)

    def _missing(self, problem: str, *, logged: bool) -> None:
        with self._lock:
            self._refused_at = time.monotonic()
            known, self._problem = self._problem, problem
            asking, self._asking = self._asking, True
        if known is None and logged:
            log.warning("right_missing", problem=problem)
        if not asking:
            # A daemon thread, since waiting for a broker must not keep the process from ending.
            threading.Thread(target=self._ask_again, name="rights", daemon=True).start()

    def _ask_again(self) -> None:
        lookup = TopicLookup(self._settings, self._topic, rights=self.needed)
        while not self._closed.wait(ASK_AGAIN_SECONDS):
            with self._lock:
                if self._problem is None:
                    self._asking = False
                    break
            with suppress(KafkaError, UnavailableError, ConfigurationError):  # the broker is away: a send tells
                view = lookup.look()
                if view is None or view.granted.missing:
                    continue
                if not view.granted.untold:
                    self._forget("right_granted")
                elif time.monotonic() - self._refused_at >= REFUSED_SECONDS:
                    self._forget("right_not_told")
        lookup.close()
