"""The CoRLL loss: tensors in, tensors out.

Source: Tucker, Brantley, Cahall, Joachims: Coactive Learning for Large Language Models using Implicit User Feedback,
ICML 2024; a reimplementation from its abstract and from classical coactive theory. Reference policy, smoothing and
anchor are our choices.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

# Per token; rounding in bfloat16 is about as much. A smaller fall costs nothing. Without this slack the hinge's kink
# would lie where learning begins, and rounding would decide there between no gradient and a whole one.
SLACK_NATS = 0.01


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
) -> PairLosses:
    """Return the loss of each pair, and its margin h = (chosen - rejected) - (ref_chosen - ref_rejected).

    loss = -(1 - epsilon) log sigma(beta h) - epsilon log sigma(-beta h)

    Args:
        chosen_logps: log pi of the edited text's tokens, summed over its tail or over those that the edit changes, in
            nats, shape (pairs,). Never length-normalised.
        rejected_logps: of the proposed text, likewise.
        ref_chosen_logps: the same under the reference; no gradient is wanted through it.
        ref_rejected_logps: likewise.
        beta: strength of the KL anchor, > 0.
        epsilon: believed rate of edits that are not improvements, in [0, 1/2).

    Raises:
        ValueError: the shapes differ.
    """
    if not chosen_logps.shape == rejected_logps.shape == ref_chosen_logps.shape == ref_rejected_logps.shape:
        raise ValueError("log-probabilities must have one shape")
    margins = margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    losses = -(1 - epsilon) * F.logsigmoid(beta * margins) - epsilon * F.logsigmoid(-beta * margins)
    return PairLosses(losses, margins)


def margin(
    chosen_logps: torch.Tensor,
    rejected_logps: torch.Tensor,
    ref_chosen_logps: torch.Tensor,
    ref_rejected_logps: torch.Tensor,
) -> torch.Tensor:
    """Return the margin h in nats, shape (pairs,). It is exactly 0 where policy and reference are the same."""
    return (chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps)


def imitation_loss(logps: torch.Tensor, weight: float) -> torch.Tensor:
    """Return -weight * log pi of each text that is to be imitated, an edited or an accepted one, shape (texts,)."""
    return -weight * logps


def fall_loss(logps: torch.Tensor, ref_logps: torch.Tensor, tokens: torch.Tensor, weight: float) -> torch.Tensor:
    """Return weight * relu(log pi_ref - log pi - slack) for each text, shape (texts,): 0 if none became less likely.

    It anchors edited texts, and holds rehearsed passages to the base model. The slack is `SLACK_NATS` for each of a
    text's `tokens`. An adapter that adds nothing differs from the base model by rounding alone, and that is nothing to
    learn from. A smooth form would pull at the reference already, where nothing fell, as imitation does.
    """
    return weight * F.relu(ref_logps - logps - SLACK_NATS * tokens)
