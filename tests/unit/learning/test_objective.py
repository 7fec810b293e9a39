"""The objective: which loss a pair has by which rule. Expected values are derived by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from corlld.learning.model.vocabulary import TailSums
from corlld.learning.objective import Objective, PairSums, RowSums, ScoredPairs, Sums
from corlld.settings.sections import LearningSettings

POLICY, BASE, PREVIOUS = Sums(-7.0, -9.0), Sums(-6.0, -5.0), Sums(-6.5, -8.0)
OF_BASE = 3.0  # margin: (-7 + 9) - (-6 + 5)
OF_PREVIOUS = 0.5  # (-7 + 9) - (-6.5 + 8)


MARGIN_ALONE: dict[str, Any] = {"margin": "tail", "imitation_weight": 0.0}


def softplus(x: float) -> float:
    """-log sigma(-x)."""
    return math.log(1 + math.exp(x))


def tails(*sums: Sums) -> TailSums:
    chosen, rejected = torch.tensor(sums, dtype=torch.float64).unbind(1)
    return TailSums(chosen.clone().requires_grad_(), rejected.clone().requires_grad_())


def policy(*sums: Sums) -> RowSums:
    whole = tails(*sums)
    return RowSums(whole, whole)


def known(sums: Sequence[Sums | None]) -> list[PairSums | None]:
    return [own and PairSums(own, own) for own in sums]


def losses(
    sums: Sequence[Sums],
    base: Sequence[Sums | None],
    previous: Sequence[Sums | None] | None = None,
    accepted: Sequence[bool] | None = None,
    rehearsed: Sequence[bool] | None = None,
    chosen_tokens: Sequence[int] | None = None,
    **rule: Any,
) -> list[float]:
    no = [False] * len(sums)
    pairs = ScoredPairs(
        policy(*sums),
        known(base),
        known(previous or [None] * len(sums)),
        accepted or no,
        rehearsed or no,
        chosen_tokens or [1] * len(sums),
    )
    found: list[float] = Objective(LearningSettings(**{"beta": 0.5, **MARGIN_ALONE} | rule)).losses(pairs).tolist()
    return found


def test_an_edits_loss_is_the_logistic_loss_of_its_margin_against_the_base_model() -> None:
    assert losses([POLICY], [BASE], [PREVIOUS]) == pytest.approx([softplus(-0.5 * OF_BASE)], rel=1e-14)


def test_with_reference_previous_the_margin_is_against_the_adapter_as_the_micro_batch_began() -> None:
    found = losses([POLICY], [BASE], [PREVIOUS], reference="previous")
    assert found == pytest.approx([softplus(-0.5 * OF_PREVIOUS)], rel=1e-14)


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_a_reference_that_is_not_known_is_the_policy_itself_without_a_gradient(reference: str) -> None:
    rule = LearningSettings.model_validate({"beta": 0.5, "reference": reference, **MARGIN_ALONE})
    first = policy(POLICY, POLICY)
    references = known([None, BASE])
    pairs = ScoredPairs(first, references, references, [False] * 2, [False] * 2, [1] * 2)
    found = Objective(rule).losses(pairs)
    assert found.tolist() == pytest.approx([math.log(2), softplus(-0.5 * OF_BASE)], rel=1e-14)
    torch.autograd.backward(found.sum())
    # -beta sigma(-beta h): through the policy's own sum alone.
    expected = [-0.5 / 2, -0.5 / (1 + math.exp(0.5 * OF_BASE))]
    assert first.tail.chosen.grad is not None
    assert first.tail.rejected.grad is not None
    assert first.tail.chosen.grad.tolist() == pytest.approx(expected, rel=1e-14)
    assert first.tail.rejected.grad.tolist() == pytest.approx([-slope for slope in expected], rel=1e-14)


def test_epsilon_anchor_and_imitation_are_those_of_the_settings() -> None:
    found = losses([POLICY], [BASE], chosen_tokens=[5], epsilon=0.1, anchor=2.0, imitation_weight=0.3)
    logistic = 0.9 * softplus(-0.5 * OF_BASE) + 0.1 * softplus(0.5 * OF_BASE)
    # The edited tail fell by 1 nat below the base model, to -7; .01 nats a token cost nothing.
    assert found == pytest.approx([logistic + 2.0 * (1 - 0.05) + 0.3 * 7], rel=1e-14)


@pytest.mark.parametrize("margin", ["tail", "changed"])
@pytest.mark.parametrize("imitation_tokens", ["tail", "changed"])
@pytest.mark.parametrize("reference", ["base", "previous"])
def test_margin_and_imitation_are_over_their_own_tokens_and_the_anchor_is_over_the_tail(
    margin: str, imitation_tokens: str, reference: str
) -> None:
    changed, base, previous = Sums(-3.0, -4.0), Sums(-2.5, -1.0), Sums(-2.0, -2.0)
    rule = {"beta": 0.5, "anchor": 2.0, "imitation_weight": 0.3, "rehearsal_weight": 0.1, "acceptance_weight": 0.25}
    rule |= {"margin": margin, "imitation_tokens": imitation_tokens, "reference": reference}
    pairs = ScoredPairs(
        RowSums(tails(POLICY, POLICY, POLICY), tails(changed, changed, changed)),
        [PairSums(BASE, base), None, PairSums(BASE, base)],
        [PairSums(PREVIOUS, previous), None, None],
        [False, True, True],
        [False, False, True],
        [5, 5, 5],
    )
    found = Objective(LearningSettings.model_validate(rule)).losses(pairs)
    h = {
        ("tail", "base"): OF_BASE,
        ("tail", "previous"): OF_PREVIOUS,
        ("changed", "base"): (-3 + 4) - (-2.5 + 1),
        ("changed", "previous"): (-3 + 4) - (-2 + 2),
    }[margin, reference]
    fall = {"base": 1.0, "previous": 0.5}[reference] - 0.05
    imitated = {"tail": 7, "changed": 3}[imitation_tokens]
    edit = softplus(-0.5 * h) + 2.0 * fall + 0.3 * imitated
    assert found.tolist() == pytest.approx([edit, 0.25 * 7, 0.1 * (1 - 0.05)], rel=1e-14)


@pytest.mark.parametrize(("margin", "h"), [("tail", OF_BASE), ("changed", 4.0)])
def test_the_margin_that_the_rule_weighs_is_over_the_tokens_that_it_compares(margin: str, h: float) -> None:
    objective = Objective(LearningSettings.model_validate({"margin": margin}))
    policy, base = PairSums(POLICY, Sums(-1.0, -2.0)), PairSums(BASE, Sums(-4.0, -1.0))
    assert objective.margin(policy, base) == h


def test_an_acceptance_costs_its_weighted_negative_log_probability_beside_edits() -> None:
    found = losses([POLICY, Sums(-4.0, 0.0)], [BASE, None], accepted=[False, True], acceptance_weight=0.25)
    assert found == pytest.approx([softplus(-0.5 * OF_BASE), 0.25 * 4], rel=1e-14)


@pytest.mark.parametrize(("now", "cost"), [(-7.0, 0.1 * (7 - 6 - 0.01 * 5)), (-6.04, 0.0), (-5.0, 0.0)])
def test_a_rehearsed_passage_costs_what_it_fell_below_the_base_model_beyond_a_slack_per_token(
    now: float, cost: float
) -> None:
    found = losses(
        [Sums(-4.0, 0.0), Sums(now, 0.0)],
        [None, Sums(-6.0, 0.0)],
        [None, Sums(-99.0, 0.0)],  # the reference of edits: passages are held to the base model by any rule
        accepted=[True, True],
        rehearsed=[False, True],
        chosen_tokens=[3, 5],
        reference="previous",
        acceptance_weight=0.25,
        rehearsal_weight=0.1,
    )
    assert found == pytest.approx([1.0, cost], rel=1e-14)


def test_a_pair_is_saturated_if_its_gradient_has_less_than_a_tenth_of_the_weight() -> None:
    objective = Objective(LearningSettings(beta=0.5))
    limit = math.log(9) / 0.5  # sigma(-beta h) = 1 / (1 + 9)
    assert not objective.is_saturated(limit - 1e-9)
    assert objective.is_saturated(limit + 1e-9)
    assert not objective.is_saturated(-limit - 1.0)
