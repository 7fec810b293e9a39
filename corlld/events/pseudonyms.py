"""Pseudonyms: the only names under which users appear in files, objects, topics, logs and adapters."""

import hashlib
import hmac

_FINGERPRINT_DOMAIN = "corlld/secret-fingerprint"


class Pseudonyms:
    """Makes users' pseudonyms from a secret. Without the secret, nobody can find the user of a pseudonym."""

    def __init__(self, secret: str) -> None:
        self._key = secret.encode()

    def uid(self, user_id: str) -> str:
        """Return the first 32 hex digits of HMAC-SHA256(secret, user_id), both in UTF-8."""
        return hmac.new(self._key, user_id.encode(), hashlib.sha256).hexdigest()[:32]

    @property
    def fingerprint(self) -> str:
        """Return 16 hex digits that distinguish secrets and reveal nothing about them.

        They are made with a key of their own, HMAC(secret, domain), so no user's pseudonym begins with them.
        """
        key = hmac.digest(self._key, _FINGERPRINT_DOMAIN.encode(), "sha256")
        return hmac.new(key, b"", hashlib.sha256).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Pseudonyms(fingerprint={self.fingerprint!r})"
