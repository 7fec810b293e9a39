"""Log-probabilities of target tokens. The logits of the whole vocabulary are never in memory.

For a token with hidden state h, log p(t) = s_t - logsumexp(s), where s = W h. Its gradient in h is
W_t - sum_v p_v W_v: a vector that the forward pass knows already. The forward pass goes over the vocabulary in chunks
and accumulates logsumexp and the expected weights. The backward pass multiplies that vector with a number per token.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it


@dataclass(frozen=True, eq=False)
class VocabularyHead:
    """The output layer: logits s = cap(scale * (W h + bias)), with cap(z) = c tanh(z / c) if the model has a cap.

    weight: (V, hidden). bias: (V,) or None. softcap: c, as in Gemma 2. scale: as in Cohere and Granite.
    chunk: how many entries of the vocabulary are looked at together.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0
    chunk: int = 2048  # of gemma3's 262,144 the fastest on a CPU of 1,024 to 16,384

    def logps(self, hidden: torch.Tensor, predictions: "Predictions") -> torch.Tensor:
        """Return the log-probability of each target in nats, shape (N,), float32 (float64 for a float64 model).

        hidden: (U, hidden), each state that predicts something once; of any dtype, since some models keep their states
            or this layer in a wider dtype than the rest.
        """
        logps: torch.Tensor = _TargetLogps.apply(hidden.to(self.weight.dtype), self, predictions)
        return logps

    def squash(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the logits of `raw` = W h + bias, and their derivative; None if that is 1."""
        if self.scale != 1.0:
            raw = raw * self.scale
        if self.softcap is None:
            return raw, None if self.scale == 1.0 else torch.full_like(raw, self.scale)
        bent = torch.tanh(raw / self.softcap)
        return bent * self.softcap, (1 - bent * bent) * self.scale


@dataclass(frozen=True, eq=False)
class Predictions:
    """N targets that are predicted from U hidden states, some of them from the same state.

    targets: (N,), ids.
    states: (N,), the state that predicts each.
    of_state: (U, most targets of a state), each state's targets, filled up with N. The backward pass sums over them in
        a fixed order.
    """

    targets: torch.Tensor
    states: torch.Tensor
    of_state: torch.Tensor


class TailSums(NamedTuple):
    """Log pi of pairs' tails, each summed over its tokens, in nats: (pairs,) each. rejected: 0 for pairs without."""

    chosen: torch.Tensor
    rejected: torch.Tensor


class _TargetLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: VocabularyHead, predictions: Predictions) -> torch.Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        with_gradient = ctx.needs_input_grad[0]
        normaliser, expected = _normalise(hidden, head, wide, with_gradient)

        weights = head.weight[predictions.targets].to(wide)  # (N, hidden)
        raw = (hidden[predictions.states].to(wide) * weights).sum(1)  # (N,)
        if head.bias is not None:
            raw += head.bias[predictions.targets]
        logits, slope = head.squash(raw)
        if expected is not None:
            jacobian = weights if slope is None else weights * slope[:, None]
            ctx.save_for_backward(jacobian.sub_(expected[predictions.states]), predictions.of_state)
            ctx.dtype = hidden.dtype
        return logits - normaliser[predictions.states]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        jacobian, of_state = ctx.saved_tensors
        parts = F.pad(jacobian * gradient[:, None], (0, 0, 0, 1))  # (N + 1, hidden), the last row 0
        return parts[of_state].sum(1).to(ctx.dtype), None, None


def _normalise(
    hidden: torch.Tensor, head: VocabularyHead, wide: torch.dtype, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the logsumexp over the vocabulary, (U,), and the expected weights sum_v p_v W_v ds_v/dz_v, (U, hidden)."""
    normaliser = hidden.new_full((hidden.shape[0], 1), float("-inf"), dtype=wide)
    expected = hidden.new_zeros(hidden.shape, dtype=wide) if with_gradient else None
    for start in range(0, head.weight.shape[0], head.chunk):
        weight = head.weight[start : start + head.chunk]
        bias = None if head.bias is None else head.bias[start : start + head.chunk]
        logits, slope = head.squash(F.linear(hidden, weight, bias))
        # One pass over a chunk that is in the cache. The largest share is never small: it gives the chunk's logsumexp.
        shares = logits.softmax(1)  # (U, chunk)
        here = logits.amax(1, keepdim=True).to(wide) - shares.amax(1, keepdim=True).to(wide).log_()
        total = torch.logaddexp(normaliser, here)
        if expected is not None:
            weighed = shares if slope is None else shares.mul_(slope)
            expected.mul_((normaliser - total).exp_())
            expected.addcmul_((weighed @ weight).to(wide), (here - total).exp_())
        normaliser = total
    return normaliser[:, 0], expected
