"""No tensor is left on the CPU: the whole pass runs on fake tensors of another device, which never mix with it."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from corlld.adapters.layout import AdapterLayout, AdapterTensors
from corlld.learning.model import resident as resident_model
from corlld.learning.model.adapted_modules import AdaptedModules
from corlld.learning.model.linear_modules import choose_modules
from corlld.learning.model.packing import Item
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.resident import make_resident
from corlld.learning.objective import Objective, PairSums, Sums
from corlld.learning.slots import SlotArena
from corlld.learning.start_adapter import References
from corlld.learning.steps import StepRunner
from corlld.learning.user_step import Candidate, UserStep
from corlld.settings.sections import AdapterSettings, GuardSettings, LearningSettings
from tests.support.tiny_models import FAMILIES, make_tiny_model

META = torch.device("meta")
PAIRS = [PreferencePair((5, 6, 7), (8, 9), (10, 11, 12)), PreferencePair((5, 6), (8,), ())]


def all_modules(model: Any, _ids: object, adapter: AdapterSettings) -> AdaptedModules:
    layout = AdapterLayout(adapter.r, adapter.lora_alpha, choose_modules(model, adapter.target_modules))
    return AdaptedModules(layout, left_out=(), parameters=0, expert_parameters=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_backward_and_step_stay_on_the_models_device_in_bfloat16(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    # PEFT can't be built of fake tensors.
    monkeypatch.setattr(resident_model, "adapt_modules", all_modules)
    folder = make_tiny_model(tmp_path_factory.mktemp("model"), family)
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rule = LearningSettings(reference="previous", margin="changed", anchor=0.5, acceptance_weight=0.1)
    with FakeTensorMode():
        with META:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        resident = make_resident(model, tokenizer, AdapterSettings(), name="m", revision="1")
        assert resident.device == META
        arena = SlotArena(resident.layout.size, 2, resident.device)
        none = References(None, META)
        runner = StepRunner(resident, arena, rule, Objective(rule), GuardSettings(), row_tokens=100, references=none)
        zeros = torch.zeros(resident.layout.size)  # in host memory
        slots = [arena.place(uid, AdapterTensors(zeros, zeros, zeros, optimizer_step=0)) for uid in ("ann", "bob")]
        users = [UserStep(slot, [Candidate(PAIRS[0])]) for slot in slots]
        known = PairSums(Sums(-1.0, -2.0), Sums(-1.0, -1.5))
        users[1] = UserStep(slots[1], [Candidate(pair, base=known, previous=known) for pair in PAIRS])
        weights, gradient = arena.gather(slots)
        adapters = resident.lora.stack(weights, gradient)
        items = [Item(user, candidate.pair) for user, step in enumerate(users) for candidate in step.candidates]
        (row,) = resident.collator.pack(items, 100, users=2)
        # Fake numbers can't be brought to the host: everything on the device's side of that.
        policy = resident.scored(row, adapters)
        tokens, losses = runner.passes.row_losses(row, adapters, [c for step in users for c in step.candidates], [1, 2])
        tensors, norms = runner.take_step(users, gradient)
        arena.commit(slots[0], tensors.of(0), 1)
        found = (
            policy,
            tokens,
            losses,
            norms,
            gradient,
            *weights,
            *(vector for vectors in tensors for vector in vectors),
        )
        assert {tensor.device for tensor in found} == {META}
        assert tokens.dtype == losses.dtype == gradient.dtype == torch.float32
