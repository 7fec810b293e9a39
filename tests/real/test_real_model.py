"""The whole way with the real model and, where they are, real edits. Minutes, not seconds."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import oracle, traffic
from tests.support.daemon_process import Site, running
from tests.support.kafka.broker import KafkaCluster

ROOT = Path(__file__).parents[2]
REAL_EDITS = ROOT.parent / "shared" / "data" / "edits-dev.jsonl"
SHIPPED_EDITS = ROOT / "deploy" / "examples" / "edits.jsonl"
EVENTS, USERS, PARTITIONS = 300, 8, 4
MAX_CHARS = 600  # of one event's texts: a pair is then trained in about a second on two cores
LIMIT_SECONDS = 1200.0
FIELDS = ("event_id", "user_id", "occurred_at", "prompt", "proposed", "edited")


def edits() -> Iterator[dict[str, Any]]:
    """Short edits of the busiest users, oldest first, over and over with other ids."""
    file = REAL_EDITS if REAL_EDITS.exists() else SHIPPED_EDITS
    rows = [{name: row[name] for name in FIELDS} for row in map(json.loads, file.read_text().splitlines())]
    short = [row for row in rows if sum(len(row[name]) for name in FIELDS[3:]) <= MAX_CHARS]
    busiest = {user for user, _ in Counter(row["user_id"] for row in short).most_common(USERS)}
    share = {user: itertools.count() for user in busiest}
    chosen = [row for row in short if row["user_id"] in busiest and next(share[row["user_id"]]) < EVENTS // USERS]
    for again in itertools.count():
        for row in chosen:
            yield row | {"event_id": f"{row['event_id']}-{again}"}


@pytest.mark.real
@pytest.mark.timeout(2 * LIMIT_SECONDS)
def test_the_real_model_learns_every_good_event_once(
    tmp_path: Path, kafka_broker: KafkaCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site.make(tmp_path, kafka_broker, "demo", PARTITIONS)
    config = site.write_settings(
        events={"max_text_chars": traffic.MAX_TEXT_CHARS},
        model={"name": "demo", "threads": 2},
        adapter={"r": 8, "lora_alpha": 16},
        learning={"lr": 1e-4, "pairs_per_step": 4},
        batching={"max_events": 8, "flush_after_seconds": 5.0},
        # The first start converts the model.
        operations={"startup_timeout_seconds": 300.0, "shutdown_timeout_seconds": 120.0},
    )
    producer = traffic.Producer(site.bootstrap, site.topic)
    producer.send(traffic.mixed(EVENTS, edits(), PARTITIONS, seed=9))
    started = time.monotonic()
    with running(config, site.log()) as daemon:
        site.wait_for_end(daemon, LIMIT_SECONDS)
        seconds = time.monotonic() - started
        assert daemon.stop(120) == 0
    producer.close()

    verdict = site.verdict(producer, pairs_per_step=4)
    with capsys.disabled():
        print(f"\n{seconds:.0f} s from the start to lag 0, {json.dumps(verdict['figures'])}")
        print(*map(line_of, sorted(site.states.glob("users/*"))), sep="\n")
    assert verdict["problems"] == []


def line_of(folder: Path) -> str:
    state = oracle.read_state_header(oracle.newest_state_file(folder))
    figures = state["statistics"]
    scored = figures["prequential_pairs"] or 1
    return (
        f"{folder.name[:8]}  version {state['version']:3d}  {figures['events']:3d} events, "
        f"{figures['pairs_applied']:3d} pairs, rejected {figures['rejected']}, prequential accuracy "
        f"{figures['prequential_correct'] / scored:.2f}, margin {figures['prequential_margin_sum'] / scored:+.2f}, "
        f"base model's own preference {figures['base_correct'] / (figures['base_pairs'] or 1):.2f}"
    )
