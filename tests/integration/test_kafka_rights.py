"""Access rules of a real broker: what is missing is named in one sentence, and what is given later is used."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from corlld.cli import main
from corlld.errors import ConfigurationError, ExitCode, InvalidEvent, InvalidReason, MissingRightError, RetriableError
from corlld.records import DeadLetter, Record, SourcePartition, Tenure
from corlld.settings.sections import DeadLetterSettings, Settings
from corlld.sources.kafka.letter_topic import letters_of_topic
from corlld.sources.kafka.newest_records import newest_records
from corlld.sources.kafka.producers import KafkaAnnouncements, KafkaDeadLetters, TopicProducer
from corlld.sources.kafka.rights import Granted, reading
from corlld.sources.kafka.source import KafkaSource
from corlld.sources.kafka.topic_input import KafkaInput
from tests.support.commands import fails
from tests.support.daemon_process import ENVIRON, Launcher, Site, http_get, http_port, wait_while_running
from tests.support.fakes import MemoryPositions
from tests.support.kafka.broker import KafkaCluster
from tests.support.kafka.guarded import PASSWORD, SASL, USER, GuardedBroker
from tests.support.kafka.topics import (
    Reader,
    kafka_settings,
    produce,
    too_few_replicas_are_judged_as_the_broker_acts,
    unique,
)
from tests.support.waiting import wait_until

SECONDS = 30.0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedBroker]:
    broker = GuardedBroker(tmp_path_factory.mktemp("guarded"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def topic(guarded: GuardedBroker) -> str:
    name = unique("edits")
    guarded.create_topic(name, 1)
    produce(guarded.bootstrap, name, {0: [b"first"]})
    return name


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for seconds before it asks again does so at once."""
    for name in (
        "client.TRY_RIGHTS_SECONDS",
        "source.CHECK_SECONDS",
        "standing.REFUSED_SECONDS",
        "write_right.ASK_AGAIN_SECONDS",
        "write_right.REFUSED_SECONDS",
    ):
        monkeypatch.setattr(f"corlld.sources.kafka.{name}", 0.5)


def command(guarded: GuardedBroker, operation: str, resources: str) -> str:
    return (
        f"`kafka-acls.sh --bootstrap-server {guarded.sasl_bootstrap} --add --allow-principal User:{USER} "
        f"--operation {operation} {resources}`"
    )


def letter() -> DeadLetter:
    tenure = Tenure(SourcePartition("edits", "0" * 32, 3), number=1, start_offset=0)
    record = Record(tenure, 41, 42, key=b"user", value=b"not json", headers=())
    return DeadLetter(record, InvalidEvent(InvalidReason.NOT_JSON), uid="u1")


@pytest.mark.parametrize(
    ("allowed", "missing", "options"),
    [
        ({}, "Read on topic {0} and Read on group {0}-group, or the topic does not", "--topic {0} --group {0}-group"),
        ({"TOPIC": "DESCRIBE", "GROUP": "READ"}, "Read on topic {0}.", "--topic {0}"),
        ({"TOPIC": "READ", "GROUP": "DESCRIBE"}, "Read on group {0}-group.", "--group {0}-group"),
        ({"TOPIC": "READ"}, "Read on group {0}-group.", "--group {0}-group"),
    ],
)
def test_a_reader_without_a_right_ends_at_once_with_the_rule_that_gives_it(
    guarded: GuardedBroker, topic: str, allowed: Mapping[str, str], missing: str, options: str
) -> None:
    settings = guarded.user_settings(topic)
    for kind, operation in allowed.items():
        guarded.allow(kind, topic if kind == "TOPIC" else settings.group_id, operation)
    source = KafkaSource(settings, MemoryPositions())
    with pytest.raises(MissingRightError) as refused:
        source.start(SECONDS)
    source.close({}, 5)
    assert refused.value.exit_code == ExitCode.CONFIGURATION
    assert f"User:{USER} lacks {missing.format(topic)}" in str(refused.value)
    assert command(guarded, "Read", options.format(topic)) in str(refused.value)


def test_a_sample_needs_no_group(guarded: GuardedBroker, topic: str) -> None:
    settings = guarded.user_settings(topic)
    guarded.allow("TOPIC", topic, "DESCRIBE")
    with pytest.raises(MissingRightError, match=f"lacks Read on topic {topic}"):
        list(newest_records(settings, 1, SECONDS))
    guarded.allow("TOPIC", topic, "READ")
    assert [record.value for record in newest_records(settings, 1, SECONDS)] == [b"first"]


def test_reading_dead_letters_back_needs_read_on_their_topic(guarded: GuardedBroker, topic: str) -> None:
    settings = guarded.user_settings("edits")
    guarded.allow("TOPIC", topic, "WRITE")
    with (
        pytest.raises(MissingRightError, match=f"lacks Read on topic {topic}"),
        letters_of_topic(settings, topic, None, SECONDS),
    ):
        pass
    guarded.allow("TOPIC", topic, "READ")
    with letters_of_topic(settings, topic, None, SECONDS) as stream:
        assert list(stream.letters) == [(1, None)]  # what is there is no letter


def test_a_broker_that_tells_no_rights_shows_them_at_the_first_commit(
    guarded: GuardedBroker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = guarded.user_settings(topic)
    guarded.allow("TOPIC", topic, "DESCRIBE")
    guarded.allow("GROUP", settings.group_id, "READ")
    untold = Granted(untold=reading(topic, None))
    monkeypatch.setattr("corlld.sources.kafka.client.ask_rights", lambda *_: untold)
    source = KafkaSource(settings, MemoryPositions())
    source.start(SECONDS)
    reader = Reader(source)
    try:
        assert f"Read on topic {topic} could not be asked" in (source.unknown_rights or "")
        with pytest.raises(MissingRightError, match=f"lacks Read on topic {topic}"):
            reader.poll_until(lambda: False, "it is refused")
    finally:
        source.close({}, 5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lost", ["TOPIC", "GROUP"])
def test_a_right_that_is_lost_is_said_once_and_used_when_it_is_given_again(
    guarded: GuardedBroker, topic: str, lost: str
) -> None:
    settings = guarded.user_settings(topic)
    names = {"TOPIC": topic, "GROUP": settings.group_id}
    for kind, name in names.items():
        guarded.allow(kind, name, "DESCRIBE", "READ")
    source = KafkaSource(settings, MemoryPositions())
    source.start(SECONDS)
    reader = Reader(source)
    try:
        reader.read(1)
        assert source.healthy
        with capture_logs() as lines:
            guarded.forbid(lost, names[lost], "READ")
            reader.poll_until(lambda: not source.healthy, "it is not healthy")
            for _ in range(20):
                reader.poll()
                source.commit(dict.fromkeys(reader.live.values(), 1))  # refused too
            assert not source.healthy
            produce(guarded.bootstrap, topic, {0: [b"second"]})
            guarded.allow(lost, names[lost], "READ")
            reader.poll_until(lambda: b"second" in reader.values() and source.healthy, "it goes on")
        said = [(line["event"], line["log_level"]) for line in lines]
        assert said == [("kafka_refuses", "warning"), ("kafka_reached", "info")]
        assert f"lacks Read on {lost.lower()} {names[lost]}" in lines[0]["problem"]
    finally:
        source.close({}, 10)


@pytest.mark.usefixtures("impatient")
def test_dead_letters_and_announcements_wait_for_the_right_to_write(guarded: GuardedBroker, topic: str) -> None:
    guarded.allow("TOPIC", topic, "DESCRIBE")
    settings = guarded.user_settings("edits")
    letters = KafkaDeadLetters(settings, DeadLetterSettings(topic=topic))
    announcements = KafkaAnnouncements(settings, topic)
    with capture_logs() as lines:
        for one in (letters, announcements):
            one.start(SECONDS)
            assert command(guarded, "Write", f"--topic {topic}") in (one.problem or "")
            with pytest.raises(MissingRightError):
                one.describe()
        assert isinstance(letters.send(letter()).exception(SECONDS), RetriableError)
        assert isinstance(announcements.send("u1", b"1").exception(SECONDS), RetriableError)
        guarded.allow("TOPIC", topic, "WRITE")
        wait_until(lambda: letters.problem is None and announcements.problem is None, "the right is seen", SECONDS)
        assert [line["event"] for line in lines] == ["right_granted"] * 2, "the start said what is missing"
    assert letters.send(letter()).exception(SECONDS) is None
    assert announcements.send("u1", b"1").exception(SECONDS) is None
    with capture_logs() as lines:
        guarded.forbid("TOPIC", topic, "WRITE")
        for _ in range(2):
            assert isinstance(letters.send(letter()).exception(SECONDS), RetriableError)
        assert f"lacks Write on topic {topic}" in (letters.problem or "")
        guarded.allow("TOPIC", topic, "WRITE")
        wait_until(lambda: letters.problem is None, "the right is seen again", SECONDS)
        assert [line["event"] for line in lines] == ["right_missing", "right_granted"]
    letters.close(5)
    announcements.close(5)


def test_a_topic_that_the_rules_hide_may_also_be_misspelt(guarded: GuardedBroker) -> None:
    letters = KafkaDeadLetters(guarded.user_settings("edits"), DeadLetterSettings(topic="mispelt"))
    with pytest.raises(MissingRightError, match="lacks Write on topic mispelt, or the topic does not exist"):
        letters.start(SECONDS)
    letters.close(1)


def use_broker(monkeypatch: pytest.MonkeyPatch, guarded: GuardedBroker, topic: str) -> None:
    """Let a command read the topic in place of a file."""
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
    monkeypatch.delenv("CORLLD_SOURCE__PATH")
    for name, value in (SASL | {"bootstrap_servers": guarded.sasl_bootstrap, "topic": topic}).items():
        monkeypatch.setenv(f"CORLLD_KAFKA__{name.upper()}", value)
    monkeypatch.setenv("CORLLD_KAFKA__GROUP_ID", f"{topic}-group")


def test_check_names_the_missing_rule_of_each_topic_and_what_it_could_not_ask(
    guarded: GuardedBroker,
    topic: str,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = {"input": topic, "dead letters": unique("letters"), "announcements": unique("adapters")}
    use_broker(monkeypatch, guarded, topic)
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__TOPIC", parts["dead letters"])
    monkeypatch.setenv("CORLLD_PUBLISHING__ANNOUNCE_TOPIC", parts["announcements"])
    for name in parts.values():
        guarded.create_topic(name, 1)
        guarded.allow("TOPIC", name, "DESCRIBE")
    guarded.allow("GROUP", f"{topic}-group", "READ")

    assert main(["check"]) == ExitCode.CONFIGURATION
    lines = capsys.readouterr().out.splitlines()
    problems = {line[9:23].strip(): line[24:] for line in lines if line.startswith("problem")}
    assert list(problems) == list(parts)
    for part, operation in {"input": "Read", "dead letters": "Write", "announcements": "Write"}.items():
        assert command(guarded, operation, f"--topic {parts[part]}") in problems[part]

    guarded.allow("TOPIC", topic, "READ")
    for part in ("dead letters", "announcements"):
        guarded.allow("TOPIC", parts[part], "WRITE")
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert f"could not be asked: that needs DescribeConfigs on topic {parts['dead letters']}" in out
    assert f"could not be asked: that needs DescribeConfigs on topic {parts['announcements']}" in out
    assert "what a user may do" not in out, "the rights were told"


def test_run_ends_at_once_without_a_right_to_read(
    guarded: GuardedBroker,
    topic: str,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_broker(monkeypatch, guarded, topic)
    guarded.allow("TOPIC", topic, "DESCRIBE")
    code, sentence = fails(capsys, "run")
    assert code == ExitCode.CONFIGURATION
    assert command(guarded, "Read", f"--topic {topic} --group {topic}-group") in sentence
    assert PASSWORD not in sentence


def test_a_daemon_is_not_ready_until_it_may_write(
    guarded: GuardedBroker, tiny_model: Path, tmp_path: Path, launcher: Launcher
) -> None:
    place = Site.make(tmp_path, guarded, tiny_model, 1)
    letters, adapters = f"{place.topic}.dead-letters", f"{place.topic}.adapters"
    guarded.allow("TOPIC", place.topic, "READ")
    guarded.allow("GROUP", place.group, "READ")
    for name in (letters, adapters):
        guarded.allow("TOPIC", name, "DESCRIBE")
    sasl = {name: value for name, value in SASL.items() if name != "sasl_plain_password"}
    config = place.write_settings(kafka=sasl | {"bootstrap_servers": [guarded.sasl_bootstrap]})
    daemon = launcher.start(config, place.log(), environ=ENVIRON | {"CORLLD_KAFKA__SASL_PLAIN_PASSWORD": PASSWORD})
    port = http_port(daemon)

    def says(status: int, text: str) -> None:
        wait_while_running(daemon, lambda: http_get(port, "/readyz") == (status, text), text, SECONDS)

    says(503, "waiting for: publishing, dead_letters\n")
    guarded.allow("TOPIC", letters, "WRITE")
    guarded.allow("TOPIC", adapters, "WRITE")
    says(200, "ready\n")
    assert daemon.stop() == 0
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
    said = [(line["level"], line["problem"]) for line in lines if line["event"] == "right_missing"]
    assert [level for level, _ in said] == ["warning"] * 2
    for name, (_, problem) in zip((letters, adapters), said, strict=True):
        assert f"lacks Write on topic {name}." in problem


def test_letters_that_lose_their_payload_are_said_by_check_and_logged_by_a_run(kafka_broker: KafkaCluster) -> None:
    letters = unique("letters")
    kafka_broker.create_topic(letters, 1, {"max.message.bytes": "5000"})
    kafka = kafka_settings(kafka_broker.bootstrap, "edits")
    settings = Settings.model_validate({"kafka": kafka, "dead_letters": {"topic": letters}})
    sentence = f"Dead letters of large records lose their payload: max.message.bytes of topic {letters} is 5,000"
    assert sentence in KafkaInput(settings).check_dead_letters(SECONDS)
    with capture_logs() as lines:
        KafkaInput(settings).dead_letters(SECONDS).close(5)
    ((event, problem),) = [(line["event"], line["problem"]) for line in lines if line["log_level"] == "warning"]
    assert event == "dead_letters_cut"
    assert sentence in problem
    without = settings.model_copy(update={"dead_letters": DeadLetterSettings(topic=letters, payload=False)})
    assert KafkaInput(without).check_dead_letters(SECONDS) == f"topic {letters}"


def test_a_topic_that_takes_no_record_is_refused(kafka_broker: KafkaCluster) -> None:
    topic = unique("adapters")
    kafka_broker.create_topic(topic, 1, {"max.message.bytes": "1000"})
    producer = TopicProducer(kafka_settings(kafka_broker.bootstrap, topic), topic, idempotent=True)
    with pytest.raises(ConfigurationError, match=r"takes no record of corlld: its max.message.bytes is 1,000"):
        producer.start(SECONDS)
    producer.close(1)


def test_a_topic_with_too_few_replicas_is_refused_only_if_the_broker_acknowledges_nothing(
    kafka_broker: KafkaCluster,
) -> None:
    too_few_replicas_are_judged_as_the_broker_acts(kafka_broker)
