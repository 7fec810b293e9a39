"""Places on the device for the tensors of the users who were trained most recently."""

import weakref
from collections import OrderedDict
from dataclasses import dataclass, field

import torch

from corlld.errors import ConfigurationError
from corlld.learning.adapter import AdapterTensors
from corlld.learning.stacked_lora import StackedLora, Weights


@dataclass(eq=False)
class Slot:
    """One user's tensors on the device, each (P,): views into the arena, written to by steps."""

    weights: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    leaves: Weights  # views into `weights` that autograd knows
    optimizer_step: int = 0
    # Weak: a state that left host memory must not be kept there by its copy on the device.
    _copy_of: weakref.ref[AdapterTensors] | None = field(default=None, repr=False)

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.weights, self.exp_avg, self.exp_avg_sq

    def holds(self, adapter: AdapterTensors) -> bool:
        return self._copy_of is not None and self._copy_of() is adapter


class SlotArena:
    """`slots` places of 3 P numbers, the least recently used one given away first.

    Args:
        lora: the injected layers that the slots' tensors will be bound to.
        slots: at least 1.
        device: where the places are.
        dtype: of the adapters; float32, but for tests of exactness.

    Raises:
        ConfigurationError: the device has no room for so many slots.
    """

    def __init__(self, lora: StackedLora, slots: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        size = lora.layout.size

        def arena(places: int) -> torch.Tensor:
            try:
                return torch.zeros(places, size, device=device, dtype=dtype)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                megabytes = 3 * size * dtype.itemsize / 1e6
                raise ConfigurationError(
                    f"adapter.device_slots: {device} has no room for {slots} slots of {megabytes:.0f} MB"
                ) from error

        self.dtype = dtype
        self.gradient = arena(1)[0]  # one is enough: one user at a time
        self.beginning = arena(1)[0]  # weights as the micro-batch began: the reference `previous`
        self._undo = arena(3)
        self._undo_step = 0
        weights, exp_avg, exp_avg_sq = arena(slots), arena(slots), arena(slots)
        self._free = [
            Slot(weights[i], exp_avg[i], exp_avg_sq[i], lora.leaves(weights[i], self.gradient)) for i in range(slots)
        ]
        self._users: OrderedDict[str, Slot] = OrderedDict()

    def place(self, uid: str, adapter: AdapterTensors) -> Slot:
        """The user's slot, with the numbers of `adapter`: copied there unless it is what the slot holds already."""
        slot = self._users.get(uid)
        if slot is None:
            slot = self._free.pop() if self._free else self._users.popitem(last=False)[1]
            slot._copy_of = None
            self._users[uid] = slot
        self._users.move_to_end(uid)
        if not slot.holds(adapter):
            slot._copy_of = None  # until all three are there
            with torch.no_grad():
                for there, here in zip(slot.tensors, _parts(adapter), strict=True):
                    there.copy_(here)
            slot.optimizer_step = adapter.optimizer_step
            slot._copy_of = weakref.ref(adapter)
        return slot

    def touch(self, slot: Slot) -> None:
        """To be said before a slot is trained: from here on it holds what no host copy does, until `read`."""
        slot._copy_of = None

    def read(self, slot: Slot) -> AdapterTensors:
        """A copy in host memory, never written to afterwards."""
        with torch.no_grad():
            weights, exp_avg, exp_avg_sq = (t.detach().to("cpu", copy=True) for t in slot.tensors)
        adapter = AdapterTensors(weights, exp_avg, exp_avg_sq, slot.optimizer_step)
        slot._copy_of = weakref.ref(adapter)
        return adapter

    def is_unchanged(self, slot: Slot, adapter: AdapterTensors) -> None:
        """To be said where no step of a touched slot stood: it holds `adapter` again, bit for bit."""
        slot._copy_of = weakref.ref(adapter)

    def save_undo(self, slot: Slot) -> None:
        """Remember the slot as it is now. One memory for all slots: a step is undone before the next one begins."""
        with torch.no_grad():
            for kept, tensor in zip(self._undo, slot.tensors, strict=True):
                kept.copy_(tensor)
        self._undo_step = slot.optimizer_step

    def undo(self, slot: Slot) -> None:
        """Give the slot back, bit for bit, what it had at `save_undo`."""
        with torch.no_grad():
            for kept, tensor in zip(self._undo, slot.tensors, strict=True):
                tensor.copy_(kept)
        slot.optimizer_step = self._undo_step


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had too little memory. The CPU's allocator has no type of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _parts(adapter: AdapterTensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return adapter.weights, adapter.exp_avg, adapter.exp_avg_sq
