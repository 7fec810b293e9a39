"""An event whose step ends the process, or never ends: it is set aside, and all others are learnt as without it."""

import functools
import json
import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from corlld.adapters.layout import AdapterTensors
from corlld.settings.sections import LearningSettings
from corlld.state.store import LocalFolderStore
from tests.support import traffic
from tests.support.daemon_process import Launcher, Life, Poison, Site, tail, wait_while_running
from tests.support.kafka.broker import KafkaCluster
from tests.support.quiet_learning import write_undisturbed_tensors
from tests.support.traffic import Sent

LIVES = LearningSettings().max_crashes + 3
EVENTS, GUILTY = 30, 11


def from_a_file(folder: Path, model: Path) -> tuple[Path, list[Sent], Poison]:
    """Write a file of edits of four users, with two malformed lines and a guilty event, and settings to learn it."""
    draw = random.Random(7)
    users = traffic.users(4)
    bodies = (traffic.event(draw, f"e{number}", users[number % len(users)]) for number in range(EVENTS))
    records = [traffic.plain(0, body["user_id"], body) for body in bodies]
    records[GUILTY] = replace(records[GUILTY], reason="crashed")
    for place in (20, GUILTY + 3):  # beyond the guilty one: replayed by each life
        records.insert(place, Sent(0, None, b"{broken", reason="not_json"))
    (folder / "edits.jsonl").write_bytes(b"".join((sent.value or b"") + b"\n" for sent in records))
    sections: dict[str, dict[str, object]] = {
        "source": {"kind": "jsonl", "path": str(folder / "edits.jsonl")},
        "model": {"name": str(model), "device": "cpu", "threads": 1},
        "adapter": {"r": 4, "lora_alpha": 8},
        "learning": {"lr": 1e-3, "pairs_per_step": 1, "max_row_tokens": 1},
        "batching": {"max_events": 4, "flush_after_seconds": 0.2},
        "state": {"path": str(folder / "state")},
        "publishing": {"path": str(folder / "adapters")},
        "operations": {"http_address": "127.0.0.1:0", "log_format": "json"},
    }
    config = folder / "corlld.toml"
    config.write_text(
        "\n".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
            for name, section in sections.items()
        )
    )
    return config, records, Poison(f"e{GUILTY}")


def assert_learnt_as_without_the_guilty_event(config: Path, records: list[Sent]) -> None:
    """Compare each user's tensors, bit by bit, and the dead letters."""
    folder = config.parent
    store = LocalFolderStore(folder / "state")
    twin = write_undisturbed_tensors(config, records, folder / "tensors")
    uids = [file.stem for file in twin.iterdir()]
    assert sorted(uids) == sorted(store.uids())
    for uid in uids:
        state, _ = store.load(uid)
        assert state is not None
        assert isinstance(state.adapter, AdapterTensors)
        for name, wanted in load_file(twin / f"{uid}.safetensors").items():
            assert getattr(state.adapter, name).numpy().tobytes() == wanted.numpy().tobytes(), (uid, name)
    letters = [json.loads(line) for line in (folder / "state" / "dead-letters.jsonl").read_text().splitlines()]
    reasons = Counter(letter["headers"]["corlld.reason"] for letter in letters)
    assert reasons == {"crashed": 1, "not_json": 2}, "one copy each"


def test_an_event_that_aborts_the_process_is_set_aside_and_all_others_are_learnt_to_the_bit(
    tmp_path: Path, tiny_model: Path, launcher: Launcher
) -> None:
    config, records, poison = from_a_file(tmp_path, tiny_model)
    codes = []
    while not codes or codes[-1]:
        assert len(codes) <= LIVES, tail(tmp_path / "log")
        codes.append(launcher.start(config, tmp_path / "log", poison=poison).wait(60))
    assert codes == [-6] * LIVES + [0]
    assert_learnt_as_without_the_guilty_event(config, records)


def test_an_event_whose_step_never_ends_is_set_aside_after_as_many_kills_by_the_watchdog(
    tmp_path: Path, tiny_model: Path, launcher: Launcher
) -> None:
    config, records, poison = from_a_file(tmp_path, tiny_model)
    log = tmp_path / "log"

    log.touch()
    for number in range(1, LIVES + 1):
        life = launcher.start(config, log, poison=replace(poison, way="hang"))
        hung = functools.partial(_says, log, "poisoned: hang", number)
        wait_while_running(life, hung, "the step that never ends", 60)
        life.kill()
    assert launcher.start(config, log, poison=replace(poison, way="hang")).wait(60) == 0
    assert_learnt_as_without_the_guilty_event(config, records)


def test_a_group_whose_daemons_die_one_after_the_other_sets_the_event_aside_and_learns_all_others(
    tmp_path: Path, kafka_broker: KafkaCluster, tiny_model: Path, launcher: Launcher
) -> None:
    """Dynamic members: after each crash another daemon may take the partition over."""
    site = Site.make(tmp_path, kafka_broker, tiny_model, 2, learning={"max_crashes": 1})
    config = site.write_settings()
    records = traffic.edits(60, traffic.users(4), 2, seed=3)
    guilty, event_id = _a_plain_edit(records)
    records[guilty] = replace(records[guilty], reason="crashed")
    producer = traffic.Producer(site.bootstrap, site.topic)
    producer.send(records)

    lives: dict[str, Life] = {}
    crashes: Counter[str] = Counter()
    until = time.monotonic() + 150
    while any(life.code is not None for life in lives.values()) or not lives or site.lag():
        assert time.monotonic() < until, f"{crashes}\n" + "\n".join(tail(site.log(name)) for name in lives)
        for name in ("one", "two"):
            if name not in lives or lives[name].code is not None:
                crashes[name] += name in lives
                lives[name] = launcher.start(config, site.log(name), poison=Poison(event_id))
        time.sleep(0.2)  # between looks: each asks the broker for the lag
    assert [life.stop() for life in lives.values()] == [0, 0]
    producer.close()
    assert 2 <= crashes.total() <= 1 + 3 + 2, "a change of owners in the middle of a step counts one more or less"

    tensors = write_undisturbed_tensors(config, records, tmp_path / "tensors")
    verdict = site.verdict(producer, pairs_per_step=1, tensors_folder=str(tensors), copies_allowed=True)
    assert verdict["problems"] == []


def _says(log: Path, sentence: str, times: int) -> bool:
    return log.read_text().count(sentence) == times


def _a_plain_edit(records: list[Sent]) -> tuple[int, str]:
    """Return place and id of an edit in the middle that is sent once, and is no CloudEvent."""
    values = Counter(sent.value for sent in records)
    for place in range(len(records) // 3, len(records)):
        sent = records[place]
        fields = json.loads(sent.value) if sent.value and sent.reason is None else {}
        if "event_id" in fields and values[sent.value] == 1 and fields["proposed"] != fields["edited"]:
            return place, fields["event_id"]
    raise pytest.fail("the traffic has no such edit")
