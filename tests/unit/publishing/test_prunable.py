"""Which versions of a user may be removed: by their number, and by the time since when they are superseded."""

from corlld.publishing.target import prunable


def due(completed: dict[int, float | None], keep_versions: int, superseded_until: float) -> list[int]:
    return prunable(completed, completed.__getitem__, keep_versions, superseded_until)


def test_both_must_hold() -> None:
    completed: dict[int, float | None] = {1: 10.0, 2: 20.0, 3: 30.0, 4: 40.0}  # superseded at 20, 30, 40, never
    assert due(completed, keep_versions=1, superseded_until=30) == [1, 2]
    assert due(completed, keep_versions=3, superseded_until=30) == [1]
    assert due(completed, keep_versions=4, superseded_until=30) == []
    assert due(completed, keep_versions=1, superseded_until=19) == []
    assert due(completed, keep_versions=1, superseded_until=1e9) == [1, 2, 3]


def test_a_half_version_supersedes_nothing_and_is_due_at_any_age() -> None:
    assert due({1: 10.0, 2: None, 3: 30.0}, keep_versions=1, superseded_until=29) == [2]
    assert due({1: 10.0, 2: None, 3: 30.0}, keep_versions=1, superseded_until=30) == [1, 2]
    assert due({1: 10.0, 2: None}, keep_versions=1, superseded_until=1e9) == []


def test_nobody_has_nothing_to_remove() -> None:
    assert due({}, keep_versions=1, superseded_until=1e9) == []


def test_of_many_young_versions_only_the_oldest_are_asked_for_their_age() -> None:
    asked: list[int] = []

    def completed(version: int) -> float:
        asked.append(version)
        return 10.0 * version

    assert prunable(range(1, 1001), completed, keep_versions=3, superseded_until=45) == [1, 2, 3]
    assert asked == [1, 2, 3, 4, 5]
    asked.clear()
    assert prunable(range(1, 1001), completed, keep_versions=998, superseded_until=1e9) == [1, 2]
    assert asked == [1, 2, 3]
