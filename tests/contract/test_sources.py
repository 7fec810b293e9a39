"""One suite for every source: what the loop may rely on, whether the input is a file or a real topic."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from corlld.protocols import Source
from corlld.sources.jsonl.source import JsonlSource
from corlld.sources.kafka.source import KafkaSource
from tests.support.edits import edit
from tests.support.fakes import MemoryPositions
from tests.support.kafka.broker import KafkaCluster
from tests.support.kafka.topics import Reader, kafka_settings, produce, unique

VALUES = [json.dumps(edit(n)).encode() for n in range(6)]


class Input(Protocol):
    def write(self, values: list[bytes]) -> None: ...

    def source(self) -> Source: ...


class JsonlInput:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "edits.jsonl"
        self._path.touch()
        self._positions = MemoryPositions()

    def write(self, values: list[bytes]) -> None:
        with self._path.open("ab") as file:
            file.writelines(value + b"\n" for value in values)

    def source(self) -> Source:
        return JsonlSource(self._path, follow=True, positions=self._positions)


class KafkaInput:
    def __init__(self, cluster: KafkaCluster) -> None:
        self._settings = kafka_settings(cluster.bootstrap, unique("edits"))
        cluster.create_topic(self._settings.topic, 1)

    def write(self, values: list[bytes]) -> None:
        produce(self._settings.bootstrap_servers[0], self._settings.topic, {0: values})

    def source(self) -> Source:
        return KafkaSource(self._settings)


@pytest.fixture(params=["jsonl", "kafka"])
def the_input(request: pytest.FixtureRequest, tmp_path: Path) -> Input:
    if request.param == "jsonl":
        return JsonlInput(tmp_path)
    return KafkaInput(request.getfixturevalue("kafka_broker"))


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Reader]:
    source.start(30)
    reader = Reader(source)
    try:
        yield reader
    finally:
        source.close({}, 10)


def test_records_come_in_order_and_each_ends_where_the_next_begins(the_input: Input) -> None:
    the_input.write(VALUES)
    with opened(the_input.source()) as reader:
        records = reader.read(len(VALUES))
    assert [record.value for record in records] == VALUES
    assert [record.next_offset for record in records[:-1]] == [record.offset for record in records[1:]]
    assert records[0].offset == records[0].tenure.start_offset == 0


def test_one_tenure_begins_before_its_first_record(the_input: Input) -> None:
    the_input.write(VALUES)
    with opened(the_input.source()) as reader:
        reader.read(len(VALUES))
        assert reader.begun == [reader.records[0].tenure]
        assert reader.ended == []
        assert len(reader.begun[0].partition.topic_id) == 32


def test_the_position_is_the_end_of_what_was_delivered(the_input: Input) -> None:
    the_input.write(VALUES[:2])
    with opened(the_input.source()) as reader:
        assert reader.source.positions() == {}
        records = reader.read(2)
        assert reader.source.positions() == {records[0].tenure: records[-1].next_offset}
        the_input.write(VALUES[2:])
        assert reader.source.positions() == {records[0].tenure: records[1].next_offset}
        reader.read(len(VALUES))
        assert reader.source.positions() == {records[0].tenure: records[-1].next_offset}


def test_a_paused_source_delivers_nothing_and_then_goes_on_where_it_was(the_input: Input) -> None:
    the_input.write(VALUES[:3])
    with opened(the_input.source()) as reader:
        reader.read(3)
        reader.source.pause_only(reader.begun)
        reader.source.pause_only(reader.begun)
        position = reader.source.positions()
        the_input.write(VALUES[3:])
        for _ in range(10):
            assert reader.poll().records == ()
        assert reader.source.positions() == position
        reader.source.pause_only(())
        reader.source.pause_only(())
        reader.read(len(VALUES))
    assert reader.values() == VALUES


def test_a_tenure_that_is_paused_as_it_begins_delivers_nothing(the_input: Input) -> None:
    the_input.write(VALUES)
    with opened(the_input.source()) as reader:
        reader.poll_until(lambda: bool(reader.begun), "the tenure begins")
        reader.source.pause_only(reader.begun)
        assert reader.records == []
        for _ in range(10):
            assert reader.poll().records == ()
        reader.source.pause_only(())
        reader.read(len(VALUES))


def test_a_restart_goes_on_at_the_commit_and_delivers_again_what_was_not_committed(the_input: Input) -> None:
    the_input.write(VALUES)
    with opened(the_input.source()) as reader:
        assert not reader.source.has_commits()
        first = reader.read(len(VALUES))
        reader.commit({first[0].tenure: first[3].next_offset})
    with opened(the_input.source()) as reader:
        assert reader.source.has_commits()
        again = reader.read(2)
        assert reader.source.committed() == {again[0].tenure: first[3].next_offset}
        for _ in range(5):
            reader.poll()
    assert reader.values() == VALUES[4:]
    assert again[0].offset == again[0].tenure.start_offset == first[3].next_offset
    assert again[0].tenure.partition == first[0].tenure.partition


def test_the_last_commit_of_close_counts(the_input: Input) -> None:
    the_input.write(VALUES)
    source = the_input.source()
    source.start(30)
    records = Reader(source).read(len(VALUES))
    source.close({records[0].tenure: records[4].next_offset}, 10)
    with opened(the_input.source()) as reader:
        reader.read(1)
    assert reader.values() == VALUES[5:]


def test_only_the_present_tenure_can_be_committed(the_input: Input) -> None:
    the_input.write(VALUES)
    with opened(the_input.source()) as reader:
        earlier = reader.read(len(VALUES))
    with opened(the_input.source()) as reader:
        reader.read(len(VALUES))
        stranger = type(earlier[0].tenure)(earlier[0].tenure.partition, 999, 0)
        assert not reader.source.commit({stranger: earlier[-1].next_offset})
        assert reader.source.committed() == {reader.begun[0]: 0}


def test_what_is_committed_is_known_from_the_beginning(the_input: Input) -> None:
    the_input.write(VALUES)
    with opened(the_input.source()) as reader:
        reader.poll_until(lambda: bool(reader.begun), "the tenure begins")
        assert reader.source.committed() == {reader.begun[0]: 0}


def test_the_end_is_known_also_while_reading_is_paused_and_a_source_read_to_it_has_no_lag(the_input: Input) -> None:
    the_input.write(VALUES[:3])
    with opened(the_input.source()) as reader:
        assert reader.source.ends() == {}
        records = reader.read(3)
        live = records[0].tenure
        reader.poll_until(lambda: reader.source.ends() == reader.source.positions(), "the end is known")
        reader.source.pause_only([live])
        the_input.write(VALUES[3:])
        reader.poll_until(lambda: reader.source.ends()[live] > records[-1].next_offset, "the end moves")
        reader.source.pause_only(())
        reader.read(len(VALUES))
        reader.poll_until(lambda: reader.source.ends() == reader.source.positions(), "the end is reached")
        reader.commit(reader.source.positions())
        assert reader.source.ends() == reader.source.committed()


def test_a_source_that_is_followed_is_never_exhausted(the_input: Input) -> None:
    the_input.write(VALUES)
    with opened(the_input.source()) as reader:
        reader.read(len(VALUES))
        for _ in range(3):
            reader.poll()
        assert not reader.source.exhausted
        assert reader.source.healthy
        assert reader.source.cluster_id


def test_a_file_that_is_not_followed_is_exhausted_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(b"".join(value + b"\n" for value in VALUES))
    with opened(JsonlSource(path, follow=False, positions=MemoryPositions())) as reader:
        reader.poll_until(lambda: reader.source.exhausted, "the end is reached")
    assert reader.values() == VALUES
