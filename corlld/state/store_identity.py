"""`store.json`: whom a state store belongs to. Another secret, input or model would mix up or orphan its users.

This module makes, reads and compares the content. Each store reads and writes the file in its own way.
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, fields

from corlld.errors import ConfigurationError
from corlld.records import StoreIdentity
from corlld.settings.paths import absolute_if_path

IDENTITY_NAME = "store.json"
FORMAT = 1

_MEANINGS = {
    "secret_fingerprint": "identity.secret (users would get other names)",
    "cluster_id": "the input's cluster (its offsets mean other records)",
    "group": "kafka.group_id (its offsets are another group's)",
    "base_model": "the base model's name (model.name or model.served_name)",
    "base_revision": "the base model's content (model.name or model.revision)",
    "adapter_fingerprint": "the adapter's shape or base model (adapter.r, lora_alpha, target_modules)",
}


def new_identity_file(identity: StoreIdentity) -> bytes:
    """Return the content of a new `store.json`, with a random id of the store."""
    content = {"format": FORMAT, "store_id": secrets.token_hex(16), **asdict(identity)}
    return json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"


def fingerprint_of(data: bytes, *, where: str) -> str:
    """Return the secret's fingerprint that a `store.json` names. Raises ConfigurationError if the file is corrupt."""
    try:
        return str(json.loads(data)["secret_fingerprint"])
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(_corrupt(where)) from None


def check_found(
    data: bytes | None,
    identity: StoreIdentity,
    *,
    must_exist: bool,
    has_states: Callable[[], bool],
    where: str,
    remedy: str,
) -> None:
    """Check what a store found at its opening. A store that lost its content must not look like one without users.

    Args:
        data: the content of `store.json`; None if there is none.
        identity: what the settings ask for.
        must_exist: the group has committed before, so there was a store.
        has_states: looks for users' states. Called only if that decides.
        where: names the file in messages.
        remedy: says what may have happened to the store, and what to do.

    Raises:
        ConfigurationError: the file is missing though there was a store, or it belongs to other settings.
    """
    if data is not None:
        check_identity(data, identity, where=where)
    elif must_exist or has_states():
        reason = "this group has committed offsets" if must_exist else "there are users' states beside it"
        raise ConfigurationError(f"{where} is missing, but {reason}: {remedy}")


def check_identity(data: bytes, identity: StoreIdentity, *, where: str) -> None:
    """Compare `store.json` with the settings. Messages show fingerprints, never a secret.

    Raises ConfigurationError that names what differs, and what to do.
    """
    try:
        stored = json.loads(data)
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise ConfigurationError(_corrupt(where))
    if stored.get("format") != FORMAT:
        raise ConfigurationError(
            f"{where} was written by another version of corlld: use that version, or another state store"
        )
    if isinstance(model := stored.get("base_model"), str):
        stored["base_model"] = absolute_if_path(
            model
        )  # versions before settings made paths absolute kept it as written
    differing = [field.name for field in fields(identity) if stored.get(field.name) != getattr(identity, field.name)]
    if differing:
        found = "; ".join(
            f"{_MEANINGS[name]} was {stored.get(name)!r} and is now {getattr(identity, name)!r}" for name in differing
        )
        raise ConfigurationError(
            f"{where}: the state store belongs to other settings: {found}. "
            "Put the setting back, or use another state.path"
        )


def _corrupt(where: str) -> str:
    return f"{where} is corrupt: restore it from a backup"
