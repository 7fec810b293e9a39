"""No tensor is left on the CPU: the whole pass runs on fake tensors of another device, which never mix with it."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from corlld.learning.adapter import AdapterTensors
from corlld.learning.collate import pack
from corlld.learning.pairs import PreferencePair
from corlld.learning.resident import make_resident
from corlld.learning.slots import SlotArena
from corlld.learning.steps import StepRunner
from corlld.settings import AdapterSettings, GuardSettings, LearningSettings
from tests.tiny_models import FAMILIES, make_tiny_model

META = torch.device("meta")
PAIRS = [PreferencePair((5, 6, 7), (8, 9), (10, 11, 12)), PreferencePair((5, 6), (8,), ())]


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_backward_and_step_stay_on_the_models_device_in_bfloat16(
    tmp_path_factory: pytest.TempPathFactory, family: str
) -> None:
    folder = make_tiny_model(tmp_path_factory.mktemp("model"), family)
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rule = LearningSettings(reference="previous", anchor=0.5, acceptance_weight=0.1)
    with FakeTensorMode():
        with META:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        resident = make_resident(model, tokenizer, AdapterSettings(), name="m", revision="1")
        assert resident.device == META
        arena = SlotArena(resident.lora, 1, resident.device)
        runner = StepRunner(resident, arena, rule, GuardSettings())
        zeros = torch.zeros(resident.layout.size)  # in host memory
        slot = arena.place("u", AdapterTensors(zeros, zeros, zeros, optimizer_step=0))
        (row,) = pack(PAIRS, 100, resident.device)
        scored = runner.score_row(row, slot.leaves, untrained=False, at_beginning=False)
        scored.loss.backward()  # type: ignore[no-untyped-call]
        runner.apply_gradient(slot, len(PAIRS))
        found = (scored.loss, scored.tokens, scored.margins, *slot.tensors, arena.gradient)
        assert {tensor.device for tensor in found} == {META}
        assert scored.tokens.dtype == arena.gradient.dtype == torch.float32
