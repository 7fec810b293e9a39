"""`store.json`: whom a state store belongs to. Another secret, input or model would mix up or orphan its users."""

import json
import secrets
from dataclasses import asdict, fields

from corlld.errors import ConfigurationError
from corlld.records import StoreIdentity

FORMAT = 1

_WHAT = {
    "secret_fingerprint": "identity.secret (users would get other names)",
    "cluster_id": "the input's cluster (its offsets mean other records)",
    "group": "kafka.group_id (its offsets are another group's)",
    "base_model": "the base model's name (model.name or model.served_name)",
    "base_revision": "the base model's content (model.name or model.revision)",
    "adapter_fingerprint": "the adapter's shape or base model (adapter.r, lora_alpha, target_modules)",
}


def identity_file(identity: StoreIdentity) -> bytes:
    """The content of a new `store.json`, with an id of its own."""
    content = {"format": FORMAT, "store_id": secrets.token_hex(16), **asdict(identity)}
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


def fingerprint_of(data: bytes, *, where: str) -> str:
    """The secret's fingerprint that a `store.json` names. Raises ConfigurationError where it is corrupt."""
    try:
        return str(json.loads(data)["secret_fingerprint"])
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{where} is corrupt: restore it from a backup") from None


def check_identity(data: bytes, identity: StoreIdentity, *, where: str) -> None:
    """Compare `store.json` with the settings. Fingerprints are shown, a secret never is.

    Raises ConfigurationError that names what differs, and what to do.
    """
    try:
        stored = json.loads(data)
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise ConfigurationError(f"{where} is corrupt: restore it from a backup")
    if stored.get("format") != FORMAT:
        raise ConfigurationError(
            f"{where} was written by another version of corlld: use that one, or another state store"
        )
    differing = [field.name for field in fields(identity) if stored.get(field.name) != getattr(identity, field.name)]
    if differing:
        found = "; ".join(
            f"{_WHAT[name]} was {stored.get(name)!r} and is now {getattr(identity, name)!r}" for name in differing
        )
        raise ConfigurationError(
            f"{where}: the state store belongs to other settings: {found}. "
            "Put the setting back, or use another state.path"
        )
