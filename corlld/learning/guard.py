"""The trust region: what a step may not do, undone bit for bit by the caller; and edits that are not learnt at all."""

import torch

from corlld.learning.slots import Rows
from corlld.records import EditEvent
from corlld.statistics import repetition_ratio, word_count

FEWEST_WORDS = 10  # of a text that can be called repetitive


def all_finite(*tensors: Rows) -> torch.Tensor:
    """Of each user, whether the user's row, (.), is finite in all of these: (K,), bool.

    NaN and infinity both show in the extremes: one pass each, and nothing is made as large as the tensors.
    """
    extremes = [torch.stack([torch.stack(torch.aminmax(row)) for row in tensor]) for tensor in tensors]
    return torch.cat(extremes, dim=1).isfinite().all(1)


def drift_nats(change: torch.Tensor) -> float:
    """Mean |log pi_after - log pi_before| per tail token in nats, from their differences, shape (N,).

    NaN where either had a number that is not finite: then no limit holds, see `within`.
    """
    return float(change.abs().mean())


def within(drift: float, max_drift_nats: float) -> bool:
    """Whether the drift is allowed; False for NaN."""
    return drift <= max_drift_nats


def is_due(step: int, every_steps: int) -> bool:
    """Whether the drift of a user's step number `step` (from 1) is measured."""
    return step % every_steps == 0


def is_repetitive(event: EditEvent, max_rise: float) -> bool:
    """Whether the edit makes the text repeat itself (`repetition_ratio`) by more than `max_rise` above the draft.

    Learnt, it would spread: drafts that repeat themselves are what a collapsing adapter writes. In a few words ("bye
    bye") it means nothing, and a text without words (signs, scripts without spaces) has no repetition.
    """
    if word_count(event.edited) < FEWEST_WORDS:
        return False
    return repetition_ratio(event.edited) - repetition_ratio(event.proposed) > max_rise
