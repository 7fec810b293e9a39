import pytest
import torch

from corlld.learning.optimizer import adamw_step_, clip_, scaled_lr

USERS, SIZE = 3, 17


def test_users_that_step_together_at_their_own_step_and_rate_are_those_of_torch_adamw() -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(USERS, SIZE, generator=generator, dtype=torch.float64)
    theirs = [torch.nn.Parameter(vector.clone()) for vector in start]
    optimizers = [
        torch.optim.AdamW([vector], lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.0) for vector in theirs
    ]
    ours, exp_avg, exp_avg_sq = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    steps = [0] * USERS
    for turn in range(1, 11):
        # The users' step numbers grow apart: each is left out of every so many turns.
        present = [user for user in range(USERS) if turn % (user + 2)]
        gradient = torch.randn(len(present), SIZE, generator=generator, dtype=torch.float64)
        rates = [0.1 * (user + 1) / turn for user in present]
        for user, vector, rate in zip(present, gradient, rates, strict=True):
            steps[user] += 1
            optimizers[user].param_groups[0]["lr"] = rate
            theirs[user].grad = vector.clone()
            optimizers[user].step()
        gathered = [tensor[present] for tensor in (ours, exp_avg, exp_avg_sq)]
        adamw_step_(
            gathered[0],
            gradient,
            *gathered[1:],
            steps=[steps[user] for user in present],
            lr=rates,
            beta1=0.8,
            beta2=0.95,
            eps=1e-6,
        )
        for tensor, new in zip((ours, exp_avg, exp_avg_sq), gathered, strict=True):
            tensor[present] = new
    assert len(set(steps)) == USERS
    torch.testing.assert_close(ours, torch.stack([vector.detach() for vector in theirs]), rtol=0, atol=1e-14)
    for user, optimizer in enumerate(optimizers):
        state = optimizer.state[theirs[user]]
        torch.testing.assert_close(exp_avg[user], state["exp_avg"], rtol=0, atol=1e-14)
        torch.testing.assert_close(exp_avg_sq[user], state["exp_avg_sq"], rtol=0, atol=1e-14)


def test_only_a_users_gradient_that_is_longer_than_the_limit_is_clipped() -> None:
    direction = torch.tensor([0.6, 0.8], dtype=torch.float64)
    gradient = torch.stack([5.0 * direction, 1.5 * direction])
    norms = clip_(gradient, 2.0)
    assert norms.tolist() == pytest.approx([5.0, 1.5])
    assert gradient[0].tolist() == pytest.approx((2.0 * direction).tolist(), rel=1e-6)
    assert gradient[1].tolist() == pytest.approx((1.5 * direction).tolist(), rel=1e-12)


def test_a_step_of_fewer_pairs_has_a_proportionally_smaller_learning_rate() -> None:
    assert scaled_lr(1e-4, 1, 4) == pytest.approx(2.5e-5)
    assert scaled_lr(1e-4, 4, 4) == 1e-4
