"""Tiny models on the CPU, learners on one, and a device that runs out of memory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from corlld.learning import learner as learner_module
from corlld.learning.learner import CorllLearner
from corlld.learning.model.resident import ResidentModel
from corlld.learning.slots import SlotArena
from corlld.settings.sections import GuardSettings, LearningSettings
from tests.support.tiny_models import FAMILIES, make_tiny_model, tiny_resident


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model, of each family in turn."""
    return make_tiny_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    return tiny_resident(make_tiny_model(tmp_path_factory.mktemp("model"), "gemma3"))


@pytest.fixture(params=["host-slots", "arena"])
def make(
    resident: ResidentModel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CorllLearner]:
    if request.param == "arena":  # as on a device of its own
        monkeypatch.setattr(learner_module, "make_slots", SlotArena)

    def learner(guard: GuardSettings | None = None, slots: int = 4, **rule: Any) -> CorllLearner:
        settings = LearningSettings(
            **{"lr": 1e-2, "rehearsal_weight": 0.0, "margin": "tail", "imitation_weight": 0.0} | rule
        )
        return CorllLearner(resident, settings, guard or GuardSettings(max_drift_nats=1e9), slots)

    return learner


@pytest.fixture
def small_device(resident: ResidentModel) -> Iterator[list[int]]:
    """The model runs out of memory on rows of more tokens than the list's last number."""
    limit = [10**9]

    def refuse(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > limit[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = resident.model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    yield limit
    handle.remove()
