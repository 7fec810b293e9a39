"""An experiment of four arms on a real broker, with daemons that come and go: `corlld experiment` against an oracle."""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import arms_oracle, oracle, traffic
from tests.support.arms_oracle import FIRST_DRAFTS, User
from tests.support.commands import SECRET
from tests.support.daemon_process import ENVIRON, ROOT, Launcher, Life, Site
from tests.support.kafka.broker import KafkaCluster
from tests.support.traffic import Producer, Sent

USERS, PARTITIONS, DRAFTS, DAEMONS = 600, 6, 3, 3
SHARES = {"off": 0.2, "imitating": 0.3, "slow": 0.1}
ARMS: list[dict[str, Any]] = [
    {"name": "off", "share": 0.2, "holdout": True},
    {"name": "imitating", "share": 0.3, "learning": {"imitation_weight": 0.3}},
    {"name": "slow", "share": 0.1, "learning": {"lr": 1e-4}},
]
EXPERIMENT = {"CORLLD_EXPERIMENT__ARMS": json.dumps(ARMS), "CORLLD_EXPERIMENT__DRAFTS": str(DRAFTS)}
# How many of ten words a user of each arm changes, give or take one, after the first drafts.
CHANGED = {"off": 6, "imitating": 2, "slow": 5, "default": 4}
CHANGED_AT_FIRST = 5
WAIT_SECONDS = 240.0


@dataclass(frozen=True)
class Run:
    """What a finished run left behind, and what the topic says of it."""

    site: Site
    config: Path
    users: dict[str, User]  # by uid
    states: dict[str, dict[str, Any]]  # by uid
    report: dict[str, Any]  # of `corlld experiment --json`

    def of_arm(self, arm: str) -> set[str]:
        return {uid for uid, user in self.users.items() if user.arm == arm}


def case_of(site: Site) -> oracle.Case:
    places = {"state_folder": str(site.states), "adapters_folder": str(site.adapters), "secret": SECRET}
    topics = {"topic": site.topic, "dead_letters_topic": f"{site.topic}.dead-letters"}
    return oracle.Case(site.bootstrap, group=site.group, bad={}, records=0, **topics, **places)


def edits(site: Site, drafts: range, *, seed: int) -> Iterator[Sent]:
    """Yield these drafts of each user. Some users do not come to the last one, some edits come twice."""
    draw, case = random.Random(seed), case_of(site)
    for draft in drafts:
        for number, user in enumerate(traffic.users(USERS)):
            if draft == FIRST_DRAFTS + DRAFTS - 1 and number % 6 == 0:
                continue
            arm = arms_oracle.arm_of(oracle.uid_of(case, user), SHARES)
            changed = CHANGED_AT_FIRST if draft < FIRST_DRAFTS else CHANGED[arm] + draw.randint(-1, 1)
            words = draw.choices(traffic.WORDS, k=10)
            body = {
                "event_id": f"{number}-{draft}",
                "user_id": user,
                "occurred_at": traffic.OCCURRED_AT,
                "prompt": "Dear all, ",
                "proposed": " ".join(words),
                "edited": " ".join("never" if place < changed else word for place, word in enumerate(words)),
                "adapter_version": 0,
            }
            sent = traffic.plain(traffic.partition_of(user, PARTITIONS), user, body)
            yield from [sent, sent] if (number + draft) % 11 == 0 else [sent]


def experiment(config: Path, *options: str) -> str:
    command = [sys.executable, "-m", "corlld", "experiment", "--config", str(config), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | ENVIRON | EXPERIMENT
    )
    return done.stdout


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, kafka_broker: KafkaCluster, tiny_model: Path, launcher: Launcher
) -> Run:
    """First drafts, then the later ones; a daemon is stopped and one is killed meanwhile, and all start twice."""
    site = Site.make(tmp_path_factory.mktemp("experiment"), kafka_broker, tiny_model, PARTITIONS)
    config = site.write_settings(
        batching={"max_events": 8, "max_users_per_step": 16, "flush_after_seconds": 1.0},
        learning={"pairs_per_step": 8, "max_row_tokens": 896, "rehearsal_weight": 0.0},
    )
    producer = Producer(site.bootstrap, site.topic)

    def start(name: str) -> Life:
        return launcher.start(config, site.log(name), environ=ENVIRON | EXPERIMENT)

    def stop(daemons: list[Life]) -> None:
        for daemon in daemons:
            daemon.signal(signal.SIGTERM)
        assert [daemon.wait(60) for daemon in daemons] == [0] * len(daemons)

    producer.send(list(edits(site, range(FIRST_DRAFTS), seed=1)))
    daemons = [start(f"first-{number}") for number in range(DAEMONS)]
    site.wait_for_progress(daemons[0])
    stop(daemons[:1])
    site.wait_for_end(daemons[1], WAIT_SECONDS)
    stop(daemons[1:])
    producer.send(list(edits(site, range(FIRST_DRAFTS, FIRST_DRAFTS + DRAFTS), seed=2)))
    daemons = [start(f"second-{number}") for number in range(DAEMONS)]
    site.wait_for_progress(daemons[0])
    daemons[0].signal(signal.SIGKILL)
    daemons[0].wait(60)
    daemons[0] = start("again")
    site.wait_for_end(daemons[1], WAIT_SECONDS)
    stop(daemons)
    producer.close()
    users = arms_oracle.users_of(case_of(site), SHARES)
    report = json.loads(experiment(config, "--json"))
    return Run(site, config, users, arms_oracle.states_of(site.states), report)


def test_every_user_is_in_the_arm_of_the_hash(run: Run) -> None:
    assert len(run.users) == USERS
    assert {uid: state["participation"]["arm"] for uid, state in run.states.items()} == {
        uid: user.arm for uid, user in run.users.items()
    }
    counts = Counter(user.arm for user in run.users.values())
    for arm, share in (SHARES | {"default": 0.4}).items():
        assert abs(counts[arm] - share * USERS) < 5 * (USERS * share * (1 - share)) ** 0.5


def test_the_holdout_has_no_adapter_anywhere_and_all_others_have(run: Run) -> None:
    held_out = run.of_arm("off")
    learnt = set(run.users) - held_out
    assert held_out
    for uid in held_out:
        state = run.states[uid]
        assert (state["version"], state["release"], state["optimizer_step"]) == (0, None, None)
        assert state["statistics"]["updates"] == 0
        assert state["statistics"]["events"] == len(run.users[uid].ratios)
    assert all(run.states[uid]["optimizer_step"] for uid in learnt)
    assert {folder.name for folder in run.site.adapters.iterdir()} == learnt
    announced = oracle.read_topic(run.site.bootstrap, f"{run.site.topic}.adapters")
    assert {record.key.decode() for record in announced} == learnt
    for manifest in run.site.adapters.glob("*/*/manifest.json"):
        assert json.loads(manifest.read_text())["arm"] == run.users[manifest.parts[-3]].arm


def test_arms_learn_by_rules_of_their_own(run: Run) -> None:
    terms = {arm: {run.states[uid]["participation"]["terms"] for uid in run.of_arm(arm)} for arm in CHANGED}
    assert all(len(own) == 1 for own in terms.values())
    assert len(set.union(*terms.values())) == len(CHANGED)


def test_the_figures_of_each_arm_are_those_of_the_events(run: Run) -> None:
    wanted = arms_oracle.figures_of(run.users, DRAFTS)
    found = {arm["name"]: arm for arm in run.report["arms"]}
    assert set(found) == set(wanted) == set(CHANGED)
    for name, arm in wanted.items():
        shown = found[name]
        assert (shown["users"], shown["left_out"]) == (arm["users"], 0)
        assert shown["outcomes"] == len(arm["outcomes"]) < arm["users"]
        assert shown["edit_ratio"]["mean"] == pytest.approx(sum(arm["outcomes"]) / len(arm["outcomes"]), abs=1e-3)
        assert shown["first_drafts"]["edit_ratio"] == pytest.approx(arm["first"])
        assert shown["first_drafts"]["events"] == arm["first_events"]
        assert shown["later_drafts"]["edit_ratio"] == pytest.approx(arm["later"])
        assert shown["later_drafts"]["accepted"] == pytest.approx(arm["accepted"])
        assert shown["later_drafts"]["events"] == arm["later_events"]
        assert shown["versions"]["0"]["events"] == arm["events"]
    assert (run.report["retired_arms"], run.report["users_in_no_arm"], run.report["unreadable"]) == ({}, 0, 0)


def test_the_differences_are_those_of_the_oracle(run: Run) -> None:
    outcomes = {arm: figures["outcomes"] for arm, figures in arms_oracle.figures_of(run.users, DRAFTS).items()}
    assert len(run.report["comparisons"]) == 5
    for each in run.report["comparisons"]:
        arm, against, saved = outcomes[each["arm"]], outcomes[each["against"]], each["saved"]
        assert saved["mean"] == pytest.approx(sum(against) / len(against) - sum(arm) / len(arm), abs=1e-3)
        near = 2e-3
        assert arms_oracle.is_refuted(saved["low"] - near, arm, against, 0.025)
        assert not arms_oracle.is_refuted(saved["low"] + near, arm, against, 0.025)
        assert arms_oracle.is_refuted(-saved["high"] - near, against, arm, 0.025)
        assert not arms_oracle.is_refuted(-saved["high"] + near, against, arm, 0.025)


def test_what_is_known_is_a_sentence_per_comparison(run: Run) -> None:
    out = experiment(run.config)
    for each in run.report["comparisons"]:
        assert each["sentence"] in out
    assert "arm default saves users ." in out
    assert " against no learning" in out
    assert "off (no learning)" in out
