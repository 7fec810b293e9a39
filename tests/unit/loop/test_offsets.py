"""The low watermark never passes an unfinished offset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corlld.loop.offsets import LowWatermark, LowWatermarks
from tests.support.fakes import record, tenure


@st.composite
def interleavings(draw: st.DrawFn) -> list[tuple[str, int]]:
    """Starts in increasing order (with gaps, as transaction markers leave) and finishes in any order after them."""
    gaps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=30))
    offsets = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    steps: list[tuple[str, int]] = []
    pending = list(offsets)
    open_offsets: list[int] = []
    while pending or open_offsets:
        if pending and (not open_offsets or draw(st.booleans())):
            open_offsets.append(pending[0])
            steps.append(("start", pending.pop(0)))
        elif draw(st.integers(0, 9)) == 0:
            break  # some never finish
        else:
            steps.append(("finish", open_offsets.pop(draw(st.integers(0, len(open_offsets) - 1)))))
    return steps


@given(interleavings())
def test_the_committable_offset_is_the_smallest_unfinished_one_after_every_step(steps: list[tuple[str, int]]) -> None:
    watermark = LowWatermark()
    unfinished: set[int] = set()
    position = 0
    last = 0
    for verb, offset in steps:
        if verb == "start":
            watermark.start(offset, 0.0)
            unfinished.add(offset)
            position = offset + 1
        else:
            watermark.finish(offset)
            unfinished.discard(offset)
        committable = watermark.committable(position)
        assert committable == (min(unfinished) if unfinished else position)
        assert committable >= last, "what was committed is never taken back"
        last = committable
        assert watermark.unfinished == len(unfinished)


def test_with_nothing_unfinished_the_position_is_committed_past_transaction_markers() -> None:
    watermark = LowWatermark()
    watermark.start(4, 0.0)
    watermark.finish(4)
    assert watermark.committable(position=7) == 7


def test_finishing_twice_or_unknown_is_an_error() -> None:
    watermark = LowWatermark()
    watermark.start(1, 0.0)
    watermark.finish(1)
    with pytest.raises(KeyError):
        watermark.finish(1)


def test_offsets_must_increase() -> None:
    watermark = LowWatermark()
    watermark.start(3, 0.0)
    with pytest.raises(ValueError, match="offset 3 started after 3"):
        watermark.start(3, 0.0)


def test_outcomes_of_an_ended_tenure_are_ignored_and_it_is_not_committed() -> None:
    watermarks = LowWatermarks()
    first, second = tenure(number=1), tenure(number=2)
    watermarks.begin(first)
    watermarks.start(record(0, first), 0.0)
    watermarks.end(first)
    watermarks.begin(second)
    watermarks.start(record(0, second), 0.0)
    watermarks.finish(record(0, first))
    assert watermarks.committable({first: 1, second: 1}) == {second: 0}
    watermarks.finish(record(0, second))
    assert watermarks.committable({second: 1}) == {second: 1}


def test_the_age_is_that_of_the_oldest_unfinished_record_since_it_was_read() -> None:
    watermarks = LowWatermarks()
    one, idle = tenure(0), tenure(1, number=2)
    watermarks.begin(one)
    watermarks.begin(idle)
    for offset in range(3):
        watermarks.start(record(offset, one), 10.0 + offset)
    watermarks.finish(record(1, one))
    assert watermarks.ages_seconds(20.0) == {one: 10.0, idle: 0.0}
    watermarks.finish(record(0, one))
    assert watermarks.ages_seconds(20.0) == {one: 8.0, idle: 0.0}
    watermarks.finish(record(2, one))
    assert watermarks.ages_seconds(20.0) == {one: 0.0, idle: 0.0}
    watermarks.end(one)
    assert watermarks.ages_seconds(20.0) == {idle: 0.0}


def test_what_is_finished_behind_an_unfinished_record_is_counted_and_forgotten_when_the_watermark_moves() -> None:
    marks = LowWatermarks()
    marks.begin(tenure())
    for offset in range(5):
        marks.start(record(offset), 0.0)
    for offset in range(1, 4):
        marks.finish(record(offset))
    assert marks.held_up(3) == [tenure()]
    assert marks.held_up(4) == []
    marks.finish(record(0))
    assert marks.held_up(1) == []
