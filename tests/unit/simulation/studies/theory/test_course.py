"""Learning in the tabular world follows the rule, and keeps the classical bounds."""

import numpy as np
import pytest
import torch

from corlld.learning.loss import corll_loss
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.rows import column
from corlld.simulation.studies.theory import course
from corlld.simulation.studies.theory.study import KINDS
from corlld.simulation.studies.theory.tabular_world import (
    UserKind,
    Users,
    make_worlds,
)

SEEDS = (101, 102, 103, 104)


def test_a_step_is_one_of_sgd_on_the_loss_that_the_daemon_has() -> None:
    random = np.random.default_rng(5)
    phi, start = random.normal(size=(6, 4)), random.normal(size=4)
    theta = torch.tensor(start, requires_grad=True)
    logps, reference = (torch.tensor(phi) @ theta).log_softmax(0), torch.full((6,), -np.log(6), dtype=torch.float64)
    edited, proposed = [4], [1]
    tails = logps[edited], logps[proposed], reference[edited], reference[proposed]
    (gradient,) = torch.autograd.grad(corll_loss(*tails, beta=course.BETA).losses.mean(), theta)
    step = course._step(start, phi[4] - phi[1], course.CORLL)
    assert step == pytest.approx(-course.ETA * gradient.numpy(), rel=1e-12)


def test_an_acceptance_is_a_step_along_the_gradient_of_its_log_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """One world, one round, where the user has nothing to change: log pi(y) of a uniform policy."""
    monkeypatch.setattr(Users, "edit", lambda self, utilities, drafts, chances: drafts)
    worlds = make_worlds(SEEDS[:1])
    kinds = [UserKind(1.0, 0.0, "scaled")]
    two = course.learn(worlds, SEEDS[:1], kinds, course.ACCEPTING, "argmax", 2)
    context = np.random.default_rng([SEEDS[0], 1]).integers(worlds.features.shape[1], size=2)
    phi = torch.tensor(worlds.features[0, context[0]])
    theta = torch.zeros(phi.shape[1], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((phi @ theta).log_softmax(0)[0], theta)
    theta = course.ETA * course.ACCEPTANCE * gradient.numpy()
    second = worlds.utilities[0, context[1]]
    draft = (worlds.features[0, context[1]] @ theta).argmax()
    assert two.gaps[1, 0, 0] == pytest.approx(second.max() - second[draft])
    assert second[draft] != second[0]  # as an untrained policy would draft


def rows(way: course.Way, draws: str = "argmax", rounds: int = 512) -> list[Row]:
    run = course.learn(make_worlds(SEEDS), SEEDS, KINDS, way, draws, rounds)
    return course.rows_of(run, SEEDS, KINDS, way, draws)


@pytest.mark.parametrize("way", [course.PERCEPTRON, course.CORLL])
def test_regret_keeps_its_bound_and_falls_as_fast(way: course.Way) -> None:
    found = rows(way)
    assert max(column(found, "largest_ratio")) < 0.75
    assert max(column(found, "slope", noise="none")) <= -0.5
    assert max(column(found, "xi_hat", noise="none")) == 0
    assert min(column(found, "alpha_hat", noise="none", alpha=0.3)) >= 0.3


def test_sampled_drafts_become_better_as_well() -> None:
    found = rows(course.CORLL, "sampled")
    early, late = (np.mean(column(found, f"{q}_quarter", noise="none")) for q in ("second", "last"))
    assert late < 0.85 * early
    assert min(column(found, "kl_nats", noise="none")) > 0


def test_unscaled_noise_leaves_a_plateau_that_acceptances_lower_and_scaled_noise_leaves_none() -> None:
    where = {"alpha": 0.3, "epsilon": 0.2}
    alone, accepting = rows(course.CORLL), rows(course.ACCEPTING)
    plateau = np.mean(column(alone, "last_quarter", noise="unscaled", **where))
    assert plateau > 0.8 * np.mean(column(alone, "second_quarter", noise="unscaled", **where))
    assert plateau > 5 * np.mean(column(alone, "last_quarter", noise="scaled", **where))
    assert plateau > 5 * np.mean(column(accepting, "last_quarter", noise="unscaled", **where))
