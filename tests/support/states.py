"""Real states with small tensors, for tests of storing and publishing."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from corlld.adapters.layout import AdapterLayout, AdapterTensors, LoraModule
from corlld.durable import DraftFigures, ModuleNames, Participation, Release, Statistics, UserState

UID = "0123456789abcdef0123456789abcdef"
OTHER_UID = "fedcba9876543210fedcba9876543210"

SMALL_LAYOUT = AdapterLayout(2, 4, (LoraModule("block.q", 3, 5), LoraModule("block.v", 3, 2)))

FIGURES = Statistics(
    events=7,
    pairs_applied=4,
    acceptances=1,
    no_difference=1,
    rejected={"too_long": 1},
    updates=2,
    prequential_pairs=4,
    prequential_correct=2.5,
    prequential_margin_sum=0.1 + 0.2,  # a sum that no short decimal names
    base_pairs=2,
    base_correct=1.0,
    drafts={"0": DraftFigures(3, 1, 1 / 3, 0.7), "unknown": DraftFigures(1, 0, 0.25)},
    first_drafts=DraftFigures(4, 1, 1 / 3 + 0.25, 0.7),
)

PARTICIPATION = Participation("imitating", "0" * 16, DraftFigures(4, 1, 1 / 3, 0.7), 1.5e9, 0.25, 2)


def adapter(layout: AdapterLayout = SMALL_LAYOUT, seed: int = 0) -> AdapterTensors:
    random = torch.Generator().manual_seed(seed)
    return AdapterTensors(
        weights=torch.randn(layout.size, generator=random),
        exp_avg=torch.randn(layout.size, generator=random),
        exp_avg_sq=torch.rand(layout.size, generator=random),
        optimizer_step=11,
    )


def released_state(
    version: int = 3,
    *,
    uid: str = UID,
    layout: AdapterLayout = SMALL_LAYOUT,
    seed: int | None = None,
    applied: Mapping[str, int] | None = None,
    module_names: ModuleNames | None = None,
    participation: Participation | None = None,
) -> UserState:
    """A state whose newest version was just made. Other versions have other tensors."""
    applied = {"topic-id/0": 10 * version, "topic-id/3": 7} if applied is None else applied
    return UserState(
        uid=uid,
        version=version,
        adapter=adapter(layout, version if seed is None else seed),
        applied=applied,
        recent_event_ids=("event-one", "ünï", "e3"),
        statistics=FIGURES,
        release=Release(version, version - 1 or None, applied, FIGURES, module_names),
        participation=participation,
    )


def tombstone(version: int = 3, uid: str = UID) -> UserState:
    return UserState(uid=uid, version=version, applied={"topic-id/0": 99}, erased=True, erased_through=version)


def same_state(one: UserState, other: UserState) -> bool:
    """Equal in everything, the tensors bit for bit."""
    a, b = one.adapter, other.adapter
    if a is None or b is None:
        return one == other
    assert isinstance(a, AdapterTensors)
    assert isinstance(b, AdapterTensors)
    tensors = ((a.weights, b.weights), (a.exp_avg, b.exp_avg), (a.exp_avg_sq, b.exp_avg_sq), (a.kept, b.kept))
    return (
        all(x.dtype == y.dtype and x.numpy().tobytes() == y.numpy().tobytes() for x, y in tensors)
        and (a.optimizer_step, a.start) == (b.optimizer_step, b.start)
        and replace(one, adapter=None) == replace(other, adapter=None)
    )
