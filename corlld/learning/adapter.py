"""One user's adapter as flat tensors, and the layout that says which stretch belongs to which module."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class LoraModule:
    """A linear module of the base model that carries a LoRA pair.

    name: path inside the base model, as in `named_modules()`. transposed: a GPT-2 `Conv1D`, weight of shape (in, out).
    """

    name: str
    in_features: int
    out_features: int
    transposed: bool = False


@dataclass(frozen=True)
class AdapterLayout:
    """Where each module's A, shape (r, in), and B, shape (out, r), lie in a flat vector of `size` numbers."""

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
        """Digest of everything that decides what the flat numbers mean, 16 hex digits."""
        return hashlib.sha256(repr((self.r, self.lora_alpha, self.modules)).encode()).hexdigest()[:16]

    def views(self, flat: torch.Tensor) -> Iterator[tuple[LoraModule, torch.Tensor, torch.Tensor]]:
        """Each module with its A (r, in) and B (out, r), as views into `flat`, shape (size,)."""
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


@dataclass(frozen=True, eq=False)
class AdapterTensors:
    """One user's LoRA weights and Adam moments: fp32 in host memory, each of shape (layout.size,). Never written to."""

    weights: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    optimizer_step: int

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes + self.exp_avg.nbytes + self.exp_avg_sq.nbytes
