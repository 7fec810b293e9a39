"""The daemon's costs are measured on the real loop, the real store and a real broker."""

from pathlib import Path

import pytest

from corlld.bench.daemon_costs import EDITS, commit_share, latencies_beyond
from corlld.bench.decoding import decode_shares
from corlld.bench.known_users import known_users_cost
from corlld.bench.memory import peak_beyond_states
from corlld.bench.workloads import made_up_edits
from corlld.errors import UnavailableError
from corlld.learning import passages
from tests.support.kafka.broker import KafkaCluster

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_updates_are_timed_at_each_number_of_known_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "PLAIN_ENGLISH", tmp_path / "none")  # not rehearsed: it would hide what is measured
    steps: list[int] = []
    seconds, each = known_users_cost(tmp_path, 1, steps.append, sizes=(10, 30))
    assert set(seconds) == {10, 30}
    assert each == [seconds[30] / seconds[10]]
    assert len(list((tmp_path / "30" / "state" / "users").iterdir())) == 30
    assert len(steps) == 2 + 2 * 2


def test_commits_and_publications_take_a_share_of_the_time(tmp_path: Path, tiny_model: Path) -> None:
    events = made_up_edits()[:3]
    assert 0 < commit_share(tmp_path, str(tiny_model), events) < 1
    versions = list((tmp_path / "adapters").glob("*/v*"))
    assert len({version.parent for version in versions}) == 3


def test_latencies_are_those_of_single_edits(tmp_path: Path, tiny_model: Path) -> None:
    each = latencies_beyond(tmp_path, str(tiny_model), made_up_edits()[:2])
    assert len(each) == EDITS - 1
    assert all(0 < latency < 30 for latency in each)
    assert max(int(v.name[1:]) for v in (tmp_path / "adapters").glob("*/v*")) == EDITS


def test_records_are_decoded_beside_a_bare_poll_loop(kafka_broker: KafkaCluster) -> None:
    share, each = decode_shares(kafka_broker.bootstrap, made_up_edits(), 1, lambda _: None, records=3_000)
    assert 0 < share < 3
    assert each == [share]
    with kafka_broker.admin() as admin:
        assert not [topic for topic in admin.list_topics() if topic.startswith("corlld-bench")]


def test_a_broker_that_is_not_there_is_said() -> None:
    with pytest.raises(UnavailableError, match="--kafka: 127"):
        decode_shares("127.0.0.1:1", made_up_edits(), 1, lambda _: None)


def test_memory_is_measured_in_processes_of_their_own(tiny_model: Path) -> None:
    peaks = [peak_beyond_states(way, str(tiny_model), None) for way in ("packed", "peft")]
    assert all(0 < peak < 2**31 for peak in peaks)
