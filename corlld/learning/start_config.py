"""The config of a start adapter, as PEFT writes it: read, and compared with the settings. It needs no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corlld.errors import ConfigurationError
from corlld.settings.sections import AdapterSettings
from corlld.system.stored_json import read_json

CONFIG_FILE = "adapter_config.json"

# Fields of PEFT's config that change nothing of what the tensors mean. `target_modules` and its like are judged by the
# tensors' names, `r`, `lora_alpha` and the base model by themselves.
# fmt: off
_OF_NO_ACCOUNT = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_version",
    "qalora_group_size", "r", "revision", "runtime_config", "target_modules", "task_type",
})
# fmt: on
# Other ways to draw the first weights subtract them from the base model, which then is another model.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
_NEEDED = {"peft_type": "LORA", "bias": "none"}  # other fields: absent, or empty, or off


def check_start(settings: AdapterSettings) -> None:
    """Refuse a folder that can't be the start adapter of these settings, by its config alone, if they name one.

    Raises ConfigurationError with a sentence on what can't be read, or on the first thing that is different.
    """
    if settings.start_path is not None:
        read_config(settings.start_path, r=settings.r, lora_alpha=settings.lora_alpha)


def read_config(folder: Path, *, r: int, lora_alpha: int) -> dict[str, Any]:
    """Return the config of a plain LoRA adapter of this shape.

    Raises ConfigurationError: see `check_start`.
    """
    config = read_object(folder / CONFIG_FILE)
    _compare_shape(folder, config, {"r": r, "lora_alpha": lora_alpha})
    return config


def read_object(file: Path) -> dict[str, Any]:
    """Return the object in a file of the start adapter. Raises ConfigurationError."""
    try:
        content = read_json(read_bytes(file))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise refused(f"{file} is not a JSON object")
    return content


def read_bytes(file: Path) -> bytes:
    """Return a file of the start adapter. Raises ConfigurationError."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise refused(f"{file} is missing; needed: the folder of a PEFT adapter, in safetensors") from None
    except OSError as error:
        raise refused(f"{file} can't be read: {error.strerror}") from None


def shown(value: object) -> str:
    """Return a value of a config as its file has it."""
    return json.dumps(value, default=str)


def refused(problem: str) -> ConfigurationError:
    """Return the error that says what is wrong with the start adapter."""
    return ConfigurationError(f"adapter.start_path: {problem}")


def _compare_shape(folder: Path, config: Mapping[str, Any], shape: Mapping[str, int]) -> None:
    for name, needed in shape.items():
        if config.get(name) != needed:
            raise refused(
                f"{folder} has {name} = {shown(config.get(name))}, and adapter.{name} is {needed}; both must be equal"
            )
    if (beginning := config.get("init_lora_weights")) not in _PLAIN_BEGINNINGS:
        raise refused(
            f"{folder} was made with init_lora_weights = {shown(beginning)}, which belongs to a changed base model"
        )
    for name, value in sorted(config.items()):
        word = _NEEDED.get(name)
        if name not in _OF_NO_ACCOUNT and (value if word is None else value != word):
            wanted = "it must not be set" if word is None else f"it must be {shown(word)}"
            raise refused(f"{folder} has {name} = {shown(value)}; {wanted}, since users' adapters are plain LoRA")
