"""The best policy within a given distance of the base model: the KL-regularised optimum. Pure."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_COLDEST, _HOTTEST = 1e-3, 1e2  # temperatures, in units of utility
_HALVINGS = 30


class Tilted(NamedTuple):
    """A tilted policy. kl: KL(pi || pi_0) in nats. utility: the mean under pi. Both are averaged over prompts."""

    kl: float
    utility: float


def tilted(base_logps: Floats, utilities: Floats, temperature: float) -> Tilted:
    """Return KL and utility of pi ~ pi_0 exp(U / temperature). No policy as near to pi_0 has a larger utility.

    Args:
        base_logps: log pi_0 of all sentences, (prompts, sentences). It is normalised to sum to 1.
        utilities: U of all sentences, (prompts, sentences).
        temperature: > 0, in units of utility.
    """
    base = base_logps - _logsumexp(base_logps)
    logps = base + utilities / temperature
    logps -= _logsumexp(logps)
    shares = np.exp(logps)
    return Tilted(float((shares * (logps - base)).sum(1).mean()), float((shares * utilities).sum(1).mean()))


def best_within(base_logps: Floats, utilities: Floats, kl: float) -> float:
    """Return the largest mean utility of a policy whose mean KL(pi || pi_0) is at most `kl` nats."""
    cold, hot = np.log(_COLDEST), np.log(_HOTTEST)
    if tilted(base_logps, utilities, _COLDEST).kl <= kl:
        return float(utilities.max(1).mean())
    for _ in range(_HALVINGS):
        middle = (cold + hot) / 2
        if tilted(base_logps, utilities, float(np.exp(middle))).kl > kl:
            cold = middle
        else:
            hot = middle
    return tilted(base_logps, utilities, float(np.exp(hot))).utility


def _logsumexp(logps: Floats) -> Floats:
    most = logps.max(1, keepdims=True)
    return np.asarray(most + np.log(np.exp(logps - most).sum(1, keepdims=True)))
