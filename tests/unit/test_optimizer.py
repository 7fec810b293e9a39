import pytest
import torch

from corlld.learning.optimizer import adamw_step_, clip_, scaled_lr


def test_ten_steps_with_changing_learning_rates_are_those_of_torch_adamw() -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(17, generator=generator, dtype=torch.float64)
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0)
    ours, exp_avg, exp_avg_sq = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, 11):
        gradient = torch.randn(17, generator=generator, dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = 0.1 / step
        theirs.grad = gradient.clone()
        optimizer.step()
        adamw_step_(ours, gradient, exp_avg, exp_avg_sq, step=step, lr=0.1 / step, beta1=0.8, beta2=0.95, eps=1e-6)
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("length", "kept"), [(5.0, 2.0), (1.5, 1.5)])
def test_only_a_gradient_longer_than_the_limit_is_clipped(length: float, kept: float) -> None:
    gradient = torch.tensor([3.0, 4.0], dtype=torch.float64) * (length / 5)
    norm = clip_(gradient, 2.0)
    assert float(norm) == pytest.approx(length)
    assert gradient.tolist() == pytest.approx([kept * 0.6, kept * 0.8], rel=1e-6)


def test_a_step_of_fewer_pairs_has_a_proportionally_smaller_learning_rate() -> None:
    assert scaled_lr(1e-4, 1, 4) == pytest.approx(2.5e-5)
    assert scaled_lr(1e-4, 4, 4) == 1e-4
