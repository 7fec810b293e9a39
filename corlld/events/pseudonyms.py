"""Pseudonyms: the only names under which users appear in files, objects, topics, logs and adapters.

Event ids that have to be recognised, and not read, get a hash under the same secret.
"""

import hashlib
import hmac

_FINGERPRINT_DOMAIN = "corlld/secret-fingerprint"
_EVENT_ID_DOMAIN = "corlld/event-id"


class Pseudonyms:
    """Makes users' pseudonyms from a secret. Without the secret, nobody can find the user of a pseudonym."""

    def __init__(self, secret: str) -> None:
        self._key = secret.encode()
        self._event_id_key = hmac.digest(self._key, _EVENT_ID_DOMAIN.encode(), "sha256")

    def uid(self, user_id: str) -> str:
        """Return the first 32 hex digits of HMAC-SHA256(secret, user_id), both in UTF-8."""
        return hmac.new(self._key, user_id.encode(), hashlib.sha256).hexdigest()[:32]

    def event_id_hash(self, uid: str, event_id: str) -> bytes:
        """Return 8 bytes by which an event id of the user is recognised. Another user's same id gets another hash.

        As for the fingerprint, the key is one of its own.
        """
        return hmac.digest(self._event_id_key, f"{uid}/{event_id}".encode(errors="surrogatepass"), "sha256")[:8]

    @property
    def fingerprint(self) -> str:
        """Return 16 hex digits that distinguish secrets and reveal nothing about them.

        They are made with a key of their own, HMAC(secret, domain), so no user's pseudonym begins with them.
        """
        key = hmac.digest(self._key, _FINGERPRINT_DOMAIN.encode(), "sha256")
        return hmac.new(key, b"", hashlib.sha256).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Pseudonyms(fingerprint={self.fingerprint!r})"
