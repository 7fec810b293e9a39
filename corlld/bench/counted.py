"""What a round computes: matrix products by torch's counter, and tokens looked up."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from corlld.errors import FatalError

aten = torch.ops.aten
# Less than so much of the minimum was never computed: then the counter has not seen all.
_CREDIBLE = 0.8


def _added_product_flop(into: torch.Size, a: torch.Size, b: torch.Size, *args: Any, **kwargs: Any) -> int:
    """A product that is added to what is there, also one for each of a batch."""
    return 2 * math.prod(a) * b[-1]


def _grouped_mm_flop(a: torch.Size, b: torch.Size, *args: Any, **kwargs: Any) -> int:
    """A product a group; the groups share out the dimension that has no group of its own."""
    if len(a) == 2 and len(b) == 3:
        return 2 * a[0] * a[1] * b[2]
    if len(a) == 3 and len(b) == 2:
        return 2 * a[1] * a[2] * b[1]
    if len(a) == len(b) == 2:
        return 2 * a[0] * a[1] * b[1]
    return 2 * a[0] * a[1] * a[2] * b[2]


# What torch's counter knows no formula for, and would take for nothing.
_MORE_FORMULAS: dict[Any, Any] = {
    aten.addmm_: _added_product_flop,
    aten.baddbmm_: _added_product_flop,
    aten._grouped_mm: _grouped_mm_flop,
}


class _Tokens(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__ is untyped in torch
    """Counts ids looked up in the embedding of a vocabulary of this size."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self._vocabulary = vocabulary
        self.looked_up: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.embedding.default and args[0].shape[0] == self._vocabulary:
            self.looked_up += args[1].numel()
        return func(*args, **(kwargs or {}))


def count_operations(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products in `work`, forward and backward."""
    with FlopCounterMode(display=False, custom_mapping=_MORE_FORMULAS) as counter:
        work()
    return int(counter.get_total_flops())


def operations_over_minimum(work: Callable[[], object], minimum: int) -> float:
    """How many times the minimum is computed. Raises FatalError for what the counter can't have seen whole."""
    share = count_operations(work) / minimum
    if share < _CREDIBLE:
        raise FatalError(
            f"the FLOP counter saw {share:.2f} of the minimum: the learner uses what it has no formula for"
        )
    return share


def padding_share(work: Callable[[], object], vocabulary: int, needed: int) -> float:
    """Share of the tokens computed in `work` beyond those needed.

    Raises FatalError where fewer were looked up than needed: then they were not looked up in the embedding.
    """
    with _Tokens(vocabulary) as tokens:
        work()
    if tokens.looked_up < needed:
        raise FatalError(f"{tokens.looked_up} tokens were seen, and {needed} are needed")
    return 1 - needed / int(tokens.looked_up)
