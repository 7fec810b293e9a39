"""The whole bench against its bars: `make bench`. Its bars are meant for two cores and the demo's model."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kafka.broker import KafkaCluster

LIMIT_SECONDS = 14_000


@pytest.mark.bench
@pytest.mark.timeout(LIMIT_SECONDS)
def test_every_bar_holds(tmp_path: Path, kafka_broker: KafkaCluster) -> None:
    """Run the bench.

    CORLLD_TEST_BENCH_ARGUMENTS: more arguments, such as `--edits FILE`. CORLLD_TEST_BENCH_JSON: where figures are kept.
    """
    target = Path(os.environ.get("CORLLD_TEST_BENCH_JSON") or tmp_path / "bench.json")
    command = [sys.executable, "-m", "corlld", "bench", "--kafka", kafka_broker.bootstrap, "--json", str(target)]
    command += shlex.split(os.environ.get("CORLLD_TEST_BENCH_ARGUMENTS", ""))
    # The tests' own setting, of one thread, is not the machine's.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run(command, env=environment, check=True)
    figures = json.loads(target.read_text())["figures"]
    assert [f"{f['name']}: {f['value']:.3g}, bar {f['bar']}" for f in figures if f["holds"] is False] == []
