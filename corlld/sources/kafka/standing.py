"""Keeps how a source stands with its cluster: reached or away, allowed or refused. Logs each change once."""

import time

import structlog

log = structlog.get_logger("corlld.kafka")

# A refusal counts for so long after the last one. Some brokers do not say when a right is given again.
REFUSED_SECONDS = 10.0


class Standing:
    """See the module. Called from the source's thread. Nothing is reached at first."""

    def __init__(self) -> None:
        self._reached = False
        self._complained = False  # since the last good time
        self._refused: set[str] = set()  # the sentences that were logged since then
        self._refused_at = 0.0

    @property
    def good(self) -> bool:
        """Return whether the cluster answers, and refuses nothing that is needed."""
        return self._reached and not self._refused

    def reached(self) -> None:
        """Note a good answer."""
        self._reached = True
        if self._refused and time.monotonic() - self._refused_at < REFUSED_SECONDS:
            return
        self._refused.clear()
        if self._complained:
            log.info("kafka_reached")
        self._complained = False

    def away(self, problem: str) -> None:
        """Note a question without an answer. problem: the type of an error, or a few words."""
        if self.good:
            log.warning("kafka_away", error=problem)
        self._reached = False
        self._complained = True

    def refused(self, problem: str) -> None:
        """Note that the access rules refuse what is needed. problem: the sentence that says so."""
        if problem not in self._refused:
            log.warning("kafka_refuses", problem=problem)
        self._refused.add(problem)
        self._refused_at = time.monotonic()
        self._complained = True
