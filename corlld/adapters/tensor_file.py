"""Writes and reads fp32 and bf16 tensors as safetensors files. The same values are the same bytes for ever.

The safetensors library keeps metadata in an unordered map, and may lay a file out differently in its next release.
Files written here are hashed, and compared with those written before. Every safetensors reader can read them.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corlld.system.stored_json import read_json

LENGTH_BYTES = 8  # a file begins with the length of its header, little-endian
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_ALIGNMENT = 8
# The format's name of a type: torch's type, and integers of the same size, since numpy has no bfloat16.
_FORMATS: dict[str, tuple[torch.dtype, torch.dtype, np.dtype[Any]]] = {
    "F32": (torch.float32, torch.int32, np.dtype("<i4")),
    "BF16": (torch.bfloat16, torch.int16, np.dtype("<i2")),
}
_NAMES = {dtype: name for name, (dtype, _, _) in _FORMATS.items()}


def canonical_json(value: object) -> str:
    """Write `value` in the only way: sorted keys, no spaces, ASCII. Floats read back exactly."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the numbers of an fp32 or bf16 tensor, little-endian, row by row. No copy if the tensor lies so in memory.

    Raises ValueError for another type.
    """
    if tensor.dtype not in _NAMES:
        raise ValueError(f"expected float32 or bfloat16, got {tensor.dtype}")
    _, integer, little_endian = _FORMATS[_NAMES[tensor.dtype]]
    array = tensor.detach().cpu().contiguous().view(integer).numpy().astype(little_endian, copy=False)
    return array.reshape(-1).view(np.uint8).data


def write_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a whole safetensors file. Its tensors lie in the order of their names."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    parts = []
    start = 0
    for name, tensor in sorted(tensors.items()):
        data = tensor_bytes(tensor)
        end = start + data.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        parts.append(data)
        start = end
    head = canonical_json(header).encode()
    head += b" " * (-len(head) % _ALIGNMENT)
    return b"".join([len(head).to_bytes(LENGTH_BYTES, "little"), head, *parts])


def header_end(beginning: bytes) -> int:
    """Return the number of bytes from the start of the file to the end of its header.

    beginning: at least the first `LENGTH_BYTES` of the file. Raises ValueError if no file can begin so.
    """
    length = int.from_bytes(beginning[:LENGTH_BYTES], "little")
    if len(beginning) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
        raise ValueError("it has no header")
    return LENGTH_BYTES + length


def read_beginning(path: Path) -> bytes:
    """Read the file up to the end of its header; less if it has no header, which `read_header` then reports."""
    with path.open("rb") as stream:
        beginning = stream.read(LENGTH_BYTES)
        with contextlib.suppress(ValueError):
            beginning += stream.read(header_end(beginning) - LENGTH_BYTES)
        return beginning


def read_beginning_of_whole(path: Path) -> bytes:
    """Read the file up to the end of its header; nothing if the file is not as long as its header says."""
    beginning = read_beginning(path)
    return beginning if is_whole(beginning, path.stat().st_size) else b""


def is_whole(beginning: bytes, length: int) -> bool:
    """Return whether a file of this length in bytes is as long as its header says. What it holds is not looked at.

    beginning: the file at least up to the end of its header.
    """
    try:
        ends = [entry["data_offsets"][1] for entry in read_header(beginning)[1].values()]
        return bool(header_end(beginning) + max(ends, default=0) == length)
    except (ValueError, LookupError, TypeError):
        return False


def read_header(beginning: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the metadata, and by name the type, shape and place of each tensor.

    beginning: the file at least up to the end of its header. Raises ValueError.
    """
    end = header_end(beginning)
    if end > len(beginning):
        raise ValueError("it ends within its header")
    parsed = read_json(beginning[LENGTH_BYTES:end])
    if not isinstance(parsed, dict) or not isinstance(parsed.get("__metadata__"), dict):
        raise ValueError("it has no header of safetensors")
    return parsed.pop("__metadata__"), parsed


def read_tensors(data: bytes) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return the metadata and the one-dimensional tensors of a file that `write_tensors` made.

    Raises ValueError for any other file.
    """
    metadata, entries = read_header(data)
    start = header_end(data)
    tensors = {}
    for name, entry in sorted(entries.items()):
        match entry:
            case {"dtype": ("F32" | "BF16") as dtype, "shape": [int(size)]} if size >= 0:
                number, _, little_endian = _FORMATS[dtype]
                end = start + size * little_endian.itemsize
            case _:
                raise ValueError("it holds other tensors than corlld writes")
        if end > len(data):
            raise ValueError("it is shorter than its header says")
        # A copy: torch tensors over a read-only buffer could be written to.
        integers = np.frombuffer(data, little_endian, size, start).astype(little_endian.newbyteorder("="))
        tensors[name] = torch.from_numpy(integers).view(number)
        start = end
    if start != len(data):
        raise ValueError("it is longer than its header says")
    return metadata, tensors
