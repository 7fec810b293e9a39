"""The best policy within a distance of the base model."""

import numpy as np
import pytest

from corlld.simulation.language.frontier import best_within, tilted

RNG = np.random.default_rng(0)


def test_no_policy_as_near_to_the_base_beats_the_tilted_one() -> None:
    base = np.log(RNG.dirichlet(np.ones(50), size=3))
    utilities = RNG.random((3, 50))
    for other in (RNG.dirichlet(np.full(50, concentration), size=3) for concentration in (0.1, 1, 5)):
        kl = float((other * (np.log(np.maximum(other, 1e-300)) - base)).sum(1).mean())
        assert best_within(base, utilities, kl) >= (other * utilities).sum(1).mean() - 1e-9
    at_rest = (np.exp(base) * utilities).sum(1).mean()
    assert best_within(base, utilities, 0.0) == pytest.approx(at_rest, abs=1e-2)
    assert best_within(base, utilities, 1e6) == pytest.approx(utilities.max(1).mean())
    assert tilted(base, utilities, 1e6).utility == pytest.approx(at_rest, abs=1e-6)
