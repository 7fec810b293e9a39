"""The figures of `/metrics` are those of the events that were sent to a daemon on a real broker."""

from collections import Counter
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support import traffic
from tests.support.daemon_process import Site, http_get, http_port, running, wait_while_running
from tests.support.kafka.broker import KafkaCluster

EVENTS, USERS, PARTITIONS = 200, 8, 4
BAD, ACCEPTANCES, DUPLICATES = EVENTS * 5 // 100, 10, 10  # as `traffic.mixed` makes them


def scrape(port: int) -> dict[str, float]:
    """Corlld's series, as `name{label=value}`."""
    status, text = http_get(port, "/metrics")
    assert status == 200
    return {
        sample.name + "".join(f"{{{name}={label}}}" for name, label in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("corlld_")
    }


def test_after_known_traffic_the_counters_equal_what_was_sent_and_the_lag_goes_to_nothing(
    tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path
) -> None:
    site = Site.make(tmp_path, kafka_broker, tiny_model, PARTITIONS)
    producer = traffic.Producer(site.bootstrap, site.topic)
    with running(site.write_settings(), site.log()) as daemon:
        port = http_port(daemon)
        producer.send(traffic.edits(EVENTS, traffic.users(USERS), PARTITIONS, seed=5))
        lags = {f"corlld_consumer_lag{{partition={number}}}": 0.0 for number in range(PARTITIONS)}

        def all_read_and_no_lag() -> bool:
            seen = scrape(port)
            return seen["corlld_records_total"] == EVENTS and lags.items() <= seen.items()

        wait_while_running(daemon, all_read_and_no_lag, "no lag", 120)
        assert site.lag() == 0
        seen = scrape(port)
        assert daemon.stop() == 0
    producer.close()

    def labelled(name: str) -> dict[str, float]:
        start = f"{name}{{"
        by_label = {series: figure for series, figure in seen.items() if series.startswith(start)}
        return {series.removeprefix(start).split("=")[1].rstrip("}"): n for series, n in by_label.items() if n}

    assert labelled("corlld_dead_letters_total") == Counter(producer.bad.values())
    assert sum(labelled("corlld_dead_letters_total").values()) == BAD
    events = labelled("corlld_events_total")
    assert sum(events.values()) == EVENTS - BAD
    assert labelled("corlld_duplicates_total") == {"event_id": DUPLICATES}
    pairs = labelled("corlld_pairs_total")
    assert sum(pairs.values()) == EVENTS - BAD - DUPLICATES
    assert pairs["acceptance"] == ACCEPTANCES
    assert seen["corlld_ready"] == 1
    assert seen["corlld_partitions"] == PARTITIONS
    assert seen["corlld_buffered_events"] == 0
    assert seen["corlld_low_watermark_age_seconds"] == 0
    assert seen["corlld_host_memory_users"] == USERS
    assert seen["corlld_commits_total"] > 0
    versions = seen["corlld_versions_published_total"]
    assert USERS <= versions == seen["corlld_updates_total"] <= seen["corlld_states_stored_total"]
    assert seen["corlld_publish_seconds_count"] == versions
    # Every edit that was in a version's micro-batch, timed from the producer's clock, which is this machine's.
    assert pairs["applied"] <= seen["corlld_edit_to_published_seconds_count"] <= sum(pairs.values())
    assert 0 < seen["corlld_edit_to_published_seconds_sum"] / seen["corlld_edit_to_published_seconds_count"] < 120
    assert seen["corlld_prequential_pairs_total{draft=unknown}"] > 0
    assert seen["corlld_draft_edit_ratio_count{draft=unknown}"] == EVENTS - BAD - DUPLICATES
    assert any(series.startswith("corlld_model_info{") for series in seen)
