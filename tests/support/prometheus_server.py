"""A real Prometheus (Debian's package) on loopback, set up with the project's own files, for the tests."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support import watching
from tests.support.kafka.broker import free_ports, tied_to_our_life
from tests.support.waiting import wait_until

SCRAPE_SECONDS = 1
START_SECONDS = 60.0
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Series:
    """The result of a query: `values` without those that are not a number (0/0: no event to judge)."""

    labels: Mapping[str, str]
    values: Sequence[float]


@dataclass(frozen=True)
class Prometheus:
    """Speaks to a running one."""

    url: str
    started_at: float  # unix seconds

    def now(self, expr: str) -> list[Series]:
        """The newest value."""
        return _series(self._get("query", query=expr)["result"], lambda one: [one["value"]])

    def over_time(self, expr: str) -> list[Series]:
        """Values since the start of this Prometheus, as a panel that shows just this time would ask for them."""
        result = self._get("query_range", query=expr, start=self.started_at, end=time.time(), step=SCRAPE_SECONDS)
        return _series(result["result"], lambda one: one["values"])

    def label_values(self, label: str, selector: str) -> list[str]:
        values: list[str] = self._get(f"label/{label}/values", **{"match[]": selector})
        return values

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **parameters: Any) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{what}", params=parameters, timeout=ANSWER_SECONDS)
        body = answer.json()
        assert body["status"] == "success", f"{parameters}: {body['error']}"
        return body["data"]


def _series(result: list[dict[str, Any]], points: Callable[[dict[str, Any]], list[Any]]) -> list[Series]:
    series = []
    for one in result:
        values = [float(value) for _, value in points(one)]
        series.append(Series(one["metric"], [value for value in values if value == value]))
    return series


def need(program: str) -> str:
    """Its path. Fails where it is not installed."""
    path = shutil.which(program)
    if path is None:
        pytest.fail(f"`{program}` is not installed: run `make system-packages` (Debian: package prometheus)")
    return path


def scraped(address: str) -> str:
    """Return what the daemon exposes, in Prometheus' text format."""
    answer = requests.get(f"http://{address}/metrics", timeout=ANSWER_SECONDS)
    answer.raise_for_status()
    return answer.text


def write_past(data: Path, expositions: Mapping[float, str], labels: Mapping[str, str]) -> None:
    """Puts what a daemon exposed into the storage of a Prometheus that is not started yet.

    Args:
        data: the storage's folder.
        expositions: by the unix time at which they are said to have been scraped; in order.
        labels: of the target.
    """
    lines = [
        f"{sample.name}{{{_labels(sample.labels | labels)}}} {sample.value} {at}\n"
        for at, text in expositions.items()
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    data.mkdir()
    file = data.with_suffix(".openmetrics")
    file.write_text("".join([*lines, "# EOF\n"]))
    command = [need("promtool"), "tsdb", "create-blocks-from", "openmetrics", file, data]
    subprocess.run(command, check=True, capture_output=True)


def _labels(labels: Mapping[str, str]) -> str:
    assert not {'"', "\\", "\n"} & set("".join(labels.values()))
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


@contextmanager
def running_prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """One that watches `target` with the project's files; only target, intervals and place are changed.

    Args:
        folder: for its files; what lies in `data` below it is its past.
        target: `host:port` of the daemon.
    """
    config, groups = watching.prometheus_config(), watching.rule_groups()
    often = f"{SCRAPE_SECONDS}s"
    config["global"] |= {"scrape_interval": often, "evaluation_interval": often, "scrape_timeout": often}
    [job] = config["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    for group in groups["groups"]:
        group.pop("interval", None)
    [rule_file] = config["rule_files"]
    (folder / rule_file).write_text(yaml.safe_dump(groups))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    [port] = free_ports(1)
    command = [
        *tied_to_our_life(),
        need("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{port}", time.time())
        wait_until(lambda: _is_ready(prometheus.url, process, log), "Prometheus is ready", START_SECONDS)
        yield prometheus
    finally:
        process.kill()
        process.wait()


def _is_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, f"Prometheus ended:\n{log.read_text()[-3000:]}"
    try:
        return requests.get(f"{url}/-/ready", timeout=ANSWER_SECONDS).ok
    except requests.ConnectionError:
        return False
