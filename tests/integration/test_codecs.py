"""Compressed and damaged batches, from a real broker: read to the end, or refused in one sentence within seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition

from corlld.cli import main
from corlld.errors import ExitCode, FatalError
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.client import topic_compression
from corlld.sources.kafka.newest_records import newest_records
from corlld.sources.kafka.source import KafkaSource
from tests.support.commands import fails
from tests.support.kafka.broker import KafkaBroker, KafkaCluster
from tests.support.kafka.topics import Reader, kafka_settings, produce, unique

CODECS = ["gzip", "lz4", "snappy", "zstd"]
PACKAGES = {"lz4": "lz4", "snappy": "python-snappy", "zstd": "zstandard"}
VALUES = [b"%d" % number * 200 for number in range(20)]

pytestmark = pytest.mark.timeout(60)  # without care, a poll after the refusal never comes back


@contextmanager
def started(settings: KafkaSettings) -> Iterator[Reader]:
    source = KafkaSource(settings)
    try:
        source.start(30)
        yield Reader(source)
    finally:
        source.close({}, 10)


def new_topic(cluster: KafkaCluster, compression: str = "producer") -> str:
    topic = unique("edits")
    cluster.create_topic(topic, 1, {"compression.type": compression})
    return topic


def refusal(reader: Reader) -> FatalError:
    """The error that polling ends with."""
    with pytest.raises(FatalError) as refused:
        reader.poll_until(lambda: False, "a refusal", 20)
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize("codec", CODECS)
def test_what_producers_compress_is_read_to_the_end(codec: str, kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker)
    produce(kafka_broker.bootstrap, topic, {0: VALUES}, codec)
    settings = kafka_settings(kafka_broker.bootstrap, topic)
    with started(settings) as reader:
        reader.read(len(VALUES))
        assert reader.values() == VALUES
    assert [record.value for record in newest_records(settings, 3, 20)] == VALUES[-3:]


@pytest.mark.parametrize("codec", CODECS)
def test_what_the_broker_compresses_is_read_to_the_end(codec: str, kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker, codec)
    produce(kafka_broker.bootstrap, topic, {0: VALUES})
    with started(kafka_settings(kafka_broker.bootstrap, topic)) as reader:
        reader.read(len(VALUES))
        assert reader.values() == VALUES


@pytest.mark.parametrize("codec", PACKAGES)
def test_a_batch_whose_package_is_missing_is_refused_after_the_records_before_it(
    codec: str, kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = new_topic(kafka_broker)
    produce(kafka_broker.bootstrap, topic, {0: [b"plain"]})
    produce(kafka_broker.bootstrap, topic, {0: VALUES}, codec)
    monkeypatch.setattr(f"kafka.codec.has_{codec}", lambda: False)
    settings = kafka_settings(kafka_broker.bootstrap, topic)
    sentence = f"the batch at offset 1 of {topic}:0 is compressed with a codec whose Python package is missing: "
    sentence += f"install {PACKAGES[codec]}"
    with started(settings) as reader:
        refused = refusal(reader)
        assert (str(refused), refused.exit_code) == (sentence, ExitCode.CONFIGURATION)
        assert reader.values() == [b"plain"]
    with pytest.raises(FatalError) as of_sample:
        list(newest_records(settings, 100, 20))
    assert (str(of_sample.value), of_sample.value.exit_code) == (sentence, ExitCode.CONFIGURATION)


@pytest.fixture
def topic(site: Path, kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty topic, compressed by the broker with lz4, that `corlld run` can read on this site."""
    topic = new_topic(kafka_broker, "lz4")
    kafka_broker.create_topic(f"{topic}.dead", 1)
    monkeypatch.delenv("CORLLD_SOURCE__PATH")
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
    monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", kafka_broker.bootstrap)
    monkeypatch.setenv("CORLLD_KAFKA__TOPIC", topic)
    monkeypatch.setenv("CORLLD_KAFKA__GROUP_ID", f"{topic}-group")
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__TOPIC", f"{topic}.dead")
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "20")
    return topic


def test_check_names_the_codec_of_the_topic_and_the_package_that_is_missing(
    topic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check"]) == 0
    assert ", compressed with lz4; group" in capsys.readouterr().out
    monkeypatch.setattr("kafka.codec.has_lz4", lambda: False)
    assert main(["check"]) == 78
    shown = capsys.readouterr().out
    (problem,) = [line for line in shown.splitlines() if line.startswith("problem")]
    assert problem.endswith(f"topic {topic} is compressed with lz4: install the Python package lz4")


def test_the_codec_is_not_known_where_the_broker_does_not_describe_the_topic(kafka_broker: KafkaCluster) -> None:
    # A missing topic stands for one whose configuration may not be seen: both are described with an error code alone.
    assert topic_compression(kafka_settings(kafka_broker.bootstrap, unique("missing"))) is None
    assert topic_compression(kafka_settings(kafka_broker.bootstrap, new_topic(kafka_broker))) == "producer"


def test_a_run_that_meets_a_codec_without_its_package_ends_with_one_sentence(
    topic: str, kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(kafka_broker.bootstrap, topic, {0: VALUES})
    monkeypatch.setattr("kafka.codec.has_lz4", lambda: False)
    code, sentence = fails(capsys, "run")
    assert code == 78
    assert sentence.count("corlld: ") == 1
    assert "whose Python package is missing: install lz4" in sentence


def test_a_damaged_batch_is_refused_and_the_command_of_the_sentence_goes_around_it(
    own_kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    topic = new_topic(own_kafka_broker)
    for value in (b"before", b"torn", b"behind"):  # a batch each
        produce(own_kafka_broker.bootstrap, topic, {0: [value]}, "lz4")
    own_kafka_broker.stop()
    flip_a_bit(tmp_path / "kafka/data" / f"{topic}-0" / "00000000000000000000.log", b"torn")
    own_kafka_broker.start()
    settings = kafka_settings(own_kafka_broker.bootstrap, topic)
    with started(settings) as reader:
        refused = refusal(reader)
        assert refused.exit_code == ExitCode.DATA
        assert str(refused).startswith(f"the batch at offset 1 of {topic}:0 is damaged (CorruptRecordError). ")
        assert f"--group {settings.group_id} --topic {topic}:0 --reset-offsets --to-offset OFFSET" in str(refused)
        assert reader.values() == [b"before"]
    with pytest.raises(FatalError) as of_sample:
        list(newest_records(settings, 100, 20))
    assert str(of_sample.value) == str(refused)
    with KafkaConsumer(bootstrap_servers=own_kafka_broker.bootstrap, group_id=settings.group_id) as tool:
        tool.commit({TopicPartition(topic, 0): OffsetAndMetadata(2, "", -1)})
    with started(settings) as reader:
        reader.read(1)
        assert reader.values() == [b"behind"]


def flip_a_bit(log: Path, text: bytes) -> None:
    """Flip a bit of a text inside the one batch that holds it."""
    data = bytearray(log.read_bytes())
    assert data.count(text) == 1
    data[data.index(text)] ^= 1
    log.write_bytes(data)
