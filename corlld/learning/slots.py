"""Places on the device for the tensors of the users who were trained most recently."""

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from corlld.errors import ConfigurationError
from corlld.learning.adapter import AdapterTensors

TENSORS = 3  # of a user: weights and both moments


@dataclass(eq=False)
class Slot:
    """One user's place in the arena. Written to by `SlotArena.commit` alone."""

    number: int
    optimizer_step: int = 0
    # Weak: a state that left host memory must not be kept there by its copy on the device.
    _copy_of: weakref.ref[AdapterTensors] | None = field(default=None, repr=False)

    def holds(self, adapter: AdapterTensors) -> bool:
        return self._copy_of is not None and self._copy_of() is adapter


class SlotArena:
    """`slots` places of 3 P numbers, the least recently used one given away first.

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
            self._places = tuple(torch.zeros(slots, size, device=device, dtype=dtype) for _ in range(TENSORS))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            megabytes = slot_nbytes(size, dtype) / 1e6
            raise ConfigurationError(
                f"adapter.device_slots: {device} has no room for {slots} slots of {megabytes:.0f} MB"
            ) from error
        self._work: tuple[torch.Tensor, ...]
        self.release()
        self._free = [Slot(number) for number in range(slots)]
        self._users: OrderedDict[str, Slot] = OrderedDict()

    def place(self, uid: str, adapter: AdapterTensors) -> Slot:
        """The user's slot, with the numbers of `adapter`: copied there unless it is what the slot holds already.

        As many users as there are slots may be placed one after the other before the first one's is given away.
        """
        slot = self._users.get(uid)
        if slot is None:
            slot = self._free.pop() if self._free else self._users.popitem(last=False)[1]
            self._users[uid] = slot
        self._users.move_to_end(uid)
        if not slot.holds(adapter):
            slot._copy_of = None  # until all three are there
            with torch.no_grad():
                for place, tensor in zip(self._places, _parts(adapter), strict=True):
                    # Pinned host memory is copied while the device goes on.
                    place[slot.number].copy_(tensor, non_blocking=True)
            slot.optimizer_step = adapter.optimizer_step
            slot._copy_of = weakref.ref(adapter)
        return slot

    @torch.no_grad()
    def gather(self, slots: Sequence[Slot]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Copies of these users' weights, exp_avg and exp_avg_sq, each (K, P), and zeros for their gradient, alike.

        In memory that the next call uses again: fresh pages would cost more than the copies.
        """
        if len(slots) > self._work[0].shape[0]:
            self.release()
            self._work = tuple(
                place.new_empty(len(slots), place.shape[1]) for place in (*self._places, self._places[0])
            )
        *tensors, gradient = (work[: len(slots)] for work in self._work)
        for tensor, place in zip(tensors, self._places, strict=True):
            for row, slot in zip(tensor, slots, strict=True):
                row.copy_(place[slot.number])
        return tuple(tensors), gradient.zero_()

    def release(self) -> None:
        """Give back the memory of `gather`, which is as large as its largest call was."""
        self._work = tuple(place[:0] for place in (*self._places, self._places[0]))

    @torch.no_grad()
    def commit(self, slot: Slot, tensors: Sequence[torch.Tensor], optimizer_step: int) -> None:
        """The user's new weights, exp_avg and exp_avg_sq, each (P,): no host copy has them until `read`."""
        slot._copy_of = None
        for place, tensor in zip(self._places, tensors, strict=True):
            place[slot.number].copy_(tensor)
        slot.optimizer_step = optimizer_step

    @torch.no_grad()
    def read(self, slot: Slot) -> AdapterTensors:
        """A copy in host memory (pinned where the device is a GPU), never written to afterwards."""
        tensors = [place[slot.number] for place in self._places]
        if tensors[0].device.type == "cuda":
            pinned = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in tensors]
            weights, exp_avg, exp_avg_sq = (there.copy_(here) for there, here in zip(pinned, tensors, strict=True))
        else:
            weights, exp_avg, exp_avg_sq = (tensor.to("cpu", copy=True) for tensor in tensors)
        adapter = AdapterTensors(weights, exp_avg, exp_avg_sq, slot.optimizer_step)
        slot._copy_of = weakref.ref(adapter)
        return adapter


def slot_nbytes(size: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of a slot for adapters of `size` numbers."""
    return TENSORS * size * dtype.itemsize


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had too little memory. The CPU's allocator and cuBLAS have no type of their own for that."""
    untyped = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(name in str(error) for name in untyped)


def _parts(adapter: AdapterTensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return adapter.weights, adapter.exp_avg, adapter.exp_avg_sq
