"""A read of the dead-letter topic that can't come to its end says so in a sentence."""

from collections.abc import Iterator
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import UnsupportedCodecError

from corlld.errors import ExitCode, FatalError, UnavailableError
from corlld.records import Record
from corlld.sources.kafka import letter_topic
from corlld.sources.kafka.unpacking import UnreadableBatch

PLACE = TopicPartition("dead", 2)


class Reader:
    """Reads as `read` says."""

    def __init__(self, polls: list[list[Record]], error: Exception | None = None) -> None:
        self._polls = polls
        self._error = error

    def read(self, starts: Any, ends: Any) -> Iterator[list[Record]]:
        yield from self._polls
        if self._error is not None:
            raise self._error


def read(reader: Any) -> list[Any]:
    return list(letter_topic._letters(reader, "dead", {PLACE: 0}, {PLACE: 9}))


def test_a_topic_that_brings_nothing_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(Reader([[], []])) == []
    monkeypatch.setattr(letter_topic, "STALLED_SECONDS", -1.0)
    with pytest.raises(UnavailableError, match="topic dead brought nothing for"):
        read(Reader([[]]))


def test_a_damaged_batch_is_named_with_the_way_around_it() -> None:
    error = UnreadableBatch(PLACE, 5)
    error.__cause__ = ValueError("a text of a user")
    with pytest.raises(FatalError, match=r"^the batch at offset 5 of dead:2 is damaged: --since ") as refused:
        read(Reader([], error))
    assert refused.value.exit_code is ExitCode.DATA


def test_a_codec_that_is_missing_is_left_to_who_knows_the_package() -> None:
    error = UnreadableBatch(PLACE, 5)
    error.__cause__ = UnsupportedCodecError()
    with pytest.raises(UnreadableBatch):
        read(Reader([], error))
