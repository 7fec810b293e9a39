"""The trust region: what a step may not do (the caller undoes it bit for bit), and edits that are not learnt at all."""

import torch

from corlld.adapters.layout import UserVectors
from corlld.records import EditEvent
from corlld.statistics import repetition_ratio, word_count

FEWEST_WORDS = 10  # of a text that can be called repetitive


def all_finite(*tensors: UserVectors) -> torch.Tensor:
    """Return for each of K users whether all of the user's vectors are finite: (K,), bool.

    NaN and infinity both show in the extremes. That takes one pass per vector, and makes nothing as large as it.
    """
    extremes = [torch.stack([torch.stack(torch.aminmax(vector)) for vector in vectors]) for vectors in tensors]
    return torch.cat(extremes, dim=1).isfinite().all(1)  # (K, 2 per tensor) -> (K,)


def drift_nats(change: torch.Tensor) -> float:
    """Return the mean |log pi_after - log pi_before| per tail token in nats, from the differences, (N,).

    It is NaN if a log-probability was not finite: then no limit holds, see `within`.
    """
    return float(change.abs().mean())


def within(drift: float, max_drift_nats: float) -> bool:
    """Return whether the drift is allowed; False for NaN."""
    return drift <= max_drift_nats


def is_due(step: int, every_steps: int) -> bool:
    """Return whether the drift of a user's step number `step` (from 1) is measured."""
    return step % every_steps == 0


def is_repetitive(event: EditEvent, max_rise: float) -> bool:
    """Return whether the edit repeats itself (`repetition_ratio`) by more than `max_rise` above the draft.

    If it were learnt, it would spread: a collapsing adapter writes drafts that repeat themselves. Repetition means
    nothing in a few words ("bye bye"). A text without words (signs, scripts without spaces) has none.
    """
    if word_count(event.edited) < FEWEST_WORDS:
        return False
    return repetition_ratio(event.edited) - repetition_ratio(event.proposed) > max_rise
