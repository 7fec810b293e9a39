"""Running means."""

from corlld.simulation.drawing import running_mean


def test_a_running_mean_begins_with_fewer_values() -> None:
    assert running_mean([4.0, 2.0, 0.0], window=2) == [4.0, 3.0, 1.0]
