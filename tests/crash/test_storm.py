"""Storms: several daemons are killed and stopped at random, and nothing is lost, doubled, stale or brought back.

`make test` has a short storm on a folder. `make test-crash` has the long storms, on a folder and on two S3 servers,
where a proxy loses requests and answers as well. Each storm prints its seed, and `CORLLD_TEST_STORM_SEED` gives other
storms.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon_process import Launcher, Site
from tests.support.faulty_proxy import FaultyProxy
from tests.support.kafka.broker import KafkaCluster
from tests.support.s3_servers import ACCESS_KEY, SECRET_KEY, SERVERS, Server, environment, make_bucket
from tests.support.storm import Chaos, Storm, settings_of

SEED = int(os.environ.get("CORLLD_TEST_STORM_SEED", "1"))
SUMMARIES = os.environ.get("CORLLD_TEST_STORM_SUMMARIES")  # a folder for the storms' figures
BUCKET, PREFIX = "storm", "states"
FAULTY_SHARE = 0.05


def report(name: str, verdict: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{name}:", json.dumps(verdict["storm"]), json.dumps(verdict["figures"]))
    if SUMMARIES:
        Path(SUMMARIES).mkdir(parents=True, exist_ok=True)
        Path(SUMMARIES, f"{name}.json").write_text(json.dumps(verdict, indent=1) + "\n")


def on_folder(storm: Storm, folder: Path, broker: KafkaCluster, model: Path, launcher: Launcher) -> dict[str, Any]:
    site = Site.make(folder, broker, model, storm.partitions, **settings_of(storm))
    return Chaos(storm, site, launcher).run()


@contextmanager
def bucket_on(server: Server, folder: Path, faults: float, seed: int) -> Iterator[tuple[str, str, FaultyProxy | None]]:
    """Make a bucket. Yields the endpoint for daemons, the server's own, and the faulty proxy between them, if any."""
    with server.running(folder) as endpoint:
        make_bucket(endpoint, BUCKET)
        if not faults:
            yield endpoint, endpoint, None
            return
        proxy = FaultyProxy(endpoint, faults, seed)
        try:
            yield proxy.endpoint, endpoint, proxy
        finally:
            proxy.close()


def on_bucket(
    storm: Storm,
    server: Server,
    folder: Path,
    broker: KafkaCluster,
    model: Path,
    launcher: Launcher,
    faults: float = 0.0,
) -> dict[str, Any]:
    site = Site.make(folder, broker, model, storm.partitions, **settings_of(storm))
    with bucket_on(server, folder, faults, storm.seed) as (for_daemons, for_oracle, proxy):
        bucket = {"endpoint": for_oracle, "name": BUCKET, "prefix": PREFIX, "key": ACCESS_KEY, "secret": SECRET_KEY}
        sections = {"state": {"url": f"s3://{BUCKET}/{PREFIX}"}}
        chaos = Chaos(storm, site, launcher, environment(for_daemons), sections, {"bucket": bucket})
        verdict = chaos.run()
    if proxy is not None:
        verdict["storm"]["faulty_answers"] = dict(proxy.faults)
    return verdict


def test_nothing_is_lost_doubled_or_back_through_a_short_storm(
    tmp_path: Path,
    kafka_broker: KafkaCluster,
    tiny_model: Path,
    launcher: Launcher,
    capsys: pytest.CaptureFixture[str],
) -> None:
    storm = Storm(SEED, falls=14, daemons=3, partitions=6, users=12, events=140, erasures=8)
    verdict = on_folder(storm, tmp_path, kafka_broker, tiny_model, launcher)
    report("short", verdict, capsys)
    assert verdict["problems"] == []
    assert verdict["storm"]["kills"] >= 8


LONG = Storm(SEED, falls=100, events=2000, erasures=100)
SMALLER = replace(LONG, events=1000, erasures=50)
FAULTY = "faulty-"
# the store, the storm, and how many of them
PLAN = [
    ("folder", SMALLER, 3),
    ("versitygw", LONG, 3),
    ("minio", LONG, 2),
    (FAULTY + "versitygw", SMALLER, 2),
    (FAULTY + "minio", SMALLER, 2),
]


def storms() -> Iterator[Any]:
    """Yield the cases: each storm has a seed of its own, and every second stores updates several at a time."""
    for row, (kind, storm, count) in enumerate(PLAN):
        server = SERVERS.get(kind.removeprefix(FAULTY))
        missing = server is not None and server.find() is None
        reason = f"needs {kind.removeprefix(FAULTY)}, which `make test-crash` builds where there is Go"
        for n in range(count):
            seed = SEED + 10 * row + n
            case = replace(storm, seed=seed, deferred=n % 2 == 1)
            yield pytest.param(kind, case, marks=pytest.mark.skipif(missing, reason=reason), id=f"{kind}-{seed}")


@pytest.mark.crash
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "storm"), list(storms()))
def test_nothing_is_lost_doubled_or_back_through_a_long_storm(
    kind: str,
    storm: Storm,
    tmp_path: Path,
    kafka_broker: KafkaCluster,
    tiny_model: Path,
    launcher: Launcher,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = (tmp_path, kafka_broker, tiny_model, launcher)
    faulty = kind.startswith(FAULTY)
    if kind == "folder":
        verdict = on_folder(storm, *place)
    else:
        verdict = on_bucket(storm, SERVERS[kind.removeprefix(FAULTY)], *place, FAULTY_SHARE if faulty else 0.0)
    name = f"{kind}-{storm.seed}"
    report(name, verdict, capsys)
    again = f"make test-crash STORM={name} SEED={SEED}"
    assert verdict["problems"] == [], f"{again} repeats this storm"
    assert verdict["storm"]["taken_over"] > 0, "no daemon was stopped until others owned its users"
    assert verdict["storm"]["lost_swaps"] > 0, "no daemon tried to store an old state over a newer one"
    if faulty:
        assert sum(verdict["storm"]["faulty_answers"].values()) > 100
