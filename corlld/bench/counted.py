"""Counts what a round computes: matrix products by torch's counter, and tokens that are looked up."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from corlld.errors import FatalError

aten = torch.ops.aten
# No step computes less than this share of the minimum: a smaller count means that the counter has missed products.
_CREDIBLE = 0.8


def _added_product_flop(into: torch.Size, a: torch.Size, b: torch.Size, *args: Any, **kwargs: Any) -> int:
    """Return the operations of a product that is added to a tensor, or of one such product per batch entry."""
    return 2 * math.prod(a) * b[-1]


def _grouped_mm_flop(a: torch.Size, b: torch.Size, *args: Any, **kwargs: Any) -> int:
    """Return the operations of one product per group. The groups divide the dimension that has no group index."""
    if len(a) == 2 and len(b) == 3:
        return 2 * a[0] * a[1] * b[2]
    if len(a) == 3 and len(b) == 2:
        return 2 * a[1] * a[2] * b[1]
    if len(a) == len(b) == 2:
        return 2 * a[0] * a[1] * b[1]
    return 2 * a[0] * a[1] * a[2] * b[2]


# Products for which torch's counter has no formula, so that it would count nothing.
_MORE_FORMULAS: dict[Any, Any] = {
    aten.addmm_: _added_product_flop,
    aten.baddbmm_: _added_product_flop,
    aten._grouped_mm: _grouped_mm_flop,
}


class _Tokens(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__ is untyped in torch
    """Counts the ids that are looked up in an embedding with this vocabulary size."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self._vocabulary = vocabulary
        self.looked_up: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.embedding.default and args[0].shape[0] == self._vocabulary:
            self.looked_up += args[1].numel()
        return func(*args, **(kwargs or {}))


def count_operations(work: Callable[[], object]) -> int:
    """Return the floating-point operations of the matrix products in `work`, forward and backward."""
    with FlopCounterMode(display=False, custom_mapping=_MORE_FORMULAS) as counter:
        work()
    return int(counter.get_total_flops())


def operations_over_minimum(work: Callable[[], object], minimum: int) -> float:
    """Return the counted operations over the minimum. Raises FatalError if the counter has missed products."""
    share = count_operations(work) / minimum
    if share < _CREDIBLE:
        raise FatalError(
            f"the FLOP counter saw {share:.2f} of the minimum: the learner uses a product that it has no formula for"
        )
    return share


def padding_share(work: Callable[[], object], vocabulary: int, needed: int) -> float:
    """Return the share of the tokens computed in `work` that were not needed.

    Raises FatalError if fewer tokens were looked up than needed: then they did not go through the embedding.
    """
    with _Tokens(vocabulary) as tokens:
        work()
    if tokens.looked_up < needed:
        raise FatalError(f"{tokens.looked_up} tokens were looked up, but {needed} are needed")
    return 1 - needed / int(tokens.looked_up)
