"""Where a group began to read is kept beside the states, and outlasts its commits."""

import json

import pytest

from corlld.errors import RetriableError
from corlld.sources.kafka.first_offsets import FirstOffsets
from tests.support.fakes import MemoryPositions


def loaded(positions: MemoryPositions | None, topic: str = "id", *, has_commits: bool = False) -> FirstOffsets:
    offsets = FirstOffsets(positions)
    offsets.load(topic, has_commits=has_commits)
    return offsets


def test_a_group_is_new_only_if_neither_commits_nor_offsets_nor_states_tell_otherwise() -> None:
    positions = MemoryPositions()
    assert loaded(positions).is_new
    assert not loaded(positions, has_commits=True).is_new
    positions.applied.add("id")
    assert not loaded(positions).is_new, "a store of before there were such offsets"
    assert loaded(positions, "another id").is_new
    loaded(positions, "another id").note({0: 7})
    assert not loaded(positions, "another id").is_new


def test_offsets_are_found_again_under_their_topic() -> None:
    positions = MemoryPositions()
    loaded(positions).note({0: 7, 11: 0})
    assert loaded(positions).known == {0: 7, 11: 0}
    assert loaded(positions, "another id").known == {}


def test_an_offset_that_is_known_stays_and_is_not_written_again() -> None:
    positions = MemoryPositions()
    offsets = loaded(positions)
    offsets.note({0: 7})
    positions.fails = True
    offsets.note({0: 7})
    offsets.note({0: 30})
    assert offsets.known == {0: 7}
    with pytest.raises(RetriableError):
        offsets.note({0: 30, 1: 2})


def test_a_group_that_was_reset_to_an_earlier_offset_begins_there() -> None:
    positions = MemoryPositions()
    loaded(positions).note({0: 7})
    loaded(positions).note({0: 3})
    assert loaded(positions).known == {0: 3}


def test_what_another_member_noted_meanwhile_stays() -> None:
    positions = MemoryPositions()
    one, other = loaded(positions), loaded(positions)
    one.note({0: 7, 1: 5})
    other.note({1: 9, 2: 8})
    assert other.known == loaded(positions).known == {0: 7, 1: 5, 2: 8}
    assert len(positions.saved) == 1
    assert json.loads(next(iter(positions.saved.values()))) == {"0": 7, "1": 5, "2": 8}


def test_a_reader_that_keeps_no_states_keeps_none() -> None:
    offsets = loaded(None)
    offsets.note({0: 7})
    assert (offsets.known, offsets.is_new) == ({}, True)
