"""A user's adapter as flat tensors, and the layout that says which part of them belongs to which module.

Learning trains these tensors, the state store keeps them, and publishing gives them PEFT's names. This module knows
neither the base model nor any file.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

UserVectors = torch.Tensor | Sequence[torch.Tensor]  # flat vectors of K users: (K, size), or K of (size,)


@dataclass(frozen=True)
class LoraModule:
    """A linear module of the base model that carries a LoRA pair.

    name: path inside the base model, as in `named_modules()`.
    transposed: the module is a GPT-2 `Conv1D`, whose weight has shape (in, out).
    """

    name: str
    in_features: int
    out_features: int
    transposed: bool = False


@dataclass(frozen=True)
class AdapterLayout:
    """The places of each module's A, shape (r, in), and B, shape (out, r), in a flat vector of `size` numbers."""

    r: int
    lora_alpha: int
    modules: tuple[LoraModule, ...]

    @property
    def scaling(self) -> float:
        return self.lora_alpha / self.r

    @cached_property
    def size(self) -> int:
        return sum(self.r * (m.in_features + m.out_features) for m in self.modules)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of everything that decides what the flat numbers mean: 16 hex digits."""
        return hashlib.sha256(repr((self.r, self.lora_alpha, self.modules)).encode()).hexdigest()[:16]

    def views(self, flat: torch.Tensor) -> Iterator[tuple[LoraModule, torch.Tensor, torch.Tensor]]:
        """Yield each module with its A (r, in) and B (out, r), as views into `flat`, shape (size,).

        Raises ValueError if `flat` has another shape.
        """
        if flat.shape != (self.size,):
            raise ValueError(f"expected shape ({self.size},), got {tuple(flat.shape)}")
        start = 0
        for module in self.modules:
            middle = start + self.r * module.in_features
            end = middle + module.out_features * self.r
            yield (
                module,
                flat[start:middle].view(self.r, module.in_features),
                flat[middle:end].view(module.out_features, self.r),
            )
            start = end

    def stacked(self, flat: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield each module's A, (K, r, in), and B, (K, out, r), as views into `flat`, shape (K, size)."""
        start = 0
        for module in self.modules:
            middle = start + self.r * module.in_features
            end = middle + module.out_features * self.r
            yield (
                flat[:, start:middle].view(-1, self.r, module.in_features),
                flat[:, middle:end].view(-1, module.out_features, self.r),
            )
            start = end


@dataclass(frozen=True, eq=False)
class AdapterTensors:
    """A user's LoRA weights and Adam moments: fp32 in host memory, each of shape (layout.size,). Never changed.

    kept: the user's last pairs, which are trained again: int32, (numbers,). Only learning knows their order.
    """

    weights: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    optimizer_step: int
    kept: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int32))

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes + self.exp_avg.nbytes + self.exp_avg_sq.nbytes + self.kept.nbytes


def new_adapter(layout: AdapterLayout, uid: str, revision: str, dtype: torch.dtype = torch.float32) -> AdapterTensors:
    """Make a user's first adapter: A drawn as PEFT does (Kaiming uniform, a = sqrt 5), B zero, so that it adds nothing.

    A is drawn on the CPU, from a seed made of uid and model revision: two owners that race make the same adapter.
    """
    digest = hashlib.sha256(f"{uid}\0{revision}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    flat = torch.zeros(layout.size)
    for module, a, _ in layout.views(flat):
        bound = module.in_features**-0.5  # sqrt(6 / ((1 + 5) fan_in))
        a.uniform_(-bound, bound, generator=generator)
    flat = flat.to(dtype)
    return AdapterTensors(flat, torch.zeros_like(flat), torch.zeros_like(flat), optimizer_step=0)


def adds_nothing(layout: AdapterLayout, adapter: AdapterTensors) -> bool:
    """Return whether the adapter took no step and every B is zero: then the policy is exactly the base model."""
    return adapter.optimizer_step == 0 and not any(b.any() for _, _, b in layout.views(adapter.weights))
