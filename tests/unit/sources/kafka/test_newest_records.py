"""The newest records of a topic, as a sample takes them: an even share of each partition's end."""

import pytest
from kafka import TopicPartition

from corlld.sources.kafka.newest_records import share_out


@pytest.mark.parametrize(
    ("limit", "available", "expected"),
    [
        (9, [100, 100, 100], [3, 3, 3]),
        (10, [100, 100, 100], [3, 3, 4]),
        (10, [0, 100, 2], [0, 8, 2]),
        (100, [5, 0, 7], [5, 0, 7]),
        (1, [1, 1, 5], [0, 0, 1]),
        (3, [], []),
    ],
)
def test_partitions_share_a_sample_evenly_and_full_ones_take_what_empty_ones_leave(
    limit: int, available: list[int], expected: list[int]
) -> None:
    shares = share_out(limit, {TopicPartition("edits", number): count for number, count in enumerate(available)})
    assert [shares[TopicPartition("edits", number)] for number in range(len(available))] == expected
