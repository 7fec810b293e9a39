"""The world of tables: its users do what is said of them, and learning from them keeps the classical bounds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from corlld.learning.loss import corll_loss
from corlld.simulation.studies.contract import Options, Row
from corlld.simulation.studies.runner import run_study
from corlld.simulation.studies.theory import study as theory
from corlld.simulation.studies.theory.tabular_world import (
    HARM,
    Array,
    Indices,
    UserKind,
    Users,
    changed_words,
    make_worlds,
)

SEEDS = (101, 102, 103, 104)


def edits(kind: UserKind, *, harms: bool) -> tuple[Array, Indices]:
    """Utilities, (S, Y), and what becomes of every text as a draft, (S, Y)."""
    utilities = make_worlds(SEEDS).utilities[:, 0]
    texts = utilities.shape[1]
    drafts = np.tile(np.arange(texts), (len(SEEDS), 1))
    chances = np.full(len(SEEDS), 0.0 if harms else 1.0)
    return utilities, Users([kind] * texts).edit(utilities, drafts, chances)


def worth(utilities: Array, texts: Indices) -> Array:
    return np.take_along_axis(utilities, texts, 1)


def test_no_features_are_longer_than_1_and_a_world_does_not_depend_on_the_others() -> None:
    worlds = make_worlds(SEEDS)
    assert np.linalg.norm(worlds.features, axis=-1).max() == pytest.approx(1)
    assert np.linalg.norm(worlds.wishes, axis=-1) == pytest.approx(np.ones(len(SEEDS)))
    assert np.array_equal(make_worlds(SEEDS[2:]).features, worlds.features[2:])
    assert np.array_equal(make_worlds(SEEDS[2:]).wishes, worlds.wishes[2:])


@pytest.mark.parametrize("alpha", theory.ALPHAS)
def test_an_honest_edit_closes_its_share_of_the_gap_in_as_few_words_as_any(alpha: float) -> None:
    utilities, edited = edits(UserKind(alpha, 0.0, "scaled"), harms=True)
    needed = alpha * (utilities.max(1)[:, None] - utilities)
    gains = worth(utilities, edited) - utilities
    assert (gains >= needed - 1e-12).all()
    changed = changed_words()
    for seed in range(len(SEEDS)):
        for draft in range(utilities.shape[1]):
            enough = utilities[seed] - utilities[seed, draft] >= needed[seed, draft]
            assert changed[draft, edited[seed, draft]] == changed[draft][enough].min()
    best = utilities.argmax(1)
    assert np.array_equal(edited[np.arange(len(SEEDS)), best], best)


def test_scaled_harm_costs_what_an_honest_edit_has_to_gain_and_nothing_where_nothing_is_left() -> None:
    utilities, edited = edits(UserKind(0.3, 0.4, "scaled"), harms=True)
    gains = worth(utilities, edited) - utilities
    needed = 0.3 * (utilities.max(1)[:, None] - utilities)
    can = utilities - utilities.min(1)[:, None] >= needed
    assert (gains[can] <= -needed[can]).all()
    assert (gains[~can] >= needed[~can]).all()  # nothing is bad enough: they edit honestly
    best = utilities.argmax(1)
    assert np.array_equal(edited[np.arange(len(SEEDS)), best], best)


def test_unscaled_harm_costs_its_share_of_the_worst_case_also_at_the_best_text() -> None:
    utilities, edited = edits(UserKind(0.3, 0.4, "unscaled"), harms=True)
    gains = worth(utilities, edited) - utilities
    above = utilities - utilities.min(1)[:, None]
    assert (gains[above > 0] <= -HARM * above[above > 0]).all()


def test_harm_comes_as_often_as_epsilon_says() -> None:
    utilities = make_worlds(SEEDS[:1]).utilities[:, 0]
    users = Users([UserKind(0.3, 0.2, "unscaled")])
    draft = np.array([[int(np.argsort(utilities[0])[128])]])
    harmful = [
        worth(utilities, users.edit(utilities, draft, np.array([chance])))[0, 0] < worth(utilities, draft)[0, 0]
        for chance in (np.arange(100) + 0.5) / 100
    ]
    assert sum(harmful) == 20


def test_a_step_is_one_of_sgd_on_the_loss_that_the_daemon_has() -> None:
    random = np.random.default_rng(5)
    phi, start = random.normal(size=(6, 4)), random.normal(size=4)
    theta = torch.tensor(start, requires_grad=True)
    logps, reference = (torch.tensor(phi) @ theta).log_softmax(0), torch.full((6,), -np.log(6), dtype=torch.float64)
    edited, proposed = [4], [1]
    tails = logps[edited], logps[proposed], reference[edited], reference[proposed]
    (gradient,) = torch.autograd.grad(corll_loss(*tails, beta=theory.BETA).losses.mean(), theta)
    step = theory._step(start, phi[4] - phi[1], theory.CORLL)
    assert step == pytest.approx(-theory.ETA * gradient.numpy(), rel=1e-12)


def test_an_acceptance_is_a_step_along_the_gradient_of_its_log_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """One world, one round, where the user has nothing to change: log pi(y) of a uniform policy."""
    monkeypatch.setattr(Users, "edit", lambda self, utilities, drafts, chances: drafts)
    worlds = make_worlds(SEEDS[:1])
    kinds = [UserKind(1.0, 0.0, "scaled")]
    two = theory.learn(worlds, SEEDS[:1], kinds, theory.ACCEPTING, "argmax", 2)
    context = np.random.default_rng([SEEDS[0], 1]).integers(worlds.features.shape[1], size=2)
    phi = torch.tensor(worlds.features[0, context[0]])
    theta = torch.zeros(phi.shape[1], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((phi @ theta).log_softmax(0)[0], theta)
    theta = theory.ETA * theory.ACCEPTANCE * gradient.numpy()
    second = worlds.utilities[0, context[1]]
    draft = (worlds.features[0, context[1]] @ theta).argmax()
    assert two.gaps[1, 0, 0] == pytest.approx(second.max() - second[draft])
    assert second[draft] != second[0]  # as an untrained policy would draft


def rows(way: theory.Way, draws: str = "argmax", rounds: int = 512) -> list[Row]:
    course = theory.learn(make_worlds(SEEDS), SEEDS, theory.KINDS, way, draws, rounds)
    return theory.rows_of(course, SEEDS, theory.KINDS, way, draws)


@pytest.mark.parametrize("way", [theory.PERCEPTRON, theory.CORLL])
def test_regret_keeps_its_bound_and_falls_as_fast(way: theory.Way) -> None:
    found = rows(way)
    assert max(theory.chosen(found, "largest_ratio")) < 0.75
    assert max(theory.chosen(found, "slope", noise="none")) <= -0.5
    assert max(theory.chosen(found, "xi_hat", noise="none")) == 0
    assert min(theory.chosen(found, "alpha_hat", noise="none", alpha=0.3)) >= 0.3


def test_sampled_drafts_become_better_as_well() -> None:
    found = rows(theory.CORLL, "sampled")
    early, late = (np.mean(theory.chosen(found, f"{q}_quarter", noise="none")) for q in ("second", "last"))
    assert late < 0.85 * early
    assert min(theory.chosen(found, "kl_nats", noise="none")) > 0


def test_unscaled_noise_leaves_a_plateau_that_acceptances_lower_and_scaled_noise_leaves_none() -> None:
    where = {"alpha": 0.3, "epsilon": 0.2}
    alone, accepting = rows(theory.CORLL), rows(theory.ACCEPTING)
    plateau = np.mean(theory.chosen(alone, "last_quarter", noise="unscaled", **where))
    assert plateau > 0.8 * np.mean(theory.chosen(alone, "second_quarter", noise="unscaled", **where))
    assert plateau > 5 * np.mean(theory.chosen(alone, "last_quarter", noise="scaled", **where))
    assert plateau > 5 * np.mean(theory.chosen(accepting, "last_quarter", noise="unscaled", **where))


def test_the_study_reports_figures_and_two_pictures(tmp_path: Path) -> None:
    quiet = Console(file=None, quiet=True)
    options = Options(seeds=(4, 5), quick=True, model="demo", edits=None)
    run_study(theory.STUDY, options, tmp_path, "corlld simulate theory --quick", quiet, quiet)
    figures = json.loads((tmp_path / "summary.json").read_text())["figures"]
    assert figures["corll_bound_used_honest"]["value"] < 1
    assert figures["perceptron_bound_used_noisy"]["value"] < 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"regret.png", "plateaus.png"}
    for picture in tmp_path.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
