"""Finds the paths that modules have in the model that engines serve, if another class was loaded here.

transformers loads some multimodal checkpoints (Llama 4, Qwen3.5) as a class of their language model alone. Engines
serve the checkpoint's own class, the wrapper, in which the same layers have longer paths. They ignore names that they
do not know, without a word.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import torch

from corlld.adapters.layout import AdapterLayout
from corlld.durable import ModuleNames
from corlld.errors import ConfigurationError
from corlld.learning.model.linear_modules import choose_modules
from corlld.learning.model.resident import decoder_of

log = structlog.get_logger("corlld.start")


def served_names(
    model: Any, config: Any, architectures: Sequence[str] | None, module_prefix: str | None
) -> ModuleNames | None:
    """Return the names of modules for published adapters; None if they are those of the loaded model.

    Args:
        model: the loaded causal language model.
        config: the checkpoint's own config, which may be the wrapper's.
        architectures: of the checkpoint's config.json. vLLM serves the first of them.
        module_prefix: as the setting; it wins over what is found here.

    Raises:
        ConfigurationError: the checkpoint names a class whose modules are not known.
    """
    decoder = decoder_of(model)
    loaded = _path(model, decoder)
    if module_prefix is not None:
        return ModuleNames(loaded, module_prefix)
    kind = type(model).__name__
    served = next(iter(architectures or ()), kind if type(config) is type(model.config) else None)
    if served is not None and _folded(served) == _folded(kind):
        return None
    published = _decoder_path(served, config, type(decoder))
    if published is None and _model_class(served) is None and type(config) is type(model.config):
        # The checkpoint has the loaded class's own config, so no wrapper is around it.
        log.warning("served_class_unknown", served=served, loaded=kind, reason="names are the loaded class's")
        return None
    if published is None:
        raise ConfigurationError(
            f"publishing.module_prefix: not set, needed: this model is served as {served or 'a class not named'}, and "
            f"was loaded as {kind}, with modules such as {_example(model, decoder)}: set the path that stands for "
            f"{loaded} in the served model, such as `{loaded}` or `language_model.{loaded}`"
        )
    # An empty path: the class is the decoder alone, which engines serve with the loaded class's output layer.
    return ModuleNames(loaded, published) if published not in ("", loaded) else None


def served_class(folder: str | Path) -> Any:
    """Return transformers' class of the model as engines serve it, to load it from this folder.

    It is the first of `architectures` in config.json; if that does not generate texts, the one that is loaded here.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    named = getattr(transformers, next(iter(config.architectures or ()), ""), None)
    generates = isinstance(named, type) and issubclass(named, transformers.GenerationMixin)
    return named if generates else transformers.AutoModelForCausalLM


def refuse_modules_outside(layout: AdapterLayout, names: ModuleNames | None) -> None:
    """Raise ConfigurationError for a module outside of the decoder: its path in the served model is unknown."""
    for module in layout.modules:
        if names is not None and not module.name.startswith(f"{names.loaded}."):
            raise ConfigurationError(
                f"adapter.target_modules: {module.name} is outside of {names.loaded}, and the served model is of "
                "another class, in which it has an unknown path: leave it out"
            )


def _decoder_path(served: str | None, config: Any, decoder: type) -> str | None:
    """Return the path of the only module of type `decoder` in the class `served`; None if there is no such path."""
    built = _model_class(served)
    if built is None:
        return None
    try:
        with torch.device("meta"):
            wrapper = built(copy.deepcopy(config))
    except Exception:  # noqa: BLE001 - a class may raise anything for a config of another class
        return None
    paths = [path for path, module in wrapper.named_modules() if type(module) is decoder]
    return paths[0] if len(paths) == 1 else None


def _model_class(name: str | None) -> Any:
    """Return transformers' class of a model by its name; None if there is no such class."""
    import transformers

    found = getattr(transformers, name or "", None)
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def _folded(name: str) -> str:
    """Return a class name as it is compared: repositories write `PhiMoE` where transformers writes `Phimoe`."""
    return name.replace("_", "").lower()


def _example(model: Any, decoder: Any) -> str:
    """Return the path of a linear module of the decoder."""
    inside = {id(module) for module in decoder.modules()}
    names = (module.name for module in choose_modules(model, "all-linear"))
    return next(name for name in names if id(model.get_submodule(name)) in inside)


def _path(model: Any, part: Any) -> str:
    return next(str(path) for path, module in model.named_modules() if module is part)
