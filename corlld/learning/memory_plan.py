"""A plan of memory: what the base model, a user and a step take, and how many users fit."""

from dataclasses import dataclass
from pathlib import Path

import torch

from corlld.errors import ConfigurationError
from corlld.learning.model.packing import Item
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.learning.slots import TENSORS, is_out_of_memory, slot_nbytes

_SAMPLE_TOKENS = 64
# What a step holds per user beside its activations: copied tensors, gradient, and factors in the model's dtype. On a
# CPU the copies are made when most activations are gone, so there this is more than a step ever holds.
_COPIES_PER_USER = TENSORS + 2


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Sizes in bytes, for steps of `row_tokens` tokens and `step_users` users.

    base: the model's parameters and buffers.
    slot: one user on the device; 0 on a CPU, where the state itself is used.
    step: what a step takes besides.
    start: the start adapter on the device; 0 without one, and on a CPU, where the one in host memory is used.
    state: one user in host memory.
    device_free: what is free now that the model is loaded.
    host_limit: the setting.
    """

    row_tokens: int
    step_users: int
    base: int
    slot: int
    step: int
    start: int
    state: int
    device_free: int
    host_limit: int

    @property
    def step_fits(self) -> bool:
        """The device has room for a step beside the start adapter."""
        return self.step + self.start <= self.device_free

    @property
    def device_users(self) -> int | None:
        """The number of users whose tensors fit on the device beside a step; None if they take no room there."""
        return max(0, self.device_free - self.step - self.start) // self.slot if self.slot else None

    @property
    def host_users(self) -> int:
        """The number of users whose states fit in host memory."""
        return self.host_limit // self.state


def plan_memory(
    resident: ResidentModel, row_tokens: int, step_users: int, host_limit: int, *, has_start: bool
) -> MemoryPlan:
    """Return the plan for a loaded model. A step's size is measured by a short forward pass.

    Args:
        resident: the loaded model.
        row_tokens: how many tokens a step has.
        step_users: how many users a step has at most.
        host_limit: how many bytes the states in host memory may take.
        has_start: whether users begin from a start adapter. It is not on the device yet.

    Raises:
        ConfigurationError: the device has no room even for that pass.
    """
    tensors = {t.untyped_storage().data_ptr(): t for t in (*resident.model.parameters(), *resident.model.buffers())}
    state = slot_nbytes(resident.layout.size)
    on_host = resident.device.type == "cpu"
    copies = _COPIES_PER_USER * state // TENSORS
    try:
        by_token = kept_bytes_per_token(resident)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigurationError(f"model.device: {resident.device} has no room for a step beside the model") from error
    return MemoryPlan(
        row_tokens=row_tokens,
        step_users=step_users,
        base=sum(t.untyped_storage().nbytes() for t in tensors.values()),
        slot=0 if on_host else state,
        step=round(by_token * row_tokens) + step_users * copies,
        start=state // TENSORS if has_start and not on_host else 0,
        state=state,
        device_free=free_memory(resident.device),
        host_limit=host_limit,
    )


def kept_bytes_per_token(resident: ResidentModel) -> float:
    """Return the bytes per token that a forward pass keeps for the backward one."""
    tokens = min(_SAMPLE_TOKENS, resident.max_positions or _SAMPLE_TOKENS)
    pair = PreferencePair(tuple(range(tokens - 2)), (0,), (1,))
    row = resident.collator.row([Item(0, pair)], [0], users=1)
    weights = torch.zeros(1, resident.layout.size, device=resident.device)
    known = {p.untyped_storage().data_ptr() for p in resident.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    adapters = resident.lora.stack(weights, torch.zeros_like(weights))
    known |= {factor.untyped_storage().data_ptr() for pair_ in adapters.factors for factor in pair_}
    with resident.bound(row, adapters), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logps = resident.token_logps(row)
    del logps
    return sum(kept.values()) / row.tokens


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on the device now; on a CPU those that the system can make free.

    Raises:
        OSError: the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with Path("/proc/meminfo").open() as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")
