"""KafkaSource against a real broker: rebalances, recreated topics, lost offsets, and brokers that go away."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import CoordinatorNotAvailableError, NodeNotReadyError
from structlog.testing import capture_logs

from corlld.errors import ConfigurationError, ExitCode, FatalError, UnavailableError
from corlld.settings.sections import KafkaSettings, Settings
from corlld.sources.kafka.client import TopicLookup
from corlld.sources.kafka.source import KafkaSource
from corlld.sources.kafka.topic_input import KafkaInput
from tests.support.fakes import MemoryPositions
from tests.support.kafka.broker import KafkaBroker, KafkaCluster
from tests.support.kafka.topics import Reader, kafka_settings, produce, unique
from tests.support.waiting import wait_until

PARTITIONS = 4


def new_topic(cluster: KafkaCluster, partitions: int = 1) -> str:
    topic = unique("edits")
    cluster.create_topic(topic, partitions)
    return topic


@contextlib.contextmanager
def started(settings: KafkaSettings, positions: MemoryPositions | None = None) -> Iterator[Reader]:
    source = KafkaSource(settings, positions)
    try:
        source.start(30)
        yield Reader(source)
    finally:
        source.close({}, 10)


def group_offsets(cluster: KafkaCluster, settings: KafkaSettings) -> dict[int, int]:
    with cluster.admin() as admin:
        offsets = admin.list_group_offsets(settings.group_id)[settings.group_id]
    return {tp.partition: commit.offset for tp, commit in offsets.items() if tp.topic == settings.topic}


def commit_as_another_tool(settings: KafkaSettings, offsets: dict[int, int]) -> None:
    """Commit as `kafka-consumer-groups --reset-offsets` does: with no member in the group."""
    with KafkaConsumer(bootstrap_servers=settings.bootstrap_servers[0], group_id=settings.group_id) as consumer:
        consumer.commit(
            {TopicPartition(settings.topic, p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        )


def poll_both(first: Reader, second: Reader, condition: Callable[[], bool], what: str) -> None:
    """Both poll, since a rebalance waits for every member."""

    def polled() -> bool:
        first.poll()
        second.poll()
        return condition()

    wait_until(polled, what)


def poll_both_until_shared(first: Reader, second: Reader, share: int) -> None:
    poll_both(first, second, lambda: len(first.live) == len(second.live) == share, f"{share} partitions for each")


def values_of(partition: int, *numbers: int) -> list[bytes]:
    return [b"%d-%d" % (partition, n) for n in numbers]


# --- rebalances -------------------------------------------------------------------------------------------------------


def test_eager_rebalance_begins_new_tenures_at_the_commit_also_for_partitions_that_stay(
    kafka_broker: KafkaCluster,
) -> None:
    topic = new_topic(kafka_broker, PARTITIONS)
    settings = kafka_settings(kafka_broker.bootstrap, topic, assignor="range")
    produce(kafka_broker.bootstrap, topic, {p: values_of(p, 0, 1, 2) for p in range(PARTITIONS)})
    with started(settings) as first:
        first.read(3 * PARTITIONS)
        before = dict(first.live)
        first.commit(dict.fromkeys(before.values(), 2))  # the third record of each is not finished yet
        first.records.clear()
        with started(settings) as second:
            poll_both_until_shared(first, second, PARTITIONS // 2)
            assert sorted([*first.live, *second.live]) == list(range(PARTITIONS))
            assert set(first.ended) == set(before.values())
            share = PARTITIONS // 2
            poll_both(first, second, lambda: len(first.records) == len(second.records) == share, "all is read again")
            for reader in (first, second):
                assert {tenure.start_offset for tenure in reader.live.values()} == {2}
                assert all(reader.values(p) == values_of(p, 2) for p in reader.live)
            kept = {first.live[p] for p in first.live}
        first.records.clear()
        first.poll_until(lambda: len(first.live) == PARTITIONS, "the first member has all partitions again")
        assert kept <= set(first.ended)
        first.read(PARTITIONS)
        assert all(first.values(p) == values_of(p, 2) for p in range(PARTITIONS))


def test_cooperative_rebalance_leaves_alone_what_stays(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker, PARTITIONS)
    settings = kafka_settings(kafka_broker.bootstrap, topic, assignor="cooperative-sticky")
    produce(kafka_broker.bootstrap, topic, {p: values_of(p, 0, 1, 2) for p in range(PARTITIONS)})
    with started(settings) as first:
        first.read(3 * PARTITIONS)
        before = dict(first.live)
        first.commit(dict.fromkeys(before.values(), 2))
        first.records.clear()
        with started(settings) as second:
            poll_both_until_shared(first, second, PARTITIONS // 2)
            poll_both(first, second, lambda: len(second.records) == PARTITIONS // 2, "what moved is read again")
            assert all(first.live[p] == before[p] for p in first.live)
            assert set(first.ended) == {before[p] for p in second.live}
            assert all(second.values(p) == values_of(p, 2) for p in second.live)
            stayed, moved = set(first.live), set(second.live)
            # What stayed goes on behind what was delivered, not at the commit.
            produce(kafka_broker.bootstrap, topic, {p: values_of(p, 3) for p in stayed})
            poll_both(first, second, lambda: len(first.records) == len(stayed), "what stayed goes on")
            assert all(first.values(p) == values_of(p, 3) for p in stayed)
        first.records.clear()
        first.poll_until(lambda: len(first.live) == PARTITIONS, "the first member has all partitions again")
        first.read(len(moved))
        assert all(first.live[p] == before[p] for p in stayed)
        assert all(first.values(p) == values_of(p, 2) for p in moved)


def test_short_polls_with_other_work_between_them_get_into_the_group_and_stay_there(
    kafka_broker: KafkaCluster,
) -> None:
    topic = new_topic(kafka_broker)
    produce(kafka_broker.bootstrap, topic, {0: [b"a"]})
    source = KafkaSource(kafka_settings(kafka_broker.bootstrap, topic, metadata_max_age_seconds=1.0))
    source.start(30)
    reader = Reader(source, poll_seconds=0.001)

    def polled(condition: Callable[[], bool]) -> Callable[[], bool]:
        def poll() -> bool:
            reader.poll()
            threading.Event().wait(0.05)  # the other work: joins finish meanwhile
            return condition()

        return poll

    wait_until(polled(lambda: reader.values() == [b"a"]), "the first record is read", 20)
    with kafka_broker.admin() as admin:
        admin.create_partitions({topic: 2})
        admin.wait_for_topics([topic])
    produce(kafka_broker.bootstrap, topic, {1: [b"b"]})
    wait_until(polled(lambda: b"b" in reader.values()), "the new partition is read", 20)
    source.close({}, 10)


def test_partitions_assigned_while_paused_deliver_nothing_until_resumed(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker, 2)
    settings = kafka_settings(kafka_broker.bootstrap, topic, assignor="range")
    produce(kafka_broker.bootstrap, topic, {0: [b"0"], 1: [b"1"]})
    with started(settings) as first:
        first.read(2)
        first.pausing = True
        first.poll()
        first.records.clear()
        with started(settings) as second:
            poll_both_until_shared(first, second, 1)
            for _ in range(10):
                assert first.poll().records == ()
        first.poll_until(lambda: len(first.live) == 2, "both partitions are back")
        assert first.records == []
        first.pausing = False
        first.read(2)


def test_one_partition_can_be_paused_and_others_go_on_also_through_a_rebalance(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker, 2)
    settings = kafka_settings(kafka_broker.bootstrap, topic)
    produce(kafka_broker.bootstrap, topic, {0: [b"0"], 1: [b"1"]})
    with started(settings) as first:
        first.read(2)
        held = first.live[0]
        first.source.pause_only([held])
        produce(kafka_broker.bootstrap, topic, {0: [b"2", b"3"], 1: [b"4"]})
        first.poll_until(lambda: b"4" in first.values(), "the other partition is read")
        for _ in range(10):
            first.poll()
        assert sorted(first.values()) == [b"0", b"1", b"4"]
        assert first.source.positions()[held] == 1
        with started(settings) as second:
            poll_both_until_shared(first, second, 1)
        first.poll_until(lambda: len(first.live) == 2, "both partitions are back")
        first.source.pause_only([first.live[1]])
        first.poll_until(lambda: b"3" in first.values(), "the partition is read on")
        assert first.values().count(b"2") == 1


def test_a_member_that_was_dropped_begins_new_tenures(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker)
    settings = kafka_settings(kafka_broker.bootstrap, topic, max_poll_interval_seconds=1.0)
    produce(kafka_broker.bootstrap, topic, {0: [b"a", b"b"]})
    with started(settings) as reader:
        reader.read(2)
        before = reader.live[0]
        reader.commit({before: 1})
        with kafka_broker.admin() as admin:  # not polling: the member leaves by itself
            wait_until(lambda: not members(admin, settings), "the group has no member")
        reader.read(3)
        assert reader.ended == [before]
        assert reader.values() == [b"a", b"b", b"b"]
        assert reader.live[0].start_offset == 1


def members(admin: Any, settings: KafkaSettings) -> list[object]:
    return list(admin.describe_groups([settings.group_id])[settings.group_id]["members"])


def test_a_static_member_stays_in_the_group_and_a_dynamic_one_leaves_it(kafka_broker: KafkaCluster) -> None:
    for instance, left in (("daemon-1", 1), (None, 0)):
        settings = kafka_settings(kafka_broker.bootstrap, new_topic(kafka_broker), group_instance_id=instance)
        with started(settings) as reader:
            reader.poll_until(lambda reader=reader: bool(reader.begun), "the tenure begins")
        with kafka_broker.admin() as admin:
            assert len(members(admin, settings)) == left


def test_a_second_daemon_of_the_same_instance_id_stops_the_first(kafka_broker: KafkaCluster) -> None:
    settings = kafka_settings(kafka_broker.bootstrap, new_topic(kafka_broker), group_instance_id="daemon-1")
    with started(settings) as first:
        first.poll_until(lambda: bool(first.begun), "the tenure begins")
        with started(settings) as second:
            second.poll_until(lambda: bool(second.begun), "the second has it")
            with pytest.raises(ConfigurationError, match="daemon-1"):
                first.poll_until(lambda: False, "the first is told")


def test_another_assignor_in_the_group_is_said_in_a_sentence(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker)
    with started(kafka_settings(kafka_broker.bootstrap, topic, assignor="range")) as first:
        first.poll_until(lambda: bool(first.begun), "the tenure begins")
        other = kafka_settings(kafka_broker.bootstrap, topic, assignor="roundrobin")
        with started(other) as second, pytest.raises(ConfigurationError, match=r"kafka\.assignor = roundrobin"):
            second.poll_until(lambda: False, "it is refused")


# --- where reading starts ---------------------------------------------------------------------------------------------


def test_a_new_group_starts_where_the_settings_say_and_commits_that_at_once(kafka_broker: KafkaCluster) -> None:
    for start_at, offset in (("earliest", 0), ("latest", 3)):
        topic = new_topic(kafka_broker)
        settings = kafka_settings(kafka_broker.bootstrap, topic, start_at=start_at)
        produce(kafka_broker.bootstrap, topic, {0: [b"a", b"b", b"c"]})
        with started(settings) as reader:
            reader.poll_until(lambda reader=reader: bool(reader.begun), "the tenure begins")
            assert reader.begun[0].start_offset == offset
            assert group_offsets(kafka_broker, settings) == {0: offset}


def test_a_partition_without_a_commit_starts_at_its_beginning_where_the_group_has_others(
    kafka_broker: KafkaCluster,
) -> None:
    topic = new_topic(kafka_broker, 2)
    settings = kafka_settings(kafka_broker.bootstrap, topic, start_at="latest")
    produce(kafka_broker.bootstrap, topic, {0: [b"a", b"b"], 1: [b"c", b"d"]})
    commit_as_another_tool(settings, {0: 1})
    with started(settings) as reader:
        assert reader.source.has_commits()
        reader.read(3)
        assert {p: t.start_offset for p, t in reader.live.items()} == {0: 1, 1: 0}
        assert group_offsets(kafka_broker, settings) == {0: 1, 1: 0}


def expire_commits(cluster: KafkaCluster, settings: KafkaSettings) -> None:
    """Do what the broker does some days after the last member left."""
    with cluster.admin() as admin:
        wait_until(lambda: not members(admin, settings), "the group is empty")
        admin.delete_groups([settings.group_id])


def test_a_group_whose_commits_have_expired_is_not_new_and_skips_nothing(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker, 2)
    settings = kafka_settings(kafka_broker.bootstrap, topic, start_at="latest")
    positions = MemoryPositions()
    produce(kafka_broker.bootstrap, topic, {0: [b"before the group"] * 3})
    with started(settings, positions) as reader:
        reader.poll_until(lambda: len(reader.begun) == 2, "the tenures begin")
        produce(kafka_broker.bootstrap, topic, {0: [b"read"] * 30})
        reader.read(30)
        reader.commit({reader.live[0]: 33})
    expire_commits(kafka_broker, settings)
    assert group_offsets(kafka_broker, settings) == {}
    produce(kafka_broker.bootstrap, topic, {0: [b"missed"] * 10, 1: [b"missed"] * 10})
    with capture_logs() as entries, started(settings, positions) as reader:
        assert not reader.source.has_commits()
        said = KafkaInput(Settings(kafka=settings)).describe(reader.source)
        assert said.endswith("has read it before, but its commits have expired: it reads again, and learns what is new")
        reader.read(50)
        assert reader.values().count(b"missed") == 20
        assert {p: t.start_offset for p, t in reader.live.items()} == {0: 3, 1: 0}
        assert group_offsets(kafka_broker, settings) == {0: 3, 1: 0}
    assert [entry["group"] for entry in entries if entry["event"] == "commits_expired"] == [settings.group_id]


def test_a_group_that_an_older_corlld_began_goes_on_where_it_stood_once_its_commits_have_expired(
    kafka_broker: KafkaCluster,
) -> None:
    topic = new_topic(kafka_broker)
    settings = kafka_settings(kafka_broker.bootstrap, topic, start_at="latest")
    positions = MemoryPositions()
    produce(kafka_broker.bootstrap, topic, {0: [b"a", b"b", b"c"]})
    commit_as_another_tool(settings, {0: 2})
    with started(settings, positions) as reader:
        reader.read(1)
    expire_commits(kafka_broker, settings)
    with started(settings, positions) as reader:
        reader.read(1)
        assert reader.values() == [b"c"]


def test_a_group_that_only_the_states_know_begins_at_the_beginning(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker)
    settings = kafka_settings(kafka_broker.bootstrap, topic, start_at="latest")
    produce(kafka_broker.bootstrap, topic, {0: [b"a", b"b", b"c"]})
    positions = MemoryPositions()
    lookup = TopicLookup(settings, topic)
    positions.applied.add(lookup.wait_for_topic(30).topic_id or "")
    lookup.close()
    with started(settings, positions) as reader:
        reader.read(3)


def test_what_retention_took_from_a_group_without_commits_is_left_out(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker)
    settings = kafka_settings(kafka_broker.bootstrap, topic, start_at="latest")
    positions = MemoryPositions()
    with started(settings, positions) as reader:
        reader.poll_until(lambda: bool(reader.begun), "the tenure begins")
    expire_commits(kafka_broker, settings)
    produce(kafka_broker.bootstrap, topic, {0: [b"gone", b"gone", b"left"]})
    with kafka_broker.admin() as admin:
        admin.delete_records({TopicPartition(topic, 0): 2})
    with started(settings, positions) as reader:
        reader.read(1)
        assert reader.values() == [b"left"]


def test_a_topic_that_was_recreated_is_new_to_a_group_without_commits(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker)
    settings = kafka_settings(kafka_broker.bootstrap, topic, start_at="latest")
    positions = MemoryPositions()
    with started(settings, positions) as reader:
        reader.poll_until(lambda: bool(reader.begun), "the tenure begins")
    expire_commits(kafka_broker, settings)
    kafka_broker.delete_topic(topic)
    kafka_broker.create_topic(topic, 1)
    produce(kafka_broker.bootstrap, topic, {0: [b"a", b"b"]})
    with started(settings, positions) as reader:
        reader.poll_until(lambda: bool(reader.begun), "the tenure begins")
        assert reader.begun[0].start_offset == 2


def test_nothing_begins_before_it_is_stored_where_it_begins(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker)
    settings = kafka_settings(kafka_broker.bootstrap, topic)
    positions = MemoryPositions()
    positions.fails = True
    with started(settings, positions) as reader:
        reader.poll_until(lambda: not reader.source.healthy, "it waits for the store")
        assert (reader.begun, group_offsets(kafka_broker, settings)) == ([], {})
        positions.fails = False
        reader.poll_until(lambda: bool(reader.begun), "the tenure begins")
        assert reader.source.healthy


def test_a_partition_that_is_added_later_is_read_from_its_beginning(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker)
    settings = kafka_settings(kafka_broker.bootstrap, topic, start_at="latest", metadata_max_age_seconds=1.0)
    with started(settings) as reader:
        reader.poll_until(lambda: bool(reader.begun), "the tenure begins")
        with kafka_broker.admin() as admin:
            admin.create_partitions({topic: 2})
            admin.wait_for_topics([topic])
        produce(kafka_broker.bootstrap, topic, {1: [b"early"]})
        reader.read(1)
        assert reader.live[1].start_offset == 0


def test_the_position_passes_the_markers_and_the_records_of_aborted_transactions(kafka_broker: KafkaCluster) -> None:
    topic = new_topic(kafka_broker)
    with KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, transactional_id=unique("t")) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(topic, b"kept", partition=0)
        producer.commit_transaction()
        producer.begin_transaction()
        producer.send(topic, b"aborted", partition=0).get(timeout=30)
        producer.abort_transaction()
    end = 4  # two records, two markers
    with started(kafka_settings(kafka_broker.bootstrap, topic)) as reader:
        reader.read(1)
        reader.poll_until(lambda: list(reader.source.positions().values()) == [end], "the position is the end")
        assert reader.values() == [b"kept"]


# --- what stops the daemon --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("records_after", [0, 3])  # three: the old position is one of the new topic's as well
def test_a_recreated_topic_is_refused_with_what_to_do(kafka_broker: KafkaCluster, records_after: int) -> None:
    topic = new_topic(kafka_broker)
    settings = kafka_settings(kafka_broker.bootstrap, topic, metadata_max_age_seconds=0.5)
    produce(kafka_broker.bootstrap, topic, {0: [b"a"]})
    with started(settings) as reader:
        reader.read(1)
        kafka_broker.delete_topic(topic)
        kafka_broker.create_topic(topic, 1)
        produce(kafka_broker.bootstrap, topic, {0: [b"other"] * records_after})
        with pytest.raises(FatalError, match=f"{topic} was deleted and created again.*--reset-offsets") as refused:
            reader.poll_until(lambda: False, "it is refused")
        assert refused.value.exit_code is ExitCode.DATA


@pytest.mark.parametrize("offset", [1, 100])
def test_a_commit_whose_offset_is_out_of_range_is_refused_with_what_to_do(
    kafka_broker: KafkaCluster, offset: int
) -> None:
    topic = new_topic(kafka_broker)
    settings = kafka_settings(kafka_broker.bootstrap, topic)
    produce(kafka_broker.bootstrap, topic, {0: [b"a", b"b", b"c"]})
    commit_as_another_tool(settings, {0: offset})
    with kafka_broker.admin() as admin:
        admin.delete_records({TopicPartition(topic, 0): 2})  # expired
    with started(settings) as reader:
        with pytest.raises(FatalError, match=rf"offset {offset} of {topic}:0.*--reset-offsets") as refused:
            reader.poll_until(lambda: False, "it is refused")
        assert refused.value.exit_code is ExitCode.DATA
        assert reader.records == []


def test_no_broker_is_one_sentence_after_the_deadline() -> None:
    source = KafkaSource(kafka_settings("127.0.0.1:1", "edits"))
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1: nobody listens there .*\(waited [1-9](\.\d)? s\)"):
        source.start(1)
    assert time.monotonic() - began < 10
    source.close({}, 1)


def test_a_missing_topic_is_waited_for_and_never_created(kafka_broker: KafkaCluster) -> None:
    topic = unique("missing")
    source = KafkaSource(kafka_settings(kafka_broker.bootstrap, topic))
    with pytest.raises(UnavailableError, match=f"topic {topic} does not exist at {kafka_broker.bootstrap}"):
        source.start(1)
    source.close({}, 1)
    with kafka_broker.admin() as admin:
        assert topic not in admin.list_topics()


# --- a broker that goes away ------------------------------------------------------------------------------------------


def test_polling_goes_on_while_the_broker_is_away_and_reading_when_it_is_back(own_kafka_broker: KafkaBroker) -> None:
    topic = new_topic(own_kafka_broker)
    produce(own_kafka_broker.bootstrap, topic, {0: [b"a"]})
    with started(kafka_settings(own_kafka_broker.bootstrap, topic)) as reader:
        reader.read(1)
        assert reader.source.healthy
        own_kafka_broker.stop()
        reader.poll_until(lambda: not reader.source.healthy, "it is not healthy")
        own_kafka_broker.start()
        produce(own_kafka_broker.bootstrap, topic, {0: [b"b"]})
        reader.poll_until(lambda: reader.values()[-1:] == [b"b"], "the new record is read")
        reader.poll_until(lambda: reader.source.healthy, "it is healthy again")
        reader.commit({reader.live[0]: 2})


def test_what_a_failed_poll_had_taken_already_is_delivered_by_a_later_one(
    kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = new_topic(kafka_broker)
    produce(kafka_broker.bootstrap, topic, {0: [b"a", b"b"]})
    source = KafkaSource(kafka_settings(kafka_broker.bootstrap, topic))
    source.start(30)
    reader = Reader(source)
    real_poll, lost = source._consumer.poll, []

    def failing_poll(**arguments: int) -> object:
        batches = real_poll(**arguments)
        if batches and not lost:
            lost.append(batches)
            raise NodeNotReadyError
        return batches

    monkeypatch.setattr(source._consumer, "poll", failing_poll)
    reader.read(2)
    source.close({}, 10)
    assert lost
    assert reader.values() == [b"a", b"b"]


def test_a_first_commit_that_goes_on_failing_is_said_once_and_not_tried_at_every_poll(
    kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    def refuse(offsets: object, timeout_ms: int) -> None:
        tries.append(time.monotonic())
        raise CoordinatorNotAvailableError()

    with started(kafka_settings(kafka_broker.bootstrap, new_topic(kafka_broker))) as reader:
        with monkeypatch.context() as patched, capture_logs() as lines:
            patched.setattr(reader.source._consumer, "commit", refuse)
            reader.poll_until(lambda: len(tries) >= 4, "some tries")
        assert tries[3] - tries[1] >= 2 * 0.9, "a second between them, once it is no rebalance"
        assert [line["log_level"] for line in lines if line["event"] == "first_commit_failed"] == ["warning"]
        reader.poll_until(lambda: bool(reader.begun), "the tenure begins")


def test_commits_that_go_on_failing_are_said_once(kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(kafka_settings(kafka_broker.bootstrap, new_topic(kafka_broker))) as reader:
        reader.poll_until(lambda: bool(reader.begun), "the tenure begins")

        def refuse(offsets: object, callback: Callable[[object, object], None]) -> None:
            callback(offsets, CoordinatorNotAvailableError())

        with monkeypatch.context() as patched, capture_logs() as lines:
            patched.setattr(reader.source._consumer, "commit_async", refuse)
            for _ in range(3):
                assert reader.source.commit({reader.live[0]: 0})
        said = [(line["event"], line["log_level"], line["error"]) for line in lines]
        assert said == [("commit_failed", "warning", "CoordinatorNotAvailableError")]


def test_a_commit_that_is_never_answered_is_given_up(
    kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corlld.sources.kafka.commits.GRACE_SECONDS", 0.1)
    topic = new_topic(kafka_broker)
    with started(kafka_settings(kafka_broker.bootstrap, topic, request_timeout_seconds=1.0)) as reader:
        reader.poll_until(lambda: bool(reader.begun), "the tenure begins")
        with monkeypatch.context() as patched:
            patched.setattr(reader.source._consumer, "commit_async", lambda offsets, callback: None)
            assert reader.source.commit({reader.live[0]: 0})
            assert not reader.source.commit({reader.live[0]: 0})
        reader.commit({reader.live[0]: 0})
        reader.poll_until(lambda: reader.source.commit({reader.live[0]: 0}), "the next one is let through", 10)


def test_a_broker_that_hangs_blocks_neither_polling_nor_later_commits(own_kafka_broker: KafkaBroker) -> None:
    topic = new_topic(own_kafka_broker)
    produce(own_kafka_broker.bootstrap, topic, {0: [b"a"]})
    with started(kafka_settings(own_kafka_broker.bootstrap, topic, request_timeout_seconds=1.0)) as reader:
        reader.read(1)
        os.kill(own_kafka_broker.pid, signal.SIGSTOP)
        try:
            assert reader.source.commit({reader.live[0]: 1})
            assert not reader.source.commit({reader.live[0]: 1})

            def quickly() -> bool:
                began = time.monotonic()
                reader.poll()
                assert time.monotonic() - began < 3
                return not reader.source.healthy

            wait_until(quickly, "it is not healthy")
        finally:
            os.kill(own_kafka_broker.pid, signal.SIGCONT)
        reader.poll_until(lambda: reader.source.healthy and bool(reader.live), "it is healthy again")
        reader.commit({reader.live[0]: 1})
