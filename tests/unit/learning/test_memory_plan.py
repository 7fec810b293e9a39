from dataclasses import replace

import pytest
import torch

from corlld.errors import ConfigurationError
from corlld.learning import memory_plan
from corlld.learning.memory_plan import MemoryPlan, free_memory, kept_bytes_per_token, plan_memory
from corlld.learning.model.resident import ResidentModel

PLAN = MemoryPlan(
    row_tokens=10, step_users=1, base=1000, slot=30, step=50, start=0, state=30, device_free=200, host_limit=100
)


def test_users_fit_beside_a_step_on_the_device_and_in_the_limit_of_host_memory() -> None:
    assert PLAN.device_users == 5
    assert PLAN.host_users == 3
    assert replace(PLAN, device_free=20).device_users == 0
    assert replace(PLAN, start=40).device_users == 3
    assert replace(PLAN, start=150).step_fits
    assert not replace(PLAN, start=151).step_fits
    assert replace(PLAN, slot=0).device_users is None  # on a CPU a state is used where it is


def test_a_plan_counts_tied_weights_once_and_three_numbers_of_four_bytes_for_each_of_an_adapter(
    resident: ResidentModel,
) -> None:
    plan = plan_memory(resident, row_tokens=100, step_users=2, host_limit=10**6, has_start=False)
    shared = {parameter.data_ptr(): parameter.nbytes for parameter in resident.model.parameters()}
    assert sum(shared.values()) <= plan.base <= 1.01 * sum(shared.values()) + 4096  # and a few buffers
    assert plan.state == 12 * resident.layout.size
    assert plan.slot == 0
    assert 0 < plan.device_free <= free_memory(resident.device) * 1.5
    more = plan_memory(resident, row_tokens=200, step_users=2, host_limit=10**6, has_start=False)
    assert more.step - plan.step == pytest.approx(100 * kept_bytes_per_token(resident), rel=0.01)
    # Gathered weights and moments, their gradient, and their factors.
    crowded = plan_memory(resident, row_tokens=100, step_users=5, host_limit=10**6, has_start=False)
    assert crowded.step - plan.step == 3 * 5 * 4 * resident.layout.size


def test_a_start_adapter_takes_its_weights_once_and_no_room_of_its_own_on_a_cpu(
    resident: ResidentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "free_memory", lambda _device: 10**9)
    monkeypatch.setattr(memory_plan, "kept_bytes_per_token", lambda _resident: 100.0)

    def start(device: str, *, has_start: bool) -> int:
        return plan_memory(replace(resident, device=torch.device(device)), 100, 2, 10**6, has_start=has_start).start

    assert start("cuda", has_start=True) == 4 * resident.layout.size
    assert start("cuda", has_start=False) == start("cpu", has_start=True) == 0


def test_what_a_pass_keeps_is_more_than_each_layers_input_and_output_and_less_than_all_it_made(
    resident: ResidentModel,
) -> None:
    made = 0

    def count(_module: torch.nn.Module, _args: object, output: object) -> None:
        nonlocal made
        if isinstance(output, torch.Tensor):
            made += output.nbytes

    handles = [module.register_forward_hook(count) for module in resident.model.modules()]
    try:
        per_token = kept_bytes_per_token(resident)
    finally:
        for handle in handles:
            handle.remove()
    layers = resident.model.config.num_hidden_layers
    assert per_token > layers * 4 * 2 * resident.model.config.hidden_size
    assert per_token < 4 * made / 64


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_device_that_is_full_with_the_model_is_one_sentence(resident: ResidentModel, error: RuntimeError) -> None:
    def fail(*_: object) -> None:
        raise error

    handle = resident.model.base_model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(ConfigurationError, match=r"model\.device: cpu has no room for a step beside the model"):
            plan_memory(resident, row_tokens=100, step_users=2, host_limit=10**6, has_start=False)
    finally:
        handle.remove()
