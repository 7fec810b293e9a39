"""One suite for every kind of input: what the assembly and `corlld check` may rely on, and that only they choose."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, get_args

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

import corlld
from corlld.assembly import INPUTS, build_input
from corlld.errors import InvalidEvent, InvalidReason
from corlld.protocols import Source
from corlld.records import DeadLetter, Record
from corlld.settings.sections import Settings, SourceSettings
from corlld.settings.words import KEYS
from corlld.sources.dead_letters import letter_key
from tests.support.edits import edit
from tests.support.fakes import MemoryPositions
from tests.support.kafka.broker import KafkaCluster
from tests.support.kafka.topics import Reader, kafka_settings, unique

KINDS = get_args(SourceSettings.model_fields["kind"].annotation)
VALUES = [json.dumps(edit(n)).encode() for n in range(6)]
PATIENCE_SECONDS = 30.0


class Site(Protocol):
    """An input that is there, with the settings that name it."""

    settings: Settings
    servers: tuple[str, ...]
    dead_letter_place: str

    def write(self, values: list[bytes]) -> None: ...

    def dead_letter_keys(self, count: int) -> list[str]:
        """The keys of the dead letters that are there. Fails if they are not `count`."""


class JsonlSite:
    servers = ()

    def __init__(self, folder: Path) -> None:
        self._file = folder / "edits.jsonl"
        self._file.touch()
        self._letters = folder / "state" / "dead-letters.jsonl"  # beside the states, unless the settings say otherwise
        self.dead_letter_place = f"file {self._letters}"
        source = {"kind": "jsonl", "path": self._file, "follow": True}
        self.settings = Settings.model_validate({"source": source, "state": {"path": folder / "state"}})

    def write(self, values: list[bytes]) -> None:
        with self._file.open("ab") as file:
            file.writelines(value + b"\n" for value in values)

    def dead_letter_keys(self, count: int) -> list[str]:
        lines = self._letters.read_text().splitlines() if self._letters.exists() else []
        assert len(lines) == count
        return [json.loads(line)["key"] for line in lines]


class KafkaSite:
    def __init__(self, cluster: KafkaCluster) -> None:
        kafka = kafka_settings(cluster.bootstrap, unique("edits"))
        self._topic, self._dead_topic = kafka.topic, f"{kafka.topic}.dead"
        self.servers = kafka.bootstrap_servers
        self.dead_letter_place = f"topic {self._dead_topic}"
        self.settings = Settings.model_validate({"kafka": kafka, "dead_letters": {"topic": self._dead_topic}})
        for topic in (self._topic, self._dead_topic):
            cluster.create_topic(topic, 1)

    def write(self, values: list[bytes]) -> None:
        with KafkaProducer(bootstrap_servers=self.servers) as producer:
            for sent in [producer.send(self._topic, value, key=b"ann") for value in values]:
                sent.get(PATIENCE_SECONDS)

    def dead_letter_keys(self, count: int) -> list[str]:
        place = TopicPartition(self._dead_topic, 0)
        with KafkaConsumer(bootstrap_servers=self.servers, auto_offset_reset="earliest") as consumer:
            assert consumer.end_offsets([place])[place] == count  # each was acknowledged
            consumer.assign([place])
            keys: list[str] = []
            while len(keys) < count:
                keys += [record.key.decode() for batch in consumer.poll(100).values() for record in batch]
            return keys


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    if request.param == "jsonl":
        return JsonlSite(tmp_path)
    assert request.param == "kafka", "a new kind needs a site here"
    return KafkaSite(request.getfixturevalue("kafka_broker"))


@contextmanager
def started(source: Source) -> Iterator[Reader]:
    source.start(PATIENCE_SECONDS)
    try:
        yield Reader(source)
    finally:
        source.close({}, 10)


def newest(site: Site, limit: int) -> list[Record]:
    return list(build_input(site.settings).newest_records(limit, PATIENCE_SECONDS))


def commit_all(site: Site, positions: MemoryPositions) -> None:
    with started(build_input(site.settings).source(positions)) as reader:
        records = reader.read(len(VALUES))
        reader.commit({records[0].tenure: records[-1].next_offset})


# Settings


def test_every_kind_that_the_settings_allow_has_an_input_of_that_kind() -> None:
    assert set(INPUTS) == set(KINDS)
    for kind in KINDS:
        assert build_input(Settings.model_validate({"source": {"kind": kind}})).kind == kind


def test_settings_of_an_input_that_is_there_lack_nothing(site: Site) -> None:
    assert build_input(site.settings).problems() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_an_input_that_nothing_was_set_for_names_each_setting_in_one_line(kind: str) -> None:
    problems = build_input(Settings.model_validate({"source": {"kind": kind}})).problems()
    assert problems
    assert {tuple(setting.split(".")) for setting in problems} <= set(KEYS)
    for problem in problems.values():
        assert f"needed for source.kind {kind}: " in problem
        assert "\n" not in problem


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (
            {"source": {"kind": "kafka"}},
            {"kafka.bootstrap_servers": "not set, needed for source.kind kafka: `host:port` of one or more brokers"},
        ),
        (
            {"source": {"path": "e"}, "kafka": {"bootstrap_servers": ["broker:9092"]}},
            {"source.path": "set, allowed: only with source.kind jsonl (it is kafka)"},
        ),
        ({"source": {"kind": "kafka", "path": "e"}, "kafka": {"bootstrap_servers": ["broker:9092"]}}, {}),
        (
            {"source": {"kind": "jsonl"}, "state": {"url": "s3://states"}},
            {
                "source.path": "not set, needed for source.kind jsonl: the file to read",
                "dead_letters.path": "not set, needed for source.kind jsonl if states are in state.url: a file",
            },
        ),
    ],
)
def test_what_an_input_lacks_is_said_in_the_order_of_its_need(settings: dict[str, Any], found: dict[str, str]) -> None:
    assert list(build_input(Settings.model_validate(settings)).problems().items()) == list(found.items())


def test_no_package_of_a_bus_is_imported_to_look_at_settings() -> None:
    script = f"""
import sys
from corlld.assembly import build_input
from corlld.settings.sections import Settings
for kind in {KINDS}:
    the_input = build_input(Settings.model_validate({{"source": {{"kind": kind}}}}))
    the_input.problems(), the_input.has_keys, the_input.group, the_input.servers
sys.exit("kafka" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# Records


def test_servers_are_those_that_records_are_read_from(site: Site) -> None:
    assert build_input(site.settings).servers == site.servers


def test_the_source_delivers_what_was_written_with_keys_if_the_input_has_them(site: Site) -> None:
    site.write(VALUES)
    the_input = build_input(site.settings)
    with started(the_input.source(MemoryPositions())) as reader:
        records = reader.read(len(VALUES))
    assert [record.value for record in records] == VALUES
    assert {record.key is not None for record in records} == {the_input.has_keys}


def test_what_is_said_of_an_input_tells_whether_its_group_is_new(site: Site) -> None:
    site.write(VALUES)
    positions, the_input = MemoryPositions(), build_input(site.settings)
    with started(the_input.source(positions)) as reader:
        new = the_input.describe(reader.source)
    commit_all(site, positions)
    with started(the_input.source(positions)) as reader:
        known = the_input.describe(reader.source)
    assert new.endswith(" is new")
    assert known == new.removesuffix("is new") + "has committed before"


def test_the_newest_records_are_the_last_that_were_written(site: Site) -> None:
    assert newest(site, 3) == []
    site.write(VALUES)
    assert [record.value for record in newest(site, 4)] == VALUES[-4:]
    assert [record.value for record in newest(site, 100)] == VALUES


def test_a_look_at_the_newest_records_disturbs_no_reader_and_leaves_no_commit(site: Site) -> None:
    site.write(VALUES)
    the_input, positions = build_input(site.settings), MemoryPositions()
    with started(the_input.source(positions)) as reader:
        with closing(the_input.newest_records(4, PATIENCE_SECONDS)) as records:
            first = next(records)  # and the look ends early
        assert first.value == VALUES[-4]
        assert not reader.source.has_commits()
        reader.read(len(VALUES))
        assert reader.source.committed() == {reader.begun[0]: 0}
        assert reader.ended == []


# Dead letters


def test_a_dead_letter_is_where_the_check_said_once_it_is_acknowledged(site: Site) -> None:
    site.write(VALUES)
    (record,) = newest(site, 1)
    letter = DeadLetter(record, InvalidEvent(InvalidReason.NOT_JSON), uid="u1")
    letters = build_input(site.settings).dead_letters(PATIENCE_SECONDS)
    letters.send(letter).result(PATIENCE_SECONDS)
    letters.close(10)
    assert site.dead_letter_keys(1) == [letter_key(letter)]


def test_dead_letters_are_read_back_as_they_were_set_aside_and_each_step_counts(site: Site) -> None:
    site.write(VALUES)
    the_input = build_input(site.settings)
    with the_input.stored_letters(None, PATIENCE_SECONDS) as stream:
        assert (stream.steps, list(stream.letters)) == (0, [])
    written = [DeadLetter(record, InvalidEvent(InvalidReason.NOT_JSON), uid="u1") for record in newest(site, 3)]
    letters = the_input.dead_letters(PATIENCE_SECONDS)
    for letter in written:
        letters.send(letter).result(PATIENCE_SECONDS)
    letters.close(10)
    with the_input.stored_letters(None, PATIENCE_SECONDS) as stream:
        found = list(stream.letters)
    assert stream.place == site.dead_letter_place
    assert sum(steps for steps, _ in found) == stream.steps
    for letter, (_, stored) in zip(written, found, strict=True):
        assert stored is not None
        assert (stored.key, stored.uid, stored.reason) == (letter_key(letter), "u1", "not_json")
        assert (stored.partition, stored.offset) == (letter.record.tenure.partition, letter.record.offset)
        assert (stored.has_payload, stored.record_value) == (True, letter.record.value)
        assert (stored.record_key, stored.record_headers) == (letter.record.key, letter.record.headers)


def test_only_an_input_with_servers_can_be_sent_to(site: Site) -> None:
    the_input = build_input(site.settings)
    assert the_input.can_be_sent_to == bool(the_input.servers)


def test_a_check_of_dead_letters_names_their_place_and_writes_none(site: Site, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert build_input(site.settings).check_dead_letters(PATIENCE_SECONDS) == site.dead_letter_place
    assert sorted(tmp_path.rglob("*")) == before
    assert site.dead_letter_keys(0) == []


# The choice


def test_the_assembly_alone_looks_at_the_kind_and_once() -> None:
    """So a new input is a folder, a section of settings and a line of the assembly."""
    looks, comparisons = [], []
    package = Path(corlld.__file__).parent
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Attribute(attr="kind", value=ast.Attribute(attr="source") | ast.Name(id="source")):
                    looks.append(file.relative_to(package).as_posix())
                case ast.Compare(
                    left=ast.Attribute(attr="kind") | ast.Name(id="kind"), comparators=[ast.Constant(value=value)]
                ) if value in KINDS:
                    comparisons.append(f"{file.relative_to(package)}:{node.lineno}")
    assert looks == ["assembly.py"]
    assert comparisons == []
