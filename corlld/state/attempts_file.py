"""A partition's attempts as the bytes of a file or an object, and its name: a digest of the partition's key."""

import hashlib
import json

from corlld.durable import Attempts
from corlld.errors import AttemptsUnreadable
from corlld.system.stored_json import read_json

FOLDER = "attempts"

_FORMAT = 1


def attempts_key(partition: str) -> str:
    """Return the path below the store, `attempts/<32 hex digits>.json`."""
    return f"{FOLDER}/{hashlib.sha256(partition.encode()).hexdigest()[:32]}.json"


def encode_attempts(partition: str, attempts: Attempts) -> bytes:
    """Return the content: a JSON object that people can read.

    Older programs leave out `crashed` and `paused`, when they read it and when they write it.
    """
    fields = {
        "format": _FORMAT,
        "partition": partition,
        "tried_below": attempts.tried_below,
        "committed": attempts.committed,
        "tries": {str(offset): tries for offset, tries in sorted(attempts.tries.items())},
        "letters": sorted(attempts.letters),
        "crashed": [event_hash.hex() for event_hash in attempts.crashed],
        "paused": attempts.paused,
    }
    return json.dumps(fields).encode()


def decode_attempts(data: bytes, partition: str) -> Attempts:
    """Read it back. Raises AttemptsUnreadable if it is not what `encode_attempts` wrote for this partition."""
    try:
        fields = read_json(data)
        if fields["format"] != _FORMAT or fields["partition"] != partition:
            raise ValueError
        return Attempts(
            int(fields["tried_below"]),
            int(fields["committed"]),
            {int(offset): int(tries) for offset, tries in fields["tries"].items()},
            frozenset(map(int, fields["letters"])),
            tuple(map(bytes.fromhex, fields.get("crashed", ()))),
            bool(fields.get("paused", False)),
        )
    except (ValueError, TypeError, LookupError, AttributeError):
        raise AttemptsUnreadable(f"{attempts_key(partition)} is corrupt") from None
