"""Errors of loading a model become a sentence whose exit code says whether a later start may work."""

import errno
import importlib
import logging
from typing import Any

import pytest
import structlog
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RemoteEntryNotFoundError
from safetensors import SafetensorError

from corlld.errors import ConfigurationError, ExitCode, FatalError
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.unsupported import reason, refusing
from corlld.settings.sections import AdapterSettings, ModelSettings

# The hub's client is httpx or httpx2: the package of the class below the hub's own error.
httpx = importlib.import_module(HfHubHTTPError.__mro__[1].__module__.partition(".")[0])


def _answer(
    status: int, message: str = "The hub answers.", kind: type[HfHubHTTPError] = HfHubHTTPError, said: str | None = None
) -> HfHubHTTPError:
    request = httpx.Request("GET", "http://hub.test")
    return kind(message, response=httpx.Response(status, request=request), server_message=said)


def _caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ZeroDivisionError("integer modulo by zero"), ExitCode.CONFIGURATION),
        (RecursionError(), ExitCode.CONFIGURATION),
        (_answer(404), ExitCode.CONFIGURATION),
        (_answer(401), ExitCode.CONFIGURATION),
        (_answer(503), ExitCode.UNAVAILABLE),
        (_answer(429), ExitCode.UNAVAILABLE),
        (httpx.ReadTimeout("The read timed out."), ExitCode.UNAVAILABLE),
        (OfflineModeIsEnabled("Offline."), ExitCode.CONFIGURATION),
        (MemoryError(), ExitCode.UNAVAILABLE),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), ExitCode.UNAVAILABLE),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), ExitCode.UNAVAILABLE),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), ExitCode.UNAVAILABLE),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), ExitCode.UNAVAILABLE),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), ExitCode.UNAVAILABLE),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), ExitCode.CONFIGURATION),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ExitCode.UNAVAILABLE),
        (SafetensorError("Error while mmap: Cannot allocate memory (os error 12)"), ExitCode.UNAVAILABLE),
        (SafetensorError("I/O error: Stale file handle (os error 116)"), ExitCode.UNAVAILABLE),
        (SafetensorError("I/O error: No space left on device (os error 28)"), ExitCode.CANNOT_WRITE),
        (SafetensorError("Error while deserializing header: header too large"), ExitCode.CONFIGURATION),
        (OSError(errno.EIO, "Input/output error"), ExitCode.UNAVAILABLE),
        (OSError(errno.ESTALE, "Stale file handle"), ExitCode.UNAVAILABLE),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), ExitCode.UNAVAILABLE),
        (OSError(errno.ENOENT, "No such file or directory"), ExitCode.CONFIGURATION),
        (RuntimeError("shapes cannot be multiplied"), ExitCode.CONFIGURATION),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.CANNOT_WRITE),
    ],
    ids=repr,
)
@pytest.mark.parametrize("as_a_cause", [False, True])
def test_an_error_of_memory_gpu_disk_or_hub_becomes_one_sentence_with_its_exit_code(
    error: Exception, code: ExitCode, as_a_cause: bool
) -> None:
    raised = _caused(ValueError("It can't be read.\nSee the manual."), error) if as_a_cause else error
    with pytest.raises(FatalError) as caught, refusing("model.name: m can't be loaded"):
        raise raised
    assert caught.value.exit_code is code
    assert str(caught.value).startswith(f"model.name: m can't be loaded: {reason(raised)}")
    assert "\n" not in str(caught.value)


def test_a_sentence_of_ours_passes_as_it_is() -> None:
    sentence = ConfigurationError("model.name: no")
    with pytest.raises(ConfigurationError) as caught, refusing("model.name: m can't be loaded"):
        raise sentence
    assert caught.value is sentence


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("There is no such model.\nSee the manual."), "There is no such model."),
        (ValueError("Install one of: \n(1) this or\n(2) that"), "Install one of: (1) this or (2) that"),
        (KeyError("layers"), "KeyError: 'layers'"),
        (AttributeError(), "AttributeError"),
    ],
)
def test_a_reason_is_the_first_line_with_the_type_where_the_message_alone_means_nothing(
    error: Exception, words: str
) -> None:
    assert reason(error) == words


GATED = (
    "401 Client Error. (Request ID: x)\n\nCannot access gated repo for url http://hub.test/m.\nAccess is restricted."
)
NOT_FOUND = _answer(404, "404 Client Error.", RemoteEntryNotFoundError, "Entry not found")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            _answer(401, GATED, said="Access to m is restricted.\nPlease log in."),
            "Access to m is restricted. Please log in.",
        ),
        (_answer(401, GATED), "401 Client Error. (Request ID: x) Cannot access gated repo for url http://hub.test/m."),
        (_caused(OSError("It is gated."), _answer(403, GATED, said="Ask for access.")), "Ask for access."),
        (_caused(OSError("It is gated.\n\nAsk.\nFor access."), _answer(403, GATED)), "It is gated. Ask."),
        # A file that is not needed was looked for before.
        (_caused(OSError("There is no such model.\nSee the manual."), NOT_FOUND), "There is no such model."),
    ],
)
def test_the_hubs_own_words_are_the_reason(error: Exception, words: str) -> None:
    assert reason(error) == words


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_a_hub_that_is_asked_again_fills_the_log_at_debug_level_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, level: int, shown: bool
) -> None:
    def retried(*arguments: Any, **options: Any) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise httpx.ConnectError("refused")

    library = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(library, "level", logging.WARNING)
    monkeypatch.setattr(library, "propagate", True)
    monkeypatch.setattr("transformers.PreTrainedConfig.get_config_dict", retried)
    with caplog.at_level(level, "corlld"), pytest.raises(FatalError, match="there is no folder some/model"):
        load_resident_model(ModelSettings(name="some/model", device="cpu"), AdapterSettings())
    assert ("Retrying" in caplog.text) is shown


@pytest.mark.parametrize(("offline", "logged"), [(False, ["asking_hub"]), (True, [])])
def test_the_log_says_that_the_hub_is_asked_before_a_long_wait(
    monkeypatch: pytest.MonkeyPatch, offline: bool, logged: list[str]
) -> None:
    seen = []

    def away(*arguments: Any, **options: Any) -> None:
        seen.extend(log["event"] for log in logs)
        raise httpx.ConnectError("refused")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("transformers.PreTrainedConfig.get_config_dict", away)
    with structlog.testing.capture_logs() as logs, pytest.raises(FatalError):
        load_resident_model(ModelSettings(name="some/model", device="cpu"), AdapterSettings())
    assert seen == logged
