"""Sentences for models that corlld can't use: from the model's config.json, and for every error of loading and trying.

This module reads no file and no weights. It imports torch only once an error has to be explained.
"""

import contextlib
import errno
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from corlld.errors import ConfigurationError, ExitCode, FatalError, UnavailableError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

log = structlog.get_logger("corlld.start")

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
# Libraries word the messages of these for people. The message of any other type needs the type's name before it.
_WORDED = (OSError, ValueError, ImportError)
# CUDA's libraries name a failed allocation in their own ways.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "status_alloc_failed",
)
_BUSY_DEVICE = "busy or unavailable"  # CUDA's words for a GPU that another process has for itself
_MAY_PASS = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}  # a disk or a mount over a network
_AWAY_STATUS = (408, 429, 500, 502, 503, 504)  # a hub that answers so may answer otherwise later


def refuse_config(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a model whose config.json shows that corlld can't train it.

    Args:
        name: of the model, as in the settings.
        config: content of its config.json.

    Raises:
        ConfigurationError: the model is quantised, or not a decoder alone.
    """
    texts = config.get("text_config") or {}
    found = config.get("quantization_config") or texts.get("quantization_config") or config.get("compression_config")
    if found:
        method = found.get("quant_method") or found.get("format") or "an unknown method"
        raise ConfigurationError(
            f"model.name: {name} is quantised ({method}), and corlld trains on float32, bfloat16 and float16 weights: "
            "name the model that it was made of; the engine may serve the quantised one (model.served_name)"
        )
    if config.get("is_encoder_decoder"):
        raise ConfigurationError(
            f"model.name: {name} is an encoder-decoder ({config.get('model_type')}), and corlld trains decoders"
        )


@contextlib.contextmanager
def refusing(sentence: str) -> Iterator[None]:
    """Turn every error inside into a sentence: the block loads a model or tries it out.

    Libraries raise whatever they like for a model that they can't handle, and nothing has been read or written yet
    that an error could spoil. The frames are logged at debug level.

    Args:
        sentence: its beginning, to which the reason is added after a colon.

    Raises:
        ConfigurationError: the model can't be used.
        UnavailableError: the hub or a disk does not answer, the device is busy, or memory is short; a later start may
            have more luck.
        FatalError: there is no space left to store the model.
    """
    try:
        yield
    except FatalError:
        raise
    except Exception as error:
        log.debug("model_refused", exc_info=True)
        raise _refusal(error, f"{sentence}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Return the first line of a library's message, to stand in a sentence of ours; all of a list's lines.

    If the hub answered with an error: what it says itself, or two lines, since the first is a number and little more.
    """
    message = str(error).strip()
    if answer := _answer_of_hub(error):
        lines = [part.strip() for part in (answer.server_message or message).splitlines() if part.strip()]
        return " ".join(lines if answer.server_message else lines[:2])
    line = next(iter(message.splitlines()), "").strip()
    if line.endswith(":"):
        line = " ".join(message.split())
    kind = type(error).__name__
    return line if line and isinstance(error, _WORDED) else f"{kind}: {line}" if line else kind


def _refusal(error: Exception, sentence: str) -> FatalError:
    causes = list(_causes(error))
    if any(map(_is_out_of_memory, causes)):
        return UnavailableError(
            f"{sentence}; there is too little free memory: free some, or choose a smaller model, model.dtype or "
            "adapter.device_slots"
        )
    numbers = set(map(_error_number, causes))
    if any(map(_hub_is_away, causes)) or any(map(_is_busy, causes)) or numbers & _MAY_PASS:
        return UnavailableError(sentence)
    if numbers & _NO_SPACE:
        return FatalError(sentence, ExitCode.CANNOT_WRITE)
    return ConfigurationError(sentence)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, what it was raised from, and so on."""
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def _answer_of_hub(error: Exception) -> "HfHubHTTPError | None":
    """Return the hub's answer behind an error; None if there is none but that a file does not exist."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    answers = (cause for cause in _causes(error) if isinstance(cause, HfHubHTTPError))
    return next((answer for answer in answers if not isinstance(answer, EntryNotFoundError)), None)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _error_number(error) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and _BUSY_DEVICE in str(error)


def _error_number(error: BaseException) -> int | None:
    """Return the system's number of an error; None if it has none. safetensors has it in its message alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _hub_is_away(error: BaseException) -> bool:
    """Return whether the hub was asked and did not answer: it may answer later. In offline mode it is not asked."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in _AWAY_STATUS
    if isinstance(error, LocalEntryNotFoundError):
        return error.__cause__ is not None  # the connection that failed
    if isinstance(error, OfflineModeIsEnabled):
        return False
    # The hub's client may be httpx or httpx2.
    return isinstance(error, ConnectionError | TimeoutError) or any(
        kind.__name__ == "TransportError" for kind in type(error).__mro__
    )
