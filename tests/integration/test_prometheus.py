"""A real daemon on a real broker, watched by a real Prometheus: every expression of alerts and dashboard has data.

The daemon gives its own past: what it exposes before and after the first edits is put into Prometheus' storage as if
scraped yesterday. So a metric that is renamed is gone from the past as well as from now.
"""

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support import traffic, watching
from tests.support.daemon_process import DaemonProcess, Site, running, wait_while_running
from tests.support.kafka.broker import KafkaCluster
from tests.support.prometheus_server import (
    SCRAPE_SECONDS,
    Prometheus,
    Series,
    running_prometheus,
    scraped,
    write_past,
)

USERS, PARTITIONS, RECORDS = 3, 2, 60
# The hash puts the first of the users into the holdout, the others into the default.
EXPERIMENT = {
    "CORLLD_EXPERIMENT__ARMS": json.dumps([{"name": "off", "share": 0.3, "holdout": True}]),
    "CORLLD_EXPERIMENT__DRAFTS": "4",
}
HOUR = 3600.0
PATIENCE_SECONDS = 120.0
JOB = watching.prometheus_config()["scrape_configs"][0]["job_name"]
VARIABLES = {
    "instance": ".+",  # All
    "window": "1h",
    # Grafana: the larger of four scrapes, and of a step and a scrape.
    "__rate_interval": f"{4 * SCRAPE_SECONDS}s",
    "__range": "5m",
}


@dataclass(frozen=True)
class Watched:
    """A Prometheus that has seen all that the daemon did. dead_letters: how many were sent, by reason."""

    prometheus: Prometheus
    address: str
    dead_letters: Counter[str]


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory, kafka_broker: KafkaCluster, tiny_model: Path
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    site = Site.make(folder, kafka_broker, tiny_model, PARTITIONS)
    producer = traffic.Producer(site.bootstrap, site.topic)
    with running(site.write_settings(), site.log(), **EXPERIMENT) as daemon:
        wait_while_running(daemon, lambda: bool(_addresses(daemon)), "the address of /metrics", PATIENCE_SECONDS)
        [address] = _addresses(daemon)
        before = scraped(address)
        # First drafts of the base model, then of the version that they made.
        _send(producer, site, daemon, seed=1, versions=(0,))
        _send(producer, site, daemon, seed=2, versions=(1,))
        yesterday = time.time() - 30 * HOUR
        past = {yesterday: before, yesterday + HOUR: scraped(address)}
        write_past(folder / "data", past, {"job": JOB, "instance": address})
        with running_prometheus(folder, address) as prometheus:
            wait_while_running(daemon, lambda: bool(prometheus.now("up == 1")), "a first scrape", PATIENCE_SECONDS)
            _send(producer, site, daemon, seed=3, versions=(0, 1))
            _wait_until_all_is_seen(prometheus, daemon)
            yield Watched(prometheus, address, Counter(producer.bad.values()))
        assert daemon.stop() == 0
    producer.close()


def _addresses(daemon: DaemonProcess) -> list[str]:
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
    return [f"{line['host']}:{line['port']}" for line in lines if line["event"] == "http_listening"]


def _send(
    producer: traffic.Producer, site: Site, daemon: DaemonProcess, *, seed: int, versions: tuple[int, ...]
) -> None:
    """Edits of drafts by these versions, in turn; returns once they are learnt from and committed."""
    draw, names = random.Random(seed), traffic.users(USERS)
    bodies = (
        traffic.event(draw, f"event-{seed}-{number}", draw.choice(names))
        | {"adapter_version": versions[number % len(versions)]}
        for number in range(RECORDS)
    )
    producer.send(traffic.mixed(RECORDS, bodies, PARTITIONS, seed=seed))
    site.wait_for_end(daemon)


def _wait_until_all_is_seen(prometheus: Prometheus, daemon: DaemonProcess) -> None:
    """Wait until Prometheus has scraped what is there now, and then has evaluated each rule on it."""

    def scraped_at() -> float:
        [up] = prometheus.now("timestamp(up)")
        return up.values[0]

    def evaluated_at() -> float:
        return min(datetime.fromisoformat(rule["lastEvaluation"]).timestamp() for rule in prometheus.rules())

    _wait_until_after_now(scraped_at, "a scrape after the last record", daemon)
    _wait_until_after_now(evaluated_at, "an evaluation of that scrape", daemon)


def _wait_until_after_now(unix_time: Callable[[], float], what: str, daemon: DaemonProcess) -> None:
    now = time.time()
    wait_while_running(daemon, lambda: unix_time() > now, what, PATIENCE_SECONDS)


def _ids(targets: list[watching.Target]) -> list[str]:
    return [f"{target.panel}: {target.legend}" for target in targets]


def _check_has_data(ask: Callable[[str], list[Series]], expr: str) -> list[Series]:
    """Return the series of the whole query. Fail if it, or a part that it compares, gives no number."""
    whole, *operands = [(one, ask(one)) for one in watching.with_data(watching.substituted(expr, VARIABLES))]
    for asked, series in (whole, *operands):
        assert any(one.values for one in series), f"no data: {asked}"
    return whole[1]


@pytest.mark.parametrize("rule", watching.rules(), ids=lambda rule: rule.get("record") or rule["alert"])
def test_every_rule_has_data(watched: Watched, rule: dict[str, Any]) -> None:
    _check_has_data(watched.prometheus.now, rule["expr"])


@pytest.mark.parametrize("target", watching.targets(), ids=_ids(watching.targets()))
def test_every_query_of_a_panel_has_data_under_the_labels_of_its_legend(
    watched: Watched, target: watching.Target
) -> None:
    ask = watched.prometheus.now if target.instant else watched.prometheus.over_time
    shown = [one.labels for one in _check_has_data(ask, target.expr) if one.values]
    for labels in shown:
        assert set(re.findall(r"{{(\w+)}}", target.legend)) <= set(labels)
    if any("draft" in labels for labels in shown):
        assert {"own", "base"} <= {labels["draft"] for labels in shown}


@pytest.mark.parametrize("expr", watching.annotations())
def test_every_annotation_has_data(watched: Watched, expr: str) -> None:
    _check_has_data(watched.prometheus.over_time, expr)


def test_the_row_of_the_experiment_shows_the_holdout_and_the_default(watched: Watched) -> None:
    shown = {
        target.panel: {
            one.labels["arm"]
            for one in watched.prometheus.over_time(watching.substituted(target.expr, VARIABLES))
            if one.values
        }
        for target in watching.targets()
        if "corlld_arm_" in target.expr
    }
    assert len(shown) == 5
    assert shown.pop("Saved against no learning") == {"default"}
    assert all(arms >= {"default", "off"} for arms in shown.values())


def test_the_dead_letters_panel_shows_what_was_sent(watched: Watched) -> None:
    shown = [target for target in watching.targets() if target.panel == "Dead letters"]
    [target] = [target for target in shown if "corlld_dead_letters_total" in target.expr]
    series = watched.prometheus.over_time(watching.substituted(target.expr, VARIABLES))
    assert sum(watched.dead_letters.values()) == 3 * RECORDS * 5 // 100
    assert {one.labels["reason"]: one.values[-1] for one in series if one.values[-1]} == watched.dead_letters


def test_the_daemons_to_choose_from_are_those_that_are_watched(watched: Watched) -> None:
    [variable] = [one for one in watching.dashboard()["templating"]["list"] if one["type"] == "query"]
    call = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert call is not None
    assert watched.prometheus.label_values(call[2], call[1]) == [watched.address]


def test_prometheus_evaluates_every_rule_without_an_error(watched: Watched) -> None:
    rules = watched.prometheus.rules()
    assert {rule["name"] for rule in rules} == {rule.get("record") or rule["alert"] for rule in watching.rules()}
    assert {rule["health"] for rule in rules} == {"ok"}
