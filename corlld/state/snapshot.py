"""Turns a user's state into the bytes of one file, and back: safetensors, with a checksum over everything.

All that is not a tensor stands as JSON in the file's metadata: the state's text, with every field of today's format.
`migrations` makes it from the texts of older formats. This module does not know where the file is kept.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import torch

from corlld.adapters.layout import AdapterLayout, AdapterTensors
from corlld.adapters.tensor_file import (
    canonical_json,
    header_end,
    read_header,
    read_tensors,
    tensor_bytes,
    write_tensors,
)
from corlld.durable import (
    AdapterHeader,
    BaseDraftPairs,
    DraftFigures,
    EditedRise,
    Head,
    ModuleNames,
    Participation,
    Release,
    Statistics,
    UserState,
)
from corlld.errors import StateUnreadable
from corlld.state import store_format
from corlld.state.migrations import migrated
from corlld.system.stored_json import read_json

Moments = Literal["float32", "bfloat16"]

STATE_KEY = "corlld.state"
CHECKSUM_KEY = "corlld.sha256"  # over the JSON and the tensors' bytes, which lie in the order of their names

_MOMENTS = ("exp_avg", "exp_avg_sq")
_TENSORS = (*_MOMENTS, "weights")
_KEPT = np.dtype("<i4")  # token ids of the user's last pairs, in Base64


def encode(state: UserState, write_id: str | None = None, moments: Moments = "float32") -> bytes:
    """Return the file of the state. The same state and `write_id` give the same bytes.

    Args:
        state: its adapter, if any, in fp32.
        write_id: random, to tell this write from others; see `write_id_of`.
        moments: the type of Adam's moments in the file. In bfloat16 they are rounded for good.

    Raises:
        TypeError: the adapter is not `AdapterTensors`.
    """
    adapter = state.adapter
    if adapter is not None and not isinstance(adapter, AdapterTensors):
        raise TypeError("another type of adapter")
    optional = {} if state.repair is None else {"repair": state.repair}  # most states are the same bytes as before it
    text = canonical_json(
        {
            **optional,
            "format": store_format.FORMAT,
            "uid": state.uid,
            "version": state.version,
            "optimizer_step": None if adapter is None else adapter.optimizer_step,
            "start": None if adapter is None else adapter.start,
            "kept_pairs": "" if adapter is None else _base64(adapter.kept.numpy().astype(_KEPT).tobytes()),
            "applied": dict(state.applied),
            "recent_event_ids": list(state.recent_event_ids),
            "older_event_ids": _base64(state.older_event_ids),
            "statistics": asdict(state.statistics),
            "release": None if state.release is None else asdict(state.release),
            "erased": state.erased,
            "erased_through": state.erased_through,
            "participation": None if state.participation is None else asdict(state.participation),
            "write_id": write_id,
        }
    )
    tensors = {}
    if adapter is not None:
        rounded = {name: getattr(adapter, name).to(getattr(torch, moments)) for name in _MOMENTS}
        tensors = {"weights": adapter.weights, **rounded}
    return write_tensors(tensors, {STATE_KEY: text, CHECKSUM_KEY: _checksum(text, tensors)})


def decode(data: bytes, uid: str, layout: AdapterLayout | None = None) -> UserState:
    """Return the state that `encode` was given. Its tensors are in fp32, also those written as bfloat16.

    Args:
        data: the whole file.
        uid: the user that the state must belong to.
        layout: if given, the tensors must be of its size.

    Raises:
        StateUnreadable: the file is torn, corrupt or of another user.
        NewerFormat: the file is whole, and of a format that only a newer corlld knows.
    """
    try:
        return _decode(data, uid, layout)
    except (StateUnreadable, ValueError, KeyError, TypeError, AttributeError) as error:
        if (newer := _newer_format_of(data)) is not None:
            raise store_format.newer_format(f"the state of user {uid}", newer) from None
        raise StateUnreadable(_reason(error)) from None


def decode_header(beginning: bytes, uid: str) -> UserState:
    """Return the state without its tensors: its adapter is an `AdapterHeader`.

    The checksum is not checked: it covers the tensors too.

    Args:
        beginning: the file at least up to the end of its header.
        uid: the user that the state must belong to.

    Raises:
        StateUnreadable: as `decode`; or the format is a newer one, which a flipped bit can look like.
    """
    try:
        fields = _fields(read_header(beginning)[0][STATE_KEY], uid)
        step = fields["optimizer_step"]
        return replace(_state(fields), adapter=None if step is None else AdapterHeader(step, fields["start"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateUnreadable(_reason(error)) from None


def head_of(state: UserState) -> Head:
    """Return the part of the state that an announcement needs.

    A user who came back after an erasure counts as erased until there is a new version: nothing may be announced. A
    state that an older backup brought, under the number of the newest version that is out, has no release either.
    """
    came_back = state.release is None and 0 < state.version <= state.erased_through
    return Head(state.version, erased=state.erased or came_back, erased_through=state.erased_through)


def write_id_of(data: bytes) -> str | None:
    """Return the `write_id` that a file was encoded with; None if it has none or can't be read."""
    try:
        write_id = read_json(read_tensors(data)[0][STATE_KEY])["write_id"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return write_id if isinstance(write_id, str) else None


def _decode(data: bytes, uid: str, layout: AdapterLayout | None) -> UserState:
    metadata, tensors = read_tensors(data)
    text = metadata[STATE_KEY]
    if not hmac.compare_digest(_checksum(text, tensors), metadata[CHECKSUM_KEY]):
        raise StateUnreadable("its checksum does not match its content")
    fields = _fields(text, uid)
    return replace(_state(fields), adapter=_adapter(fields, tensors, layout))


def _newer_format_of(data: bytes) -> int | None:
    """Return the number of the file's format if it is newer than ours. The tensors may be of any kind then.

    None for a file that is not whole: a flipped bit can make a newer format of ours.
    """
    try:
        metadata, _ = read_header(data)
        number = read_json(metadata[STATE_KEY])["format"]
        digest = hashlib.sha256(metadata[STATE_KEY].encode())
        digest.update(memoryview(data)[header_end(data) :])
        whole = hmac.compare_digest(digest.hexdigest(), metadata[CHECKSUM_KEY])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return number if whole and store_format.is_newer(number) else None


def _checksum(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def _fields(text: str, uid: str) -> dict[str, Any]:
    """Return the fields of a state's text in today's format, whatever format it was written in."""
    fields = migrated(read_json(text))
    if fields["uid"] != uid:
        raise StateUnreadable("it belongs to another user")
    return fields


def _state(fields: Mapping[str, Any]) -> UserState:
    return UserState(
        uid=fields["uid"],
        version=fields["version"],
        applied=fields["applied"],
        recent_event_ids=tuple(fields["recent_event_ids"]),
        older_event_ids=base64.b64decode(fields["older_event_ids"], validate=True),
        statistics=_statistics(fields["statistics"]),
        release=_release(fields["release"]),
        erased=fields["erased"],
        erased_through=fields["erased_through"],
        participation=_participation(fields["participation"]),
        repair=fields.get("repair"),
    )


def _participation(fields: Mapping[str, Any] | None) -> Participation | None:
    return None if fields is None else Participation(**{**fields, "outcome": DraftFigures(**fields["outcome"])})


def _adapter(
    fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], layout: AdapterLayout | None
) -> AdapterTensors | None:
    optimizer_step = fields["optimizer_step"]
    if optimizer_step is None and not tensors:
        return None
    if optimizer_step is None or sorted(tensors) != sorted(_TENSORS):
        raise StateUnreadable("tensors are missing")
    adapter = AdapterTensors(
        optimizer_step=optimizer_step,
        start=fields["start"],
        kept=torch.from_numpy(np.frombuffer(base64.b64decode(fields["kept_pairs"]), _KEPT).astype(np.int32)),
        **{name: tensor.to(torch.float32) for name, tensor in tensors.items()},
    )
    sizes = {len(tensor) for tensor in tensors.values()}
    if len(sizes) > 1 or (layout is not None and sizes != {layout.size}):
        raise StateUnreadable("its tensors have another shape than the adapter")
    return adapter


def _release(fields: Mapping[str, Any] | None) -> Release | None:
    if fields is None:
        return None
    names = fields["module_names"]
    return Release(
        **{
            **fields,
            "statistics": _statistics(fields["statistics"]),
            "module_names": None if names is None else ModuleNames(**names),
        }
    )


def _statistics(fields: Mapping[str, Any]) -> Statistics:
    return Statistics(
        **{
            **fields,
            "drafts": {name: DraftFigures(**figures) for name, figures in fields["drafts"].items()},
            "first_drafts": DraftFigures(**fields["first_drafts"]),
            "edited_rise": EditedRise(**fields["edited_rise"]),
            "base_draft_pairs": BaseDraftPairs(**fields["base_draft_pairs"]),
        }
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _reason(error: Exception) -> str:
    """Return the message of an error of ours. Python's own messages could quote the input."""
    own = type(error) is ValueError and str(error).startswith("it ")
    return str(error) if own or isinstance(error, StateUnreadable) else "its header is corrupt"
