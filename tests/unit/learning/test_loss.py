import math

import pytest
import torch

from corlld.learning.loss import SLACK_NATS, corll_loss, fall_loss, imitation_loss, margin


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_loss_is_the_formula_of_two_log_sigmoids() -> None:
    chosen, rejected, ref_chosen, ref_rejected = -7.0, -9.0, -6.0, -5.0
    beta, epsilon = 0.5, 0.1
    h = (chosen - rejected) - (ref_chosen - ref_rejected)  # 2 - (-1) = 3

    def log_sigmoid(x: float) -> float:
        return -math.log(1 + math.exp(-x))

    expected = -(1 - epsilon) * log_sigmoid(beta * h) - epsilon * log_sigmoid(-beta * h)

    tails = (column(x) for x in (chosen, rejected, ref_chosen, ref_rejected))
    losses, margins = corll_loss(*tails, beta=beta, epsilon=epsilon)
    assert margins.tolist() == [3.0]
    assert losses.item() == pytest.approx(expected, rel=1e-14)


def test_a_fall_costs_its_weight_beyond_a_slack_per_token_and_nothing_before_that() -> None:
    now, tokens = column(-6.0, -6.0, -4.0), torch.tensor([10, 60, 10])
    slack = 10 * SLACK_NATS
    assert fall_loss(now, column(-5.0, -5.5, -5.0), tokens, 5.0).tolist() == pytest.approx([5 * (1 - slack), 0, 0])


@pytest.mark.parametrize("rounding", [-1e-6, 0.0, 1e-6])
def test_at_the_reference_the_anchor_has_no_gradient_whichever_way_rounding_goes(rounding: float) -> None:
    now = column(-5.0 + rounding).requires_grad_()
    torch.autograd.backward(fall_loss(now, column(-5.0), torch.tensor([1]), 0.5))
    assert now.grad is not None
    assert now.grad.item() == 0


def test_with_smoothing_the_best_margin_is_log_odds_over_beta() -> None:
    beta, epsilon = 0.1, 0.2
    best = math.log((1 - epsilon) / epsilon) / beta
    chosen = column(best).requires_grad_()
    zero = column(0.0)
    torch.autograd.backward(corll_loss(chosen, zero, zero, zero, beta=beta, epsilon=epsilon).losses)
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(0.0, abs=1e-15)


def test_large_margins_stay_finite_on_both_sides() -> None:
    chosen = column(1e6, -1e6)
    zero = torch.zeros_like(chosen)
    losses, _ = corll_loss(chosen, zero, zero, zero, beta=1.0, epsilon=0.1)
    assert losses.tolist() == pytest.approx([1e5, 9e5])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        corll_loss(column(1, 2), column(1), column(1, 2), column(1, 2), beta=0.1)


def test_margin_is_exactly_zero_where_policy_and_reference_are_one() -> None:
    chosen, rejected = column(-31.7, 0.1), column(-12.3, 1e-9)
    assert margin(chosen, rejected, chosen, rejected).tolist() == [0.0, 0.0]


def test_what_is_imitated_costs_its_weighted_negative_log_probability() -> None:
    assert imitation_loss(column(-4.0, -2.0), 0.25).tolist() == [1.0, 0.5]


def test_perceptron_identity_an_sgd_step_on_a_log_linear_policy_is_a_weighted_preference_perceptron() -> None:
    """If pi ~ pi_0 exp(theta phi), h = theta (phi(edited) - phi(proposed)), and theta moves along that difference."""
    generator = torch.Generator().manual_seed(3)
    texts, features = 6, 4
    phi = torch.randn(texts, features, generator=generator, dtype=torch.float64)
    base_logits = torch.randn(texts, generator=generator, dtype=torch.float64)
    theta = torch.randn(features, generator=generator, dtype=torch.float64).requires_grad_()
    edited, proposed, beta, eta = 4, 1, 0.7, 0.3

    logps = (base_logits + phi @ theta).log_softmax(0)
    reference = base_logits.log_softmax(0)
    losses, margins = corll_loss(
        logps[[edited]], logps[[proposed]], reference[[edited]], reference[[proposed]], beta=beta
    )
    (gradient,) = torch.autograd.grad(losses.mean(), theta)
    stepped = theta.detach() - eta * gradient

    difference = phi[edited] - phi[proposed]
    h = float(theta.detach() @ difference)
    assert margins.item() == pytest.approx(h, abs=1e-12)
    expected = theta.detach() + eta * beta / (1 + math.exp(beta * h)) * difference
    torch.testing.assert_close(stepped, expected, rtol=0, atol=1e-12)


def test_with_reference_previous_the_first_gradient_is_half_beta_of_the_plain_difference() -> None:
    """-(beta / 2)(1 - 2 epsilon) grad [log pi(edited) - log pi(proposed)]; the anchor adds 0."""
    beta, epsilon = 0.4, 0.15
    chosen, rejected = column(-5.0).requires_grad_(), column(-6.0).requires_grad_()
    references = chosen.detach(), rejected.detach()
    anchored = fall_loss(chosen, references[0], torch.tensor([3]), 3.0)
    torch.autograd.backward(corll_loss(chosen, rejected, *references, beta=beta, epsilon=epsilon).losses + anchored)
    assert chosen.grad is not None
    assert rejected.grad is not None
    expected = -beta / 2 * (1 - 2 * epsilon)
    assert chosen.grad.item() == pytest.approx(expected, rel=1e-14)
    assert rejected.grad.item() == pytest.approx(-expected, rel=1e-14)
