"""`corlld check`: what it prints of each part, and which problem it blames."""

import gzip
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from corlld.cli import main
from corlld.learning.model.loading import load_resident_model
from tests.families.table import FAMILIES
from tests.support.kafka.broker import KafkaCluster
from tests.support.odd_families import build, phimoe
from tests.support.tiny_models import make_tokenizer


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("CORLLD_LEARNING__MAX_ROW_TOKENS", "1000000000", "a step is larger than the"),
        ("CORLLD_BATCHING__MAX_USERS_PER_STEP", "1000000000", "a step is larger than the"),
        ("CORLLD_STATE__HOST_MEMORY_BYTES", "1000", "too small for one user"),
    ],
)
def test_check_tells_what_memory_has_no_room_for(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    problem: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["check"]) == 78
    assert problem in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", [["check"], ["replay", "--json", "events.jsonl"]], ids=lambda command: command[0])
def test_what_takes_long_is_named_on_standard_error_before_it_begins(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(site)
    printed: list[str] = []

    def load(*arguments: Any, **more: Any) -> Any:
        printed.append(capsys.readouterr().err)
        return load_resident_model(*arguments, **more)

    for place in ("learning.model.loading", "learning.loaded_learner"):
        monkeypatch.setattr(f"corlld.{place}.load_resident_model", load)
    assert main(command) == 0
    assert len(printed) == 1
    assert printed[0].splitlines()[-1].startswith("loading ")
    assert " ..." not in capsys.readouterr().out


def test_a_check_names_each_part_that_it_waits_for(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--sample", "5"]) == 0
    steps = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" ...")]
    assert steps == [
        "reaching the input ...",
        "reaching the dead letters ...",
        f"loading {os.environ['CORLLD_MODEL__NAME']} ...",
        "looking at the state store ...",
        "reading the newest 5 records ...",
    ]


def test_check_says_that_a_file_is_in_another_format(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "events.jsonl").write_bytes(gzip.compress((site / "events.jsonl").read_bytes()))
    assert main(["check"]) == 65
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem")]
    assert "input" in line
    assert "it is compressed (gzip): unpack it first" in line


def test_the_settings_command_prints_what_check_accepts(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["settings"]) == 0
    file = tmp_path / "corlld.toml"
    file.write_text(capsys.readouterr().out)
    assert main(["check", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    assert "problem" not in out
    assert "chat template" in out
    assert not (site / "state").exists(), "a check changes nothing"
    assert main(["run"]) == 0
    capsys.readouterr()
    assert main(["check"]) == 0
    assert "it holds 2 users" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weight", "path", "count"), [(None, None, 16), ("0", None, 0), ("0.1", "passages.txt", 2)], ids=str
)
def test_check_tells_how_many_passages_are_rehearsed(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    weight: str | None,
    path: str | None,
    count: int,
) -> None:
    sentence = "A sentence that has more words in it than those that are given."
    (site / "passages.txt").write_text(f"{sentence}\n\n{sentence}\n")
    if weight is not None:
        monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_WEIGHT", weight)
    if path is not None:
        monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_PATH", str(site / path))
    assert main(["check"]) == 0
    assert f"; passages rehearsed: {count}\n" in capsys.readouterr().out


def test_check_tries_the_passages_that_only_an_arm_rehearses(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_WEIGHT", "0")
    rules = {"plain": {"lr": 1e-4}, "sound": {"rehearsal_weight": 0.1}}
    arms = [{"name": name, "share": 0.1, "learning": rule} for name, rule in rules.items()]
    monkeypatch.setenv("CORLLD_EXPERIMENT__ARMS", json.dumps(arms))
    assert main(["check"]) == 0
    assert "; passages rehearsed: 16\n" in capsys.readouterr().out


def test_check_and_run_say_what_of_the_model_is_not_adapted(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build(phimoe).save_pretrained(site / "model")
    make_tokenizer().save_pretrained(site / "model")
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(site / "model"))
    left_out = (
        "2 linear modules carry no LoRA (PhimoeTopKRouter computes in a way of its own): mlp.router in model.layers"
    )
    experts = "routed experts carry no LoRA: 49,152 of the model's 75,072 numbers (65%) stay as they are"
    assert main(["check"]) == 0
    lines = [line[24:] for line in capsys.readouterr().out.splitlines()]
    (adapted,) = [number for number, line in enumerate(lines) if "numbers, in 8 modules; " in line]
    assert lines[adapted + 1 : adapted + 3] == [left_out, experts]
    assert main(["run"]) == 0
    logged = capsys.readouterr().err
    assert logged.count(left_out) == logged.count(experts) == logged.count("not_adapted") / 2 == 1


def test_check_and_run_say_what_the_engine_must_do_for_the_same_positions(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FAMILIES["phi3-longrope"].save(site / "model")
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(site / "model"))
    said = "texts have at most 96 tokens here, and the engine must be limited to as many (vLLM: --max-model-len"
    assert main(["check"]) == 0
    assert said in capsys.readouterr().out
    assert main(["run"]) == 0
    assert capsys.readouterr().err.count(said) == 1


def test_a_check_blames_a_dead_broker_once(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
    monkeypatch.delenv("CORLLD_SOURCE__PATH")
    monkeypatch.setenv("CORLLD_PUBLISHING__ANNOUNCE_TOPIC", "adapters")
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", f"127.0.0.1:{taken.getsockname()[1]}")
        assert main(["check"]) == 69
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("problem")] == ["input"]
    skipped = [line[9:23].strip() for line in lines if line.startswith("skipped")]
    assert skipped == ["dead letters", "announcements", "state store"]


def test_a_check_names_every_missing_topic_in_one_run(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kafka_broker: KafkaCluster
) -> None:
    topics = {"input": "no-edits", "dead letters": "no-letters", "announcements": "no-adapters"}
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
    monkeypatch.delenv("CORLLD_SOURCE__PATH")
    monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", kafka_broker.bootstrap)
    monkeypatch.setenv("CORLLD_KAFKA__TOPIC", topics["input"])
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__TOPIC", topics["dead letters"])
    monkeypatch.setenv("CORLLD_PUBLISHING__ANNOUNCE_TOPIC", topics["announcements"])
    monkeypatch.setattr("corlld.commands.inspection.REACH_SECONDS", 1.5)
    assert main(["check"]) == 69
    lines = capsys.readouterr().out.splitlines()
    problems = {line[9:23].strip(): line[24:] for line in lines if line.startswith("problem")}
    assert list(problems) == list(topics)
    for name, topic in topics.items():
        assert problems[name].startswith(f"topic {topic} does not exist")
        # Each waits for its own topic alone, and not for the time of the start.
        assert re.search(r"\(waited [12](\.\d)? s\)", problems[name]), problems[name]


def test_check_recommends_a_holdout_and_names_the_arms(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advice = "recommended: a holdout of 5 % of new users"
    assert main(["check"]) == 0
    assert advice in capsys.readouterr().out
    slow = {"name": "slow", "share": 0.25, "learning": {"lr": 1e-4}}
    monkeypatch.setenv("CORLLD_EXPERIMENT__ARMS", json.dumps([slow]))
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "slow 0.25, default 0.75" in out
    assert advice in out
    off = {"name": "off", "share": 0.05, "holdout": True}
    monkeypatch.setenv("CORLLD_EXPERIMENT__ARMS", json.dumps([slow, off]))
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "slow 0.25, off 0.05 (no learning), default 0.7" in out
    assert advice not in out


def test_check_says_what_a_change_of_the_settings_takes_out_of_a_running_experiment(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_EXPERIMENT__ARMS", json.dumps([{"name": "off", "share": 1e-6, "holdout": True}]))
    assert main(["run"]) == 0
    assert main(["check"]) == 0
    assert "changed while it runs" not in capsys.readouterr().out
    monkeypatch.setenv("CORLLD_LEARNING__BETA", "0.2")
    assert main(["check"]) == 0
    found = "changed while it runs: of 2 users looked at, 2 users of arm default are left out: joined under"
    assert found in capsys.readouterr().out


def test_check_and_run_name_the_settings_that_are_not_used(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check"]) == 0
    assert "not used" not in capsys.readouterr().out
    monkeypatch.setenv("CORLLD_KAFKA__TOPIC", "other")
    said = "not used: kafka.topic (source.kind is jsonl: only `corlld send` reads this)"
    assert main(["check"]) == 0
    assert f"{'':23} {said}\n" in capsys.readouterr().out
    assert main(["run"]) == 0
    assert capsys.readouterr().err.count(said) == 1
