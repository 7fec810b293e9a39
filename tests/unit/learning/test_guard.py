import math

import pytest
import torch

from corlld.learning.guard import all_finite, drift_nats, is_due, within


def test_drift_is_the_mean_absolute_change_per_tail_token() -> None:
    assert drift_nats(torch.tensor([-0.5, 1.0, 0.0])) == pytest.approx((0.5 + 1.0 + 0.0) / 3)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_no_limit_allows_a_drift_that_is_not_finite(wrong: float) -> None:
    drift = drift_nats(torch.tensor([0.0, wrong]))
    assert not within(drift, 1e9)


def test_the_limit_itself_is_allowed() -> None:
    assert within(1.0, 1.0)
    assert not within(1.0 + 1e-9, 1.0)


def test_drift_is_due_every_so_many_steps_of_a_user() -> None:
    assert [step for step in range(1, 8) if is_due(step, 3)] == [3, 6]
    assert all(is_due(step, 1) for step in range(1, 8))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_in_any_tensor_tells_whose_it_is(wrong: float) -> None:
    one, other = torch.ones(3, 4), torch.full((3, 1), 1e38)
    assert all_finite(one, other).tolist() == [True, True, True]
    one[2, 1], other[0, 0] = wrong, wrong
    assert all_finite(one, other).tolist() == [False, True, False]
