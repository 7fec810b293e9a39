"""Reads JSON that was stored. Damage may make anything of it, and must not end the process that reads it."""

import json
from typing import Any


def read_json(data: bytes | str) -> Any:
    """Return the value. Raises ValueError for anything else, also if it is nested too deeply to be read."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
