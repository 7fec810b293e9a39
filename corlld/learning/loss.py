"""The CoRLL loss: tensors in, tensors out.

Source: Tucker, Brantley, Cahall, Joachims: Coactive Learning for Large Language Models using Implicit User Feedback,
ICML 2024; a reimplementation from its abstract and from classical coactive theory. Reference policy, smoothing and
anchor are our choices.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

REHEARSAL_SLACK_NATS = 0.01  # per token; rounding in bfloat16 is about as much


class PairLosses(NamedTuple):
    """Values of each pair, (pairs,). losses: what the pair adds to the mean. margins: h in nats."""

    losses: torch.Tensor
    margins: torch.Tensor


def corll_loss(
    chosen_logps: torch.Tensor,
    rejected_logps: torch.Tensor,
    ref_chosen_logps: torch.Tensor,
    ref_rejected_logps: torch.Tensor,
    *,
    beta: float,
    epsilon: float = 0.0,
    anchor: float = 0.0,
    imitation: float = 0.0,
) -> PairLosses:
    """Return the loss of each pair, and its margin h = (chosen - rejected) - (ref_chosen - ref_rejected).

    loss = -(1 - epsilon) log sigma(beta h) - epsilon log sigma(-beta h)
           + anchor relu(ref_chosen - chosen) - imitation chosen

    Args:
        chosen_logps: log pi(edited tail), summed over its tokens, in nats, shape (pairs,). Never length-normalised.
        rejected_logps: log pi(proposed tail), likewise.
        ref_chosen_logps: the same under the reference; no gradient is wanted through it.
        ref_rejected_logps: likewise.
        beta: strength of the KL anchor, > 0.
        epsilon: believed rate of edits that are not improvements, in [0, 1/2).
        anchor: lambda >= 0, weight of a fall of log pi(edited tail) below the reference.
        imitation: >= 0, weight of the edited tail's own likelihood.

    Raises:
        ValueError: the shapes differ.
    """
    if not chosen_logps.shape == rejected_logps.shape == ref_chosen_logps.shape == ref_rejected_logps.shape:
        raise ValueError("log-probabilities must have one shape")
    margins = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    losses = -(1 - epsilon) * F.logsigmoid(beta * margins) - epsilon * F.logsigmoid(-beta * margins)
    if anchor:
        losses = losses + anchor * F.relu(ref_chosen_logps - chosen_logps)
    if imitation:
        losses = losses - imitation * chosen_logps
    return PairLosses(losses, margins)


def margin(
    chosen_logps: torch.Tensor,
    rejected_logps: torch.Tensor,
    ref_chosen_logps: torch.Tensor,
    ref_rejected_logps: torch.Tensor,
) -> torch.Tensor:
    """Return the margin h in nats, shape (pairs,). It is exactly 0 where policy and reference are the same."""
    return (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)


def acceptance_loss(chosen_logps: torch.Tensor, weight: float) -> torch.Tensor:
    """Return -weight * log pi(accepted text) for each acceptance, shape (acceptances,)."""
    return -weight * chosen_logps


def rehearsal_loss(logps: torch.Tensor, base_logps: torch.Tensor, tokens: torch.Tensor, weight: float) -> torch.Tensor:
    """Return weight * relu(log pi_base - log pi - slack) for each text, shape (texts,): 0 if nothing was forgotten.

    The slack is `REHEARSAL_SLACK_NATS` for each of the text's `tokens`. An adapter that adds nothing differs from the
    base model by rounding alone, and that is nothing to learn from.
    """
    return weight * F.relu(base_logps - logps - REHEARSAL_SLACK_NATS * tokens)
