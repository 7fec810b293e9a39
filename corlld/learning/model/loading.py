"""Loads the base model that the settings name: its files, its tokenizer, its place on a device."""

from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError

from corlld.errors import ConfigurationError, UnavailableError
from corlld.learning.model.files import find_model_files, first_line
from corlld.learning.model.resident import ResidentModel, check_rows, make_resident
from corlld.learning.model.start_probe import check_adapters
from corlld.settings.sections import AdapterSettings, ModelSettings


def load_resident_model(model: ModelSettings, adapter: AdapterSettings) -> ResidentModel:
    """Load the base model that the settings name.

    Raises:
        ConfigurationError: the model can't be found, read, placed on its device, trained on shared prefixes, or adapted
            as PEFT would load it.
        UnavailableError: the hub did not answer, and the model is not in its cache.
        FatalError: the cache of converted models can't be written.
    """
    if model.threads:
        torch.set_num_threads(model.threads)
    device = choose_device(model.device)
    loaded, tokenizer, revision = _load(model, device)
    try:
        loaded.to(device)
    except RuntimeError as error:
        raise ConfigurationError(f"model.device: {model.name} can't be placed on {device}") from error
    resident = make_resident(
        loaded,
        tokenizer,
        adapter,
        name=model.served_name or str(model.name),
        revision=revision,
        checkpointing=model.activation_checkpointing,
    )
    check_rows(resident)
    check_adapters(resident)
    return resident


def _load(model: ModelSettings, device: torch.device) -> tuple[Any, Any, str]:
    """Return the model, in host memory, its tokenizer and the revision that names its content."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    files = find_model_files(model)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(files.source, revision=files.hub_revision)
        loaded, loading = transformers.AutoModelForCausalLM.from_pretrained(
            files.source,
            revision=files.hub_revision,
            dtype=choose_dtype(model.dtype, device),
            use_safetensors=True,  # the other format is pickle
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        problem = f"model.name: {model.name} can't be loaded: {first_line(error)}"
        if files.revision is None:
            problem = (
                f"model.name: there is no folder {model.name}, and as a hub id it can't be loaded: {first_line(error)}"
            )
        raise (UnavailableError if _hub_is_away(error) else ConfigurationError)(problem) from error
    if loading["missing_keys"]:
        # transformers would go on with random numbers in their place.
        raise ConfigurationError(f"model.name: {model.name} lacks weights, among them {min(loading['missing_keys'])}")
    revision = files.revision or getattr(loaded.config, "_commit_hash", None)
    if revision is None:
        raise ConfigurationError(f"model.name: the commit of {model.name} is unknown; name a local folder instead")
    return loaded, tokenizer, revision


def _hub_is_away(error: Exception) -> bool:
    """Return whether the hub was asked and did not answer: it may answer later. In offline mode it is not asked."""
    missing = error.__cause__
    return isinstance(missing, LocalEntryNotFoundError) and missing.__cause__ is not None


def choose_device(name: str) -> torch.device:
    """Return the device that `model.device` names.

    Raises:
        ConfigurationError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(
            f"model.device: unknown device {name!r}; `auto`, `cpu`, `cuda`, `cuda:1` ..."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f"model.device: this machine has no {name}")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that `model.dtype` names, for a model on this device."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
