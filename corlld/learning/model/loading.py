"""Loads the base model that the settings name: its files, its tokenizer, its place on a device.

Whatever is wrong with a model ends here, in one sentence. No code of a model's folder is ever run.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from corlld.errors import ConfigurationError
from corlld.learning.model.files import ModelFiles, find_model_files
from corlld.learning.model.resident import ResidentModel, check_rows, make_resident
from corlld.learning.model.served_names import refuse_modules_outside, served_names
from corlld.learning.model.start_probe import check_adapters
from corlld.learning.model.token_check import check_tokens
from corlld.learning.model.unsupported import refuse_config, refusing
from corlld.settings.sections import AdapterSettings, ModelSettings, PublishingSettings

log = structlog.get_logger("corlld.start")

_BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16", "bf16")  # flags of a CPU; any of them is enough


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A model in host memory, its tokenizer and the revision that names its content.

    config, architectures: of its config.json.
    """

    model: Any
    tokenizer: Any
    revision: str
    config: Any
    architectures: tuple[str, ...]


def load_resident_model(
    model: ModelSettings, adapter: AdapterSettings, publishing: PublishingSettings | None = None
) -> ResidentModel:
    """Load the base model that the settings name.

    Args:
        model: names it.
        adapter: shape of every user's adapter.
        publishing: None or off: adapters will not be published, so that no engine has to know their names.

    Raises:
        ConfigurationError: the model can't be found, read, placed on its device, or trained.
        UnavailableError: the hub did not answer, and the model is not in its cache; or memory is short.
        FatalError: the cache of models can't be written.
    """
    if model.threads:
        torch.set_num_threads(model.threads)
    device = choose_device(model.device)
    dtype = choose_dtype(model.dtype, device)
    if problem := slow_dtype(dtype, device):
        log.warning("dtype_is_slow", reason=problem)
    loaded = _load(model, dtype)
    name = str(model.name)
    with refusing(f"model.name: the tokenizer of {name} can't be used"):
        check_tokens(loaded.tokenizer)
    with refusing(f"model.device: {name} can't be placed on {device}"):
        _place(name, loaded.model, device)
    with refusing(f"model.name: {name} can't be trained"):
        names = None
        if publishing is not None and publishing.enabled:
            names = served_names(loaded.model, loaded.config, loaded.architectures, publishing.module_prefix)
        resident = make_resident(
            loaded.model,
            loaded.tokenizer,
            adapter,
            name=model.served_name or name,
            revision=loaded.revision,
            checkpointing=model.activation_checkpointing,
            module_names=names,
        )
        refuse_modules_outside(resident.layout, names)
        check_rows(resident)
        check_adapters(resident)
    return resident


def _load(model: ModelSettings, dtype: torch.dtype) -> _Loaded:
    import huggingface_hub.constants
    import transformers

    transformers.utils.logging.disable_progress_bar()
    _quieten("transformers", "huggingface_hub")
    name = str(model.name)
    trouble = f"model.name: {name} can't be loaded"
    with refusing(trouble):
        files = find_model_files(model)
    if files.revision is None:
        trouble = f"model.name: there is no folder {name}, and as a hub id it can't be loaded"
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            # Several files are asked for, each again and again if the hub is away: minutes without another word.
            log.info("asking_hub", model=name, hint="HF_HUB_OFFLINE=1 takes a model from the cache without asking")
    with refusing(trouble):
        content, config = _read_config(name, files)
    with refusing(f"model.name: {name} has no tokenizer that can be loaded"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            files.source, revision=files.hub_revision, trust_remote_code=False
        )
    with refusing(trouble):
        loaded, loading = transformers.AutoModelForCausalLM.from_pretrained(
            files.source,
            revision=files.hub_revision,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,  # the other format is pickle
            ignore_mismatched_sizes=True,  # refused below, with the name
            output_loading_info=True,
        )
    # transformers would go on with random numbers in their place.
    if missing := loading["missing_keys"]:
        raise ConfigurationError(f"model.name: {name} lacks weights, among them {min(missing)}")
    if other := loading["mismatched_keys"]:
        raise ConfigurationError(
            f"model.name: {name} has weights of other sizes than its config.json says, among them {min(other)[0]}"
        )
    revision = files.revision or _cached_commit(files)
    if revision is None:
        raise ConfigurationError(f"model.name: the commit of {name} is unknown; name a local folder instead")
    return _Loaded(loaded, tokenizer, revision, config, tuple(content.get("architectures") or ()))


def _cached_commit(files: ModelFiles) -> str | None:
    """Return the commit of a hub model that was loaded, by its folder in the hub's cache; None if it is not there."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(
        files.source, "config.json", cache_dir=constants.HF_HUB_CACHE, revision=files.hub_revision
    )
    return Path(found).parent.name if isinstance(found, str) else None


def _read_config(name: str, files: ModelFiles) -> tuple[dict[str, Any], Any]:
    """Return the content of the model's config.json, and transformers' config of it.

    Raises:
        ConfigurationError: the model shows in its config that corlld can't train it.
        Exception: anything that transformers raises for a config that it can't read.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    content, _ = transformers.PreTrainedConfig.get_config_dict(files.source, revision=files.hub_revision)
    refuse_config(name, content)
    kind = content.get("model_type")
    if kind not in transformers.CONFIG_MAPPING and content.get("auto_map"):
        raise ConfigurationError(
            f"model.name: {name} brings code of its own for a model of type {kind}, and corlld runs no model's code"
        )
    config = transformers.AutoConfig.from_pretrained(files.source, revision=files.hub_revision, trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigurationError(
            f"model.name: {name} is a model of type {kind}, which transformers can't load as a causal language model"
        )
    return content, config


def _quieten(*libraries: str) -> None:
    """Drop the libraries' warnings, unless the log is open for debugging: a hub's retries and unused weights, say.

    What goes wrong in the end is said in a sentence.
    """
    if not logging.getLogger("corlld").isEnabledFor(logging.DEBUG):
        for library in libraries:
            logging.getLogger(library).setLevel(logging.ERROR)


def _place(name: str, model: Any, device: torch.device) -> None:
    """Move the model to its device. Raises ConfigurationError for a model that can never fit."""
    if device.type == "cuda":
        needed, whole = model.get_memory_footprint(), torch.cuda.get_device_properties(device).total_memory
        if needed > whole:
            raise ConfigurationError(
                f"model.name: {name} has {needed / 1e9:,.1f} GB of weights, and {device} has {whole / 1e9:,.1f} GB"
            )
    model.to(device)


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


def slow_dtype(dtype: torch.dtype, device: torch.device) -> str:
    """Return the reason why another dtype would be much faster on this device, or an empty text."""
    if dtype != torch.bfloat16 or device.type != "cpu" or bfloat16_units():
        return ""
    return (
        f"this CPU has no units for bfloat16 ({', '.join(_BFLOAT16_UNITS)}), which is about ten times slower than "
        "float32 here"
    )


def bfloat16_units() -> list[str]:
    """Return the CPU's flags that stand for units which multiply bfloat16 matrices. Without any, float32 is faster."""
    has = torch.cpu.get_capabilities()
    return [name for name in _BFLOAT16_UNITS if has.get(name, False)]
