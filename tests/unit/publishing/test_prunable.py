"""Which versions of a user may be removed: by their number, and by the time since when they are superseded."""

from corlld.publishing.target import prunable


def test_both_must_hold() -> None:
    completed = {1: 10.0, 2: 20.0, 3: 30.0, 4: 40.0}  # superseded at 20, 30, 40, never
    assert prunable(completed, keep_versions=1, superseded_until=30) == [1, 2]
    assert prunable(completed, keep_versions=3, superseded_until=30) == [1]
    assert prunable(completed, keep_versions=4, superseded_until=30) == []
    assert prunable(completed, keep_versions=1, superseded_until=19) == []
    assert prunable(completed, keep_versions=1, superseded_until=1e9) == [1, 2, 3]


def test_a_half_version_supersedes_nothing_and_is_due_at_any_age() -> None:
    assert prunable({1: 10.0, 2: None, 3: 30.0}, keep_versions=1, superseded_until=29) == [2]
    assert prunable({1: 10.0, 2: None, 3: 30.0}, keep_versions=1, superseded_until=30) == [1, 2]
    assert prunable({1: 10.0, 2: None}, keep_versions=1, superseded_until=1e9) == []


def test_nobody_has_nothing_to_remove() -> None:
    assert prunable({}, keep_versions=1, superseded_until=1e9) == []
