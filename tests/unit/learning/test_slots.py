"""Slots: what is copied to them, who is evicted, and what a step leaves as it was."""

import weakref

import pytest
import torch

from corlld.adapters.layout import AdapterTensors
from corlld.errors import ConfigurationError
from corlld.learning.slots import HostSlots, Slot, SlotArena, SlotTensors, make_slots

CPU = torch.device("cpu")
SIZE = 11
KEPT = torch.tensor([1, 1, 1, 5, 6, 7], dtype=torch.int32)  # a user's pair


@pytest.fixture
def arena() -> SlotArena:
    return SlotArena(SIZE, 2, CPU)


def adapter_of(value: float) -> AdapterTensors:
    weights, exp_avg, exp_avg_sq = (torch.full((SIZE,), value + i) for i in range(3))
    return AdapterTensors(weights, exp_avg, exp_avg_sq, optimizer_step=int(value))


def values(arena: SlotArena, slot: Slot) -> list[float]:
    arena.gather([slot])
    vectors = [vector for (vector,) in arena.copies([slot])]
    assert all(vector.shape == (SIZE,) and vector.eq(vector[0]).all() for vector in vectors)
    return [float(vector[0]) for vector in vectors]


def fill(arena: SlotArena, slot: Slot, value: float) -> None:
    """Write the value into the slot, as a step would."""
    arena.commit(slot, SlotTensors(*[torch.full((SIZE,), value)] * 3), slot.optimizer_step + 1)


def test_an_adapter_that_lies_in_its_slot_is_not_copied_again(arena: SlotArena) -> None:
    ann = adapter_of(1)
    slot = arena.place("ann", ann)
    assert values(arena, slot) == [1, 2, 3]
    assert slot.optimizer_step == 1
    slot.tensors[0].fill_(5)  # would be lost by a copy
    assert values(arena, arena.place("ann", ann))[0] == 5
    assert values(arena, arena.place("ann", adapter_of(1)))[0] == 1


def test_the_least_recently_used_slot_is_given_away(arena: SlotArena) -> None:
    ann, bob, cy = (adapter_of(value) for value in (10, 20, 30))
    of_ann, of_bob = arena.place("ann", ann), arena.place("bob", bob)
    arena.place("ann", ann)
    assert arena.place("cy", cy) is of_bob
    assert values(arena, of_bob) == [30, 31, 32]
    assert values(arena, of_ann) == [10, 11, 12]
    assert arena.place("bob", bob) is of_ann


def test_a_reused_slot_keeps_no_number_of_its_last_user(arena: SlotArena) -> None:
    slot = arena.place("ann", adapter_of(1))
    fill(arena, slot, float("nan"))
    arena.place("bob", adapter_of(2))
    assert arena.place("cy", adapter_of(5)) is slot
    assert values(arena, slot) == [5, 6, 7]
    assert slot.optimizer_step == 5


def test_what_was_read_out_is_never_written_to_and_is_known_to_lie_in_its_slot(arena: SlotArena) -> None:
    slot = arena.place("ann", adapter_of(1))
    fill(arena, slot, 7)
    read = arena.read(slot, KEPT)
    assert read.weights.eq(7).all()
    assert read.optimizer_step == 2
    assert read.kept is KEPT
    slot.tensors[0].fill_(8)
    assert read.weights.eq(7).all()
    assert values(arena, arena.place("ann", read))[0] == 8


def test_a_slot_with_a_step_that_was_never_read_is_copied_to_again(arena: SlotArena) -> None:
    ann = adapter_of(1)
    slot = arena.place("ann", ann)
    fill(arena, slot, 9)
    assert values(arena, arena.place("ann", ann)) == [1, 2, 3]
    assert slot.optimizer_step == 1


def test_gathered_tensors_are_copies_in_the_users_order(arena: SlotArena) -> None:
    slots = [arena.place("ann", adapter_of(1)), arena.place("bob", adapter_of(5))]
    gathered, gradient = arena.gather(slots[::-1])
    weights, _, exp_avg_sq = arena.copies(slots[::-1])
    assert isinstance(weights, torch.Tensor)
    assert weights is gathered or torch.equal(weights, torch.stack(list(gathered)))
    assert weights[:, 0].tolist() == [5, 1]
    assert [float(vector[0]) for vector in exp_avg_sq] == [7, 3]
    assert not gradient.any()
    weights.zero_()
    gradient.fill_(9)
    assert values(arena, slots[0])[0] == 1
    _, again = arena.gather(slots)
    assert not again.any()
    assert again.data_ptr() == gradient.data_ptr()  # no fresh pages


def test_an_adapter_whose_copy_broke_off_is_copied_again(arena: SlotArena) -> None:
    ann, broken = adapter_of(1), adapter_of(5)
    slot = arena.place("ann", ann)
    broken = AdapterTensors(broken.weights, broken.exp_avg, torch.zeros(SIZE + 1), 5)
    with pytest.raises(RuntimeError):
        arena.place("ann", broken)
    assert values(arena, arena.place("ann", ann)) == [1, 2, 3]
    assert slot.optimizer_step == 1


def test_a_slot_keeps_no_state_in_host_memory(arena: SlotArena) -> None:
    given = adapter_of(1)
    slot = arena.place("ann", given)
    alive = weakref.ref(given)
    del given
    assert alive() is None
    alive = weakref.ref(arena.read(slot, KEPT))
    assert alive() is None


def test_fewer_are_gathered_after_there_was_no_room_for_more(arena: SlotArena, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = [arena.place("ann", adapter_of(1)), arena.place("bob", adapter_of(5))]
    with monkeypatch.context() as full:
        full.setattr(torch.Tensor, "new_empty", raise_out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            arena.gather(slots)
    assert values(arena, slots[1]) == [5, 6, 7]


def raise_out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_evicting_and_reloading_gives_back_every_bit(arena: SlotArena) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(SIZE, generator=generator) for _ in range(3)]
    slot = arena.place("ann", adapter_of(1))
    arena.commit(slot, SlotTensors(*tensors), 4)
    kept = arena.read(slot, KEPT)
    for other in ("bob", "cy", "dan"):
        arena.place(other, adapter_of(2))
    again = arena.place("ann", kept)
    assert again.optimizer_step == 4
    arena.gather([again])
    assert all(torch.equal(found[0], tensor) for found, tensor in zip(arena.copies([again]), tensors, strict=True))


def test_more_slots_than_the_device_has_room_for_are_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"adapter\.device_slots: cpu has no room for 1000000000 slots of 12 MB"
    ):
        SlotArena(10**6, 10**9, CPU)


def test_on_a_cpu_a_slot_is_what_the_state_holds_and_a_step_leaves_that_as_it_was() -> None:
    slots = make_slots(SIZE, 2, CPU)
    assert isinstance(slots, HostSlots)
    ann = adapter_of(1)
    slot = slots.place("ann", ann)
    assert slots.read(slot, KEPT).weights.data_ptr() == ann.weights.data_ptr()
    two = [slot, slots.place("bob", adapter_of(5))]
    weights, gradient = slots.gather(two)
    assert [float(vector[0]) for vector in weights] == [1, 5]
    assert gradient.shape == (2, SIZE)
    assert not gradient.any()
    copies = slots.copies(two)
    assert [float(vectors[1][0]) for vectors in copies] == [5, 6, 7]
    for vectors in copies:
        vectors[0].fill_(9)
    assert [float(tensor[0]) for tensor in slot.tensors] == [1, 2, 3]
    slots.commit(slot, copies.of(0), 2)
    stepped = slots.read(slot, KEPT)
    slots.copies([slot])[0][0].fill_(4)
    assert [float(t[0]) for t in (stepped.weights, stepped.exp_avg, stepped.exp_avg_sq)] == [9, 9, 9]
    assert stepped.optimizer_step == 2
    assert stepped.kept is KEPT
    assert [float(t[0]) for t in (ann.weights, ann.exp_avg, ann.exp_avg_sq)] == [1, 2, 3]
    assert ann.optimizer_step == 1
