"""Pseudonyms: the only names under which users appear in files, objects, topics, logs and adapters."""

import hashlib
import hmac

_FINGERPRINT_DOMAIN = "corlld/secret-fingerprint"


class Pseudonyms:
    """Users' pseudonyms under one secret. Without the secret nobody can tell whose a pseudonym is."""

    def __init__(self, secret: str) -> None:
        self._key = secret.encode()

    def uid(self, user_id: str) -> str:
        """The first 32 hex digits of HMAC-SHA256(secret, user_id), both in UTF-8."""
        return hmac.new(self._key, user_id.encode(), hashlib.sha256).hexdigest()[:32]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell secrets apart and give nothing away.

        Made under a key of its own, HMAC(secret, domain), so that it is the beginning of no user's pseudonym.
        """
        key = hmac.digest(self._key, _FINGERPRINT_DOMAIN.encode(), "sha256")
        return hmac.new(key, b"", hashlib.sha256).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Pseudonyms(fingerprint={self.fingerprint!r})"
