"""The engine of the demo serves a model as other engines do."""

from dataclasses import replace
from pathlib import Path

import pytest

from corlld.errors import ConfigurationError
from corlld.learning.model.loading import load_resident_model
from corlld.publishing.peft_format import adapter_files
from corlld.settings.sections import AdapterSettings, ModelSettings, PublishingSettings
from corlld.simulation.drafting import PeftEngine
from tests.support.states import adapter, released_state
from tests.support.tiny_models import make_tiny_model
from tests.support.tiny_wrappers import make_tiny_wrapper


def test_it_drafts_with_an_adapter_of_a_model_whose_wrapper_is_served(tmp_path: Path) -> None:
    folder, _ = make_tiny_wrapper(tmp_path / "model", "qwen3_5")
    model = ModelSettings(name=str(folder), device="cpu")
    resident = load_resident_model(
        model, AdapterSettings(r=4, target_modules=("q_proj", "down_proj")), PublishingSettings()
    )
    state = released_state(layout=resident.layout, module_names=resident.info.module_names)
    state = replace(state, adapter=adapter(resident.layout))
    (tmp_path / "adapter").mkdir()
    for name, data in adapter_files(state, resident.layout, resident.info).items():
        (tmp_path / "adapter" / name).write_bytes(data)

    engine = PeftEngine(folder, model, 8)
    engine.load("ann", tmp_path / "adapter")
    base, own = engine.draft([(None, "Dear all, "), ("ann", "Dear all, ")])
    assert own.text != base.text


def test_a_model_that_it_cannot_load_is_one_sentence(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigurationError, match="can't be served: SafetensorError: "):
        PeftEngine(folder, ModelSettings(device="cpu"), 8)
