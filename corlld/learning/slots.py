"""Places for the tensors of the users who are trained: on a device its own copies of them, on a CPU the states."""

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch

from corlld.adapters.layout import AdapterTensors, UserVectors
from corlld.errors import ConfigurationError


class SlotTensors(NamedTuple):
    """One user's tensors, each (P,)."""

    weights: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor


TENSORS = len(SlotTensors._fields)


class StepTensors(NamedTuple):
    """K users' tensors, to take a step on."""

    weights: UserVectors
    exp_avg: UserVectors
    exp_avg_sq: UserVectors

    def of(self, user: int) -> SlotTensors:
        """Return the tensors of the user with this number in the step."""
        return SlotTensors(self.weights[user], self.exp_avg[user], self.exp_avg_sq[user])


class Gathered(NamedTuple):
    """The tensors of K users' passes. weights: not to be written to. gradient: (K, P), zeros at first."""

    weights: UserVectors
    gradient: torch.Tensor


@dataclass(eq=False)
class Slot:
    """One user's place. Written to by `Slots` alone."""

    tensors: SlotTensors
    optimizer_step: int = 0
    # Weak: a state that left host memory must not be kept there by its copy on the device.
    _copy_of: weakref.ref[AdapterTensors] | None = field(default=None, repr=False)

    def holds(self, adapter: AdapterTensors) -> bool:
        return self._copy_of is not None and self._copy_of() is adapter


class Slots(Protocol):
    """The places of one device.

    slots: how many users fit at once. Placing one more may evict the least recently used.
    dtype: of the adapters.
    """

    slots: int
    dtype: torch.dtype

    def place(self, uid: str, adapter: AdapterTensors) -> Slot:
        """Return the user's slot, which holds the numbers of `adapter`."""

    def gather(self, slots: Sequence[Slot]) -> Gathered:
        """Return the weights of these users and zeros for their gradient.

        What is not a state's own lies in memory that the next call uses again: fresh pages would cost more than copies.
        """

    def copies(self, slots: Sequence[Slot]) -> StepTensors:
        """Return copies to take a step on. `gather` must have been called for the same slots before."""

    def release(self) -> None:
        """Give back the memory of `gather` and `copies`. It is as large as their largest call was."""

    def commit(self, slot: Slot, tensors: SlotTensors, optimizer_step: int) -> None:
        """Keep the user's part of what `copies` returned as the user's new tensors."""

    def read(self, slot: Slot, kept: torch.Tensor) -> AdapterTensors:
        """Return the slot's content as a state in host memory, which is never written to afterwards.

        kept: the user's pairs of that state; see `AdapterTensors`.
        """


def make_slots(size: int, slots: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Slots:
    """Return places of `slots` users with adapters of `size` numbers. Raises ConfigurationError, see `SlotArena`."""
    if device.type == "cpu":
        return HostSlots(size, slots, dtype)
    return SlotArena(size, slots, device, dtype)


class _Work:
    """Memory of `count` tensors, each (K, P), that is used again and again."""

    def __init__(self, like: torch.Tensor, count: int) -> None:
        self._empty = like[:0]
        self.tensors = (self._empty,) * count

    def of(self, users: int) -> tuple[torch.Tensor, ...]:
        """Return the memory for K = `users`, with whatever was in it."""
        if users > self.tensors[0].shape[0]:
            self.release()
            self.tensors = tuple(self._empty.new_empty(users, self._empty.shape[1]) for _ in self.tensors)
        return tuple(tensor[:users] for tensor in self.tensors)

    def release(self) -> None:
        self.tensors = (self._empty,) * len(self.tensors)


def _copy_(into: torch.Tensor, vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    for place, vector in zip(into, vectors, strict=True):
        place.copy_(vector)
    return into


class SlotArena:
    """`slots` places of 3 P numbers on a device. The least recently used one is given away first. Implements `Slots`.

    Args:
        size: P, the numbers of an adapter.
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
        self._free = [Slot(SlotTensors(*tensors)) for tensors in zip(*places, strict=True)]
        self._users: OrderedDict[str, Slot] = OrderedDict()

    def place(self, uid: str, adapter: AdapterTensors) -> Slot:
        """See the protocol. The adapter is copied to the slot unless the slot holds it already."""
        slot = self._users.get(uid)
        if slot is None:
            slot = self._free.pop() if self._free else self._users.popitem(last=False)[1]
            self._users[uid] = slot
        self._users.move_to_end(uid)
        if not slot.holds(adapter):
            slot._copy_of = None  # until all three are there
            with torch.no_grad():
                for place, tensor in zip(slot.tensors, _tensors_of(adapter), strict=True):
                    # Pinned host memory is copied while the device goes on.
                    place.copy_(tensor, non_blocking=True)
            slot.optimizer_step = adapter.optimizer_step
            slot._copy_of = weakref.ref(adapter)
        return slot

    @torch.no_grad()
    def gather(self, slots: Sequence[Slot]) -> Gathered:
        """See the protocol."""
        weights, _, _, gradient = self._work.of(len(slots))
        return Gathered(_copy_(weights, [slot.tensors.weights for slot in slots]), gradient.zero_())

    @torch.no_grad()
    def copies(self, slots: Sequence[Slot]) -> StepTensors:
        """See the protocol. The weights are those that `gather` copied."""
        weights, exp_avg, exp_avg_sq, _ = self._work.of(len(slots))
        return StepTensors(
            weights,
            _copy_(exp_avg, [slot.tensors.exp_avg for slot in slots]),
            _copy_(exp_avg_sq, [slot.tensors.exp_avg_sq for slot in slots]),
        )

    def release(self) -> None:
        """See the protocol."""
        self._work.release()

    @torch.no_grad()
    def commit(self, slot: Slot, tensors: SlotTensors, optimizer_step: int) -> None:
        """See the protocol. No host copy has them until `read`."""
        slot._copy_of = None
        for place, tensor in zip(slot.tensors, tensors, strict=True):
            place.copy_(tensor)
        slot.optimizer_step = optimizer_step

    @torch.no_grad()
    def read(self, slot: Slot, kept: torch.Tensor) -> AdapterTensors:
        """See the protocol. The state's memory is pinned if the device is a GPU."""
        if slot.tensors.weights.device.type == "cuda":
            pinned = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in slot.tensors]
            weights, exp_avg, exp_avg_sq = (there.copy_(here) for there, here in zip(pinned, slot.tensors, strict=True))
        else:
            weights, exp_avg, exp_avg_sq = (tensor.to("cpu", copy=True) for tensor in slot.tensors)
        adapter = AdapterTensors(weights, exp_avg, exp_avg_sq, slot.optimizer_step, kept=kept)
        slot._copy_of = weakref.ref(adapter)
        return adapter


class HostSlots:
    """Slots for a model in host memory: each is what a state holds, and lasts no longer than a call.

    Implements `Slots`.

    Args:
        size: P, the numbers of an adapter.
        slots: how many users are trained at once.
        dtype: as the arena's.
    """

    def __init__(self, size: int, slots: int, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.slots = slots
        self._work = _Work(torch.empty(0, size, dtype=dtype), 1)

    def place(self, uid: str, adapter: AdapterTensors) -> Slot:
        """See the protocol. Nothing is copied."""
        return Slot(_tensors_of(adapter), adapter.optimizer_step)

    @torch.no_grad()
    def gather(self, slots: Sequence[Slot]) -> Gathered:
        """See the protocol. The weights are the states' own."""
        (gradient,) = self._work.of(len(slots))
        return Gathered([slot.tensors.weights for slot in slots], gradient.zero_())

    @torch.no_grad()
    def copies(self, slots: Sequence[Slot]) -> StepTensors:
        """See the protocol. They have memory of their own, which `commit` makes the state's."""
        return StepTensors(
            *([slot.tensors[index].to(self.dtype, copy=True) for slot in slots] for index in range(TENSORS))
        )

    def release(self) -> None:
        """See the protocol."""
        self._work.release()

    def commit(self, slot: Slot, tensors: SlotTensors, optimizer_step: int) -> None:
        """See the protocol. What the slot held before belongs to some state, and stays as it is."""
        slot.tensors = tensors
        slot.optimizer_step = optimizer_step

    def read(self, slot: Slot, kept: torch.Tensor) -> AdapterTensors:
        """See the protocol. Nothing is copied."""
        return AdapterTensors(*slot.tensors, slot.optimizer_step, kept=kept)


def slot_nbytes(size: int, dtype: torch.dtype = torch.float32) -> int:
    """Return the bytes of one user's tensors, for adapters of `size` numbers."""
    return TENSORS * size * dtype.itemsize


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a device had too little memory. The CPU's allocator and cuBLAS have no error type for that."""
    untyped = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(name in str(error) for name in untyped)


def _tensors_of(adapter: AdapterTensors) -> SlotTensors:
    return SlotTensors(adapter.weights, adapter.exp_avg, adapter.exp_avg_sq)
