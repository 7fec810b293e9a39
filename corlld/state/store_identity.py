"""`store.json`: whom a state store belongs to. Another secret, input or model would mix up or orphan its users.

This module makes, reads and compares the content. Each store reads and writes the file in its own way.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import structlog

from corlld.durable import StoreIdentity
from corlld.errors import ConfigurationError
from corlld.settings.paths import absolute_if_path
from corlld.state import store_format
from corlld.system.stored_json import read_json

log = structlog.get_logger("corlld.start")

IDENTITY_NAME = "store.json"

_START = "start_adapter"  # the only field that may change: users' states stay as they are

_FILE = "jsonl"  # cluster id of a file of events

_MEANINGS = {
    "secret_fingerprint": "the fingerprint of identity.secret (users would get other names)",
    "cluster_id": "the input's cluster (its offsets mean other records)",
    "group": "kafka.group_id (its offsets are another group's)",
    "base_model": "the base model's name (model.name or model.served_name)",
    "base_revision": "the base model's content (model.name or model.revision)",
    "adapter_fingerprint": "the adapter's shape or base model (adapter.r, lora_alpha, target_modules, modules adapted)",
}


def new_identity_file(identity: StoreIdentity) -> bytes:
    """Return the content of a new `store.json`, with a random id of the store."""
    return _written({"store_id": secrets.token_hex(16), **_fields(identity)})


def raised_identity_file(data: bytes, identity: StoreIdentity) -> bytes | None:
    """Return the content of a sound `store.json` in today's format and with today's start adapter; None if it has both.

    It must be written before the first state in today's format: an older program then refuses the whole store at its
    start, and not the states one by one. And no earlier: until then the older program can still be used.
    """
    content = read_json(data)
    if content["format"] >= store_format.FORMAT and content.get(_START) == identity.start_adapter:
        return None
    return _written({name: value for name, value in content.items() if name != _START} | _fields(identity))


def fingerprint_of(data: bytes, *, where: str) -> str:
    """Return the secret's fingerprint that a `store.json` names.

    Raises ConfigurationError if the file is corrupt or in a newer format.
    """
    try:
        return str(_parsed(data, where)["secret_fingerprint"])
    except KeyError:
        raise _corrupt(where) from None


def identity_of(data: bytes, *, where: str) -> StoreIdentity:
    """Return the owner that a `store.json` names. Raises ConfigurationError if it is corrupt, NewerFormat."""
    content = _parsed(data, where)
    try:
        names = {name: str(content[name]) for name in _MEANINGS}
    except KeyError:
        raise _corrupt(where) from None
    names["base_model"] = absolute_if_path(names["base_model"])  # older versions wrote relative paths
    return StoreIdentity(**names, start_adapter=content.get(_START))


def advice_on_torn(data: bytes | None) -> str:
    """Return what mends a state that can't be read. It depends on the input of the store.

    data: the content of `store.json`, which may be corrupt: that is reported elsewhere. None if there is none.
    """
    try:
        content = read_json(data or b"null")
    except ValueError:
        content = None
    if isinstance(content, dict) and content.get("cluster_id") == _FILE:
        return (
            "the input file is not read again by itself: first stop the daemon, then put the generation before in its "
            "place or a backup's state, then append the user's lines again from its `applied` byte on, and start "
            "the daemon"
        )
    return "`corlld state repair` mends it"


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

    Raises ConfigurationError that names what differs, and what to do; NewerFormat.
    """
    stored = _parsed(data, where)
    if isinstance(model := stored.get("base_model"), str):
        stored["base_model"] = absolute_if_path(
            model
        )  # versions before settings made paths absolute kept it as written
    refuse_differing(stored, asdict(identity), where=where)
    if stored.get(_START) != identity.start_adapter:
        log.warning(
            "start_adapter_changed",
            was=stored.get(_START),
            now=identity.start_adapter,
            effect="new users begin from it; the others go on, and those who began from another one are compared with "
            "the base model",
        )


def refuse_differing(stored: Mapping[str, object], now: Mapping[str, object], *, where: str) -> None:
    """Compare fields of a `StoreIdentity`: those that `now` has.

    Raises ConfigurationError that names what differs, and what to do.
    """
    differing = [name for name in _MEANINGS if name in now and stored.get(name) != now[name]]
    if differing:
        found = "; ".join(f"{_MEANINGS[name]} was {stored.get(name)!r} and is now {now[name]!r}" for name in differing)
        raise ConfigurationError(f"{where}: the state store belongs to other settings: {found}. {_remedy(differing)}")


def _remedy(differing: Sequence[str]) -> str:
    if list(differing) != ["adapter_fingerprint"]:
        return "Put the setting back, or use another state.path"
    # With the same settings, the modules that can be adapted may be others than an older version found.
    return (
        "Put the setting back if one was changed. Or corlld or PEFT was replaced, and it adapts other modules of this "
        "model: `corlld check` lists those that are left out; start with a new state.path, or keep the old version"
    )


def _parsed(data: bytes, where: str) -> dict[str, Any]:
    """Return the content. Raises ConfigurationError if it is corrupt, NewerFormat."""
    try:
        content = read_json(data)
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(number := content.get("format"), int) or number < 1:
        raise _corrupt(where)
    if store_format.is_newer(number):
        raise store_format.newer_format(where, number)
    return content


def _fields(identity: StoreIdentity) -> dict[str, object]:
    return {name: value for name, value in asdict(identity).items() if name != _START or value is not None}


def _written(content: Mapping[str, object]) -> bytes:
    return json.dumps({**content, "format": store_format.FORMAT}, indent=2, sort_keys=True).encode() + b"\n"


def _corrupt(where: str) -> ConfigurationError:
    return ConfigurationError(f"{where} is corrupt: restore it from a backup")
