"""Types and refusals that the models of events as JSON share. No message of a refusal quotes the input."""

import json
from typing import Annotated, Any, cast

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from corlld.errors import InvalidReason

MAX_JSON_DEPTH = 100  # what was read is read again where the stack is deeper, and by templates

_PREFIX = "corlld."


def refusal(detail: str, reason: InvalidReason = InvalidReason.INVALID_FIELD) -> PydanticCustomError:
    """Return the error of a validator that knows what is allowed here. detail: a constant, without braces."""
    return PydanticCustomError(cast(Any, _PREFIX + reason.value), cast(Any, detail))


def reason_of(error_type: str) -> InvalidReason | None:
    """Return the reason that a `refusal` gave; None for an error of pydantic's own, whose message may quote values."""
    return InvalidReason(error_type.removeprefix(_PREFIX)) if error_type.startswith(_PREFIX) else None


def encodable(text: str) -> str:
    """Refuse a lone surrogate: JSON can write it, UTF-8 can't, so the text could not be hashed, tokenised or stored."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(encodable)]  # its UnicodeEncodeError is a ValueError, as pydantic expects


def is_empty(value: object) -> bool:
    """Return whether a field holds nothing: clients write what they don't use as null, "", [] or {}."""
    return value is None or value in ("", [], {})


def json_text(value: object) -> str:
    """Write JSON again, its keys in their order, which templates show. Raises PydanticCustomError."""
    try:
        if _is_nested_at_most(MAX_JSON_DEPTH, value):
            return encodable(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))
    except ValueError:
        pass
    raise refusal(f"JSON with texts in UTF-8, finite numbers and at most {MAX_JSON_DEPTH} levels")


def _is_nested_at_most(levels: int, value: object) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_nested_at_most(levels - 1, item) for item in inner)
