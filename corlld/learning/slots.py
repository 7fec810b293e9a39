"""Places for the tensors of the users who are trained: on a device of its own copies of them, on a CPU the states."""

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from corlld.adapters.layout import AdapterTensors
from corlld.errors import ConfigurationError

TENSORS = 3  # of a user: weights and both moments
Rows = torch.Tensor | Sequence[torch.Tensor]  # one a user, each (P,)


@dataclass(eq=False)
class Slot:
    """One user's place. Written to by `Slots` alone. tensors: weights, exp_avg and exp_avg_sq, each (P,)."""

    tensors: tuple[torch.Tensor, ...]
    optimizer_step: int = 0
    # Weak: a state that left host memory must not be kept there by its copy on the device.
    _copy_of: weakref.ref[AdapterTensors] | None = field(default=None, repr=False)

    def holds(self, adapter: AdapterTensors) -> bool:
        return self._copy_of is not None and self._copy_of() is adapter


class Slots(Protocol):
    """Places of one device. slots: users who may be placed one after the other; one more may take the first one's."""

    slots: int
    dtype: torch.dtype

    def place(self, uid: str, adapter: AdapterTensors) -> Slot:
        """The user's slot, with the numbers of `adapter`."""

    def gather(self, slots: Sequence[Slot]) -> tuple[Rows, torch.Tensor]:
        """To compute with: these users' weights, not to be written to, and zeros for their gradient, (K, P).

        What is not a state's own is in memory that the next call uses again: fresh pages would cost more than copies.
        """

    def copies(self, slots: Sequence[Slot]) -> tuple[Rows, Rows, Rows]:
        """To step on, after `gather` of the same slots: weights, exp_avg and exp_avg_sq."""

    def release(self) -> None:
        """Give back the memory of `gather` and `copies`, which is as large as their largest call was."""

    def commit(self, slot: Slot, tensors: Sequence[torch.Tensor], optimizer_step: int) -> None:
        """The user's new weights, exp_avg and exp_avg_sq, each (P,), as `copies` gave them."""

    def read(self, slot: Slot) -> AdapterTensors:
        """A state in host memory, never written to afterwards."""


def make_slots(size: int, slots: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Slots:
    """Places of `slots` users with adapters of `size` numbers. Raises ConfigurationError, see `SlotArena`."""
    if device.type == "cpu":
        return HostSlots(size, slots, dtype)
    return SlotArena(size, slots, device, dtype)


class _Work:
    """Memory of (K, P) tensors that is used again and again."""

    def __init__(self, like: torch.Tensor, count: int) -> None:
        self._empty = like[:0]
        self.tensors = (self._empty,) * count

    def rows(self, users: int) -> tuple[torch.Tensor, ...]:
        if users > self.tensors[0].shape[0]:
            self.release()
            self.tensors = tuple(self._empty.new_empty(users, self._empty.shape[1]) for _ in self.tensors)
        return tuple(tensor[:users] for tensor in self.tensors)

    def release(self) -> None:
        self.tensors = (self._empty,) * len(self.tensors)


def _copy_(into: torch.Tensor, slots: Sequence[Slot], index: int) -> torch.Tensor:
    for row, slot in zip(into, slots, strict=True):
        row.copy_(slot.tensors[index])
    return into


class SlotArena:
    """`slots` places of 3 P numbers on a device, the least recently used one given away first. Implements `Slots`.

    Args:
        size: P, numbers of an adapter.
        slots: at least 1.
        device: where the places are.
        dtype: of the adapters; float32, but for tests of exactness.

    Raises:
        ConfigurationError: the device has no room for so many slots.
    """

    def __init__(self, size: int, slots: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.slots = slots
        try:
            places = [torch.zeros(slots, size, device=device, dtype=dtype) for _ in range(TENSORS)]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            megabytes = slot_nbytes(size, dtype) / 1e6
            raise ConfigurationError(
                f"adapter.device_slots: {device} has no room for {slots} slots of {megabytes:.0f} MB"
            ) from error
        self._work = _Work(places[0], TENSORS + 1)
        self._free = [Slot(tensors) for tensors in zip(*places, strict=True)]
        self._users: OrderedDict[str, Slot] = OrderedDict()

    def place(self, uid: str, adapter: AdapterTensors) -> Slot:
        """See the protocol. Copied there, unless it is what the slot holds already."""
        slot = self._users.get(uid)
        if slot is None:
            slot = self._free.pop() if self._free else self._users.popitem(last=False)[1]
            self._users[uid] = slot
        self._users.move_to_end(uid)
        if not slot.holds(adapter):
            slot._copy_of = None  # until all three are there
            with torch.no_grad():
                for place, tensor in zip(slot.tensors, _parts(adapter), strict=True):
                    # Pinned host memory is copied while the device goes on.
                    place.copy_(tensor, non_blocking=True)
            slot.optimizer_step = adapter.optimizer_step
            slot._copy_of = weakref.ref(adapter)
        return slot

    @torch.no_grad()
    def gather(self, slots: Sequence[Slot]) -> tuple[Rows, torch.Tensor]:
        """See the protocol."""
        weights, *_, gradient = self._work.rows(len(slots))
        return _copy_(weights, slots, 0), gradient.zero_()

    @torch.no_grad()
    def copies(self, slots: Sequence[Slot]) -> tuple[Rows, Rows, Rows]:
        """See the protocol."""
        weights, exp_avg, exp_avg_sq, _ = self._work.rows(len(slots))
        return weights, _copy_(exp_avg, slots, 1), _copy_(exp_avg_sq, slots, 2)

    def release(self) -> None:
        """See the protocol."""
        self._work.release()

    @torch.no_grad()
    def commit(self, slot: Slot, tensors: Sequence[torch.Tensor], optimizer_step: int) -> None:
        """See the protocol. No host copy has them until `read`."""
        slot._copy_of = None
        for place, tensor in zip(slot.tensors, tensors, strict=True):
            place.copy_(tensor)
        slot.optimizer_step = optimizer_step

    @torch.no_grad()
    def read(self, slot: Slot) -> AdapterTensors:
        """See the protocol. Pinned where the device is a GPU."""
        if slot.tensors[0].device.type == "cuda":
            pinned = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in slot.tensors]
            weights, exp_avg, exp_avg_sq = (there.copy_(here) for there, here in zip(pinned, slot.tensors, strict=True))
        else:
            weights, exp_avg, exp_avg_sq = (tensor.to("cpu", copy=True) for tensor in slot.tensors)
        adapter = AdapterTensors(weights, exp_avg, exp_avg_sq, slot.optimizer_step)
        slot._copy_of = weakref.ref(adapter)
        return adapter


class HostSlots:
    """Where the model is in host memory, as the states are: a slot is what a state holds, and lasts no longer than a
    call. Implements `Slots`.

    Args:
        size: P, numbers of an adapter.
        slots: users who are trained in one go.
        dtype: as the arena's.
    """

    def __init__(self, size: int, slots: int, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.slots = slots
        self._work = _Work(torch.empty(0, size, dtype=dtype), 1)

    def place(self, uid: str, adapter: AdapterTensors) -> Slot:
        """See the protocol. Nothing is copied."""
        return Slot(_parts(adapter), adapter.optimizer_step)

    @torch.no_grad()
    def gather(self, slots: Sequence[Slot]) -> tuple[Rows, torch.Tensor]:
        """See the protocol. The weights are the states' own."""
        (gradient,) = self._work.rows(len(slots))
        return [slot.tensors[0] for slot in slots], gradient.zero_()

    @torch.no_grad()
    def copies(self, slots: Sequence[Slot]) -> tuple[Rows, Rows, Rows]:
        """See the protocol. In memory of their own: it becomes the state's by `commit`."""
        weights, exp_avg, exp_avg_sq = (
            [s.tensors[index].to(self.dtype, copy=True) for s in slots] for index in range(3)
        )
        return weights, exp_avg, exp_avg_sq

    def release(self) -> None:
        """See the protocol."""
        self._work.release()

    def commit(self, slot: Slot, tensors: Sequence[torch.Tensor], optimizer_step: int) -> None:
        """See the protocol. What the slot held before is some state's, and stays as it is."""
        slot.tensors = tuple(tensors)
        slot.optimizer_step = optimizer_step

    def read(self, slot: Slot) -> AdapterTensors:
        """See the protocol. Nothing is copied."""
        weights, exp_avg, exp_avg_sq = slot.tensors
        return AdapterTensors(weights, exp_avg, exp_avg_sq, slot.optimizer_step)


def slot_nbytes(size: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of a user's tensors, for adapters of `size` numbers."""
    return TENSORS * size * dtype.itemsize


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had too little memory. The CPU's allocator and cuBLAS have no type of their own for that."""
    untyped = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(name in str(error) for name in untyped)


def _parts(adapter: AdapterTensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return adapter.weights, adapter.exp_avg, adapter.exp_avg_sq
