"""Attempts in the bucket of the states: `attempts/<digest of the partition>.json`."""

from corlld.durable import Attempts
from corlld.state.attempts_file import attempts_key, decode_attempts, encode_attempts
from corlld.system.object_client import ObjectClient


class ObjectAttempts:
    """Implements `corlld.protocols.AttemptStore`.

    Args:
        url: `s3://bucket/prefix` of a state store that was opened.
        max_retries: how often a request is repeated within one call; the loop tries again after that.

    Raises:
        ConfigurationError: the URL can't be used.
    """

    def __init__(self, url: str, max_retries: int = 3) -> None:
        self._objects = ObjectClient(url, setting="state.url", max_retries=max_retries)

    def load_attempts(self, partition: str) -> Attempts | None:
        """See the protocol."""
        with self._objects.retriable():
            found = self._objects.read(attempts_key(partition))
        return None if found is None else decode_attempts(found.data, partition)

    def save_attempts(self, partition: str, attempts: Attempts) -> None:
        """See the protocol. No condition is needed: one daemon owns the partition, and a stale one loses little."""
        with self._objects.retriable():
            self._objects.replace(attempts_key(partition), encode_attempts(partition, attempts))
