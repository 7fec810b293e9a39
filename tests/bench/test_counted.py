"""The counts of what a round computes."""

import pytest
import torch

from corlld.bench.counted import count_operations, operations_over_minimum, padding_share
from corlld.errors import FatalError


def test_products_in_place_and_in_groups_are_counted_as_well() -> None:
    a, b, into = torch.ones(3, 4), torch.ones(4, 5), torch.ones(3, 5)
    assert count_operations(lambda: a @ b) == 2 * 3 * 4 * 5
    assert count_operations(lambda: into.addmm_(a, b)) == 2 * 3 * 4 * 5
    assert count_operations(lambda: into.expand(2, 3, 5).clone().baddbmm_(a.expand(2, 3, 4), b.expand(2, 4, 5))) == (
        2 * 2 * 3 * 4 * 5
    )


def test_what_the_counter_cannot_have_seen_whole_is_no_figure() -> None:
    a = torch.ones(10, 10)
    assert operations_over_minimum(lambda: a @ a, 1600) == 2000 / 1600
    with pytest.raises(FatalError, match=r"saw 0\.50 of the minimum"):
        operations_over_minimum(lambda: a @ a, 4000)


def test_padding_is_what_is_looked_up_beyond_what_is_needed() -> None:
    embedding = torch.nn.Embedding(11, 2)
    other = torch.nn.Embedding(5, 2)  # positions, of another size

    def work() -> None:
        embedding(torch.zeros(2, 10, dtype=torch.long))
        other(torch.zeros(100, dtype=torch.long))

    assert padding_share(work, 11, needed=15) == 1 - 15 / 20
    with pytest.raises(FatalError, match="20 tokens were looked up, but 21 are needed"):
        padding_share(work, 11, needed=21)
