"""Likelihoods of texts under adapters and under the base model, from the learner's scores. Pure."""

import math
from collections.abc import Sequence

from corlld.learning.user_step import PairScore


def perplexity(scores: Sequence[PairScore]) -> float:
    """Return the perplexity of the edited texts under the adapters, weighted by tokens."""
    return math.exp(-sum(score.policy.chosen for score in scores) / _tokens(scores))


def base_perplexity(scores: Sequence[PairScore]) -> float:
    """Return the perplexity of the edited texts under the base model, weighted by tokens."""
    return math.exp(-sum(score.base.chosen for score in scores) / _tokens(scores))


def nats_above_base(scores: Sequence[PairScore]) -> float:
    """Return log pi - log pi_base of the edited texts, in nats per token."""
    return sum(score.policy.chosen - score.base.chosen for score in scores) / _tokens(scores)


def _tokens(scores: Sequence[PairScore]) -> int:
    return sum(score.edited_tokens for score in scores)
