"""The whole way on a real broker: edit events in, refreshed adapters out, judged by a process that knows no corlld."""

import ast
from pathlib import Path

from tests.support import oracle, traffic
from tests.support.daemon_process import Site, running, wait_while_running
from tests.support.kafka.broker import KafkaCluster
from tests.support.quiet_learning import write_undisturbed_tensors

EVENTS, USERS, PARTITIONS = 300, 8, 4
# 5% malformed, 10 acceptances, 10 duplicates
BAD, ACCEPTANCES, DUPLICATES = EVENTS * 5 // 100, 10, 10


def test_every_good_event_is_applied_once_and_every_bad_one_is_set_aside_with_its_reason(
    tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path
) -> None:
    site = Site.make(tmp_path, kafka_broker, tiny_model, PARTITIONS)
    config = site.write_settings()
    records = traffic.edits(EVENTS, traffic.users(USERS), PARTITIONS, seed=1)
    producer = traffic.Producer(site.bootstrap, site.topic)
    with running(config, site.log()) as daemon:
        producer.send(records[: EVENTS // 2])
        site.wait_for_end(daemon)
        producer.send(records[EVENTS // 2 :])
        site.wait_for_end(daemon)
        assert daemon.stop() == 0
    producer.close()

    tensors = write_undisturbed_tensors(config, records, tmp_path / "tensors")
    verdict = site.verdict(producer, pairs_per_step=1, tensors_folder=str(tensors))

    assert verdict["problems"] == []
    figures = verdict["figures"]
    assert figures["records"] == EVENTS
    assert figures["users"] == USERS
    assert figures["dead_letters"] == BAD
    assert figures["acceptances"] == ACCEPTANCES
    assert figures["duplicates"] == DUPLICATES
    assert figures["events"] == EVENTS - BAD - DUPLICATES
    assert figures["lag"] == 0
    assert {sent.partition for sent in records} == set(range(PARTITIONS))


def test_a_stop_in_the_middle_and_a_restart_leave_no_trace_in_the_states(
    tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path
) -> None:
    # max_events=1: a stop in the middle leaves many users between two batches.
    site = Site.make(tmp_path, kafka_broker, tiny_model, PARTITIONS, batching={"max_events": 1})
    config = site.write_settings()
    producer = traffic.Producer(site.bootstrap, site.topic)
    records = traffic.edits(120, traffic.users(USERS), PARTITIONS, seed=2)
    producer.send(records)
    with running(config, site.log("first")) as first:
        site.wait_for_progress(first)
        assert first.stop() == 0
    with running(config, site.log("second")) as second:
        site.wait_for_end(second)
        assert second.stop() == 0
    producer.close()

    tensors = write_undisturbed_tensors(config, records, tmp_path / "tensors")
    # Dead letters beyond the low watermark of the stop are sent a second time, under the same key.
    verdict = site.verdict(producer, pairs_per_step=1, tensors_folder=str(tensors), copies_allowed=True)

    assert verdict["problems"] == []


def test_a_group_whose_commits_expired_learns_what_it_missed_and_nothing_twice(
    tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path
) -> None:
    site = Site.make(tmp_path, kafka_broker, tiny_model, PARTITIONS, kafka={"start_at": "latest"})
    config = site.write_settings()
    producer = traffic.Producer(site.bootstrap, site.topic)
    records = traffic.edits(50, traffic.users(USERS), PARTITIONS, seed=3)

    def has_begun() -> bool:
        return None not in oracle.group_offsets(site.bootstrap, site.topic, site.group)[0].values()

    with running(config, site.log("first")) as first:
        wait_while_running(first, has_begun, "the partitions begin", 60)
        producer.send(records[:30])
        site.wait_for_end(first)
        assert first.stop() == 0
    with kafka_broker.admin() as admin:  # the broker does so some days after the last member left
        admin.delete_groups([site.group])
    producer.send(records[30:])
    with running(config, site.log("second")) as second:
        site.wait_for_end(second)
        assert second.stop() == 0
    producer.close()

    tensors = write_undisturbed_tensors(config, records, tmp_path / "tensors")
    verdict = site.verdict(producer, pairs_per_step=1, tensors_folder=str(tensors), copies_allowed=True)

    assert verdict["problems"] == []


def test_the_oracle_imports_nothing_of_corlld() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert not {name for name in modules if name.split(".")[0] in ("corlld", "tests", "")}
