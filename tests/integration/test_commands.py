"""What people meet at the command line: each mistake is one clear sentence and its exit code, never a traceback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corlld.cli import main
from corlld.events.pseudonyms import Pseudonyms
from tests.support.daemon_process import http_get
from tests.support.kafka.broker import KafkaCluster
from tests.support.s3 import new_bucket_name, s3_server
from tests.support.tiny_models import make_tiny_model

SECRET = "a secret of the tests, which is long enough"


def event(number: int, user: str = "ann", **fields: Any) -> dict[str, Any]:
    return {
        "event_id": f"{user}-{number}",
        "user_id": user,
        "occurred_at": "2026-01-02T12:00:00Z",
        "prompt": "The sun\n",
        "proposed": f"rises in the west {number}.",
        "edited": f"rises in the east {number}.",
        **fields,
    }


def write_events(file: Path, *events: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(each) + "\n" for each in events))
    return file


@pytest.fixture
def site(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where `corlld run` works on a file of 6 edits of 2 users; the tests then break one thing."""
    for name in [name for name in os.environ if name.startswith("CORLLD_") and not name.startswith("CORLLD_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", SECRET)
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "jsonl")
    monkeypatch.setenv("CORLLD_SOURCE__PATH", str(tmp_path / "events.jsonl"))
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(tiny_model))
    monkeypatch.setenv("CORLLD_STATE__PATH", str(tmp_path / "state"))
    monkeypatch.setenv("CORLLD_PUBLISHING__PATH", str(tmp_path / "adapters"))
    monkeypatch.setenv("CORLLD_OPERATIONS__HTTP_ADDRESS", "127.0.0.1:0")
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "3")
    monkeypatch.setenv("CORLLD_LEARNING__LR", "1e-2")
    write_events(
        tmp_path / "events.jsonl", *(event(n, user) for n in range(3) for user in ("ann", "bob")), event(9, "ann")
    )
    return tmp_path


@contextmanager
def started_run(site: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`corlld run` as a process; its log is `site / "log"`."""
    with (site / "log").open("wb") as log:
        run = subprocess.Popen([sys.executable, "-m", "corlld", "run"], stdout=log, stderr=log)
    try:
        yield run
    finally:
        run.kill()
        run.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the sentence of a command that is expected to fail."""
    code = main(arguments)
    err = capsys.readouterr().err
    assert code != 0
    assert "Traceback" not in err
    problem = [line for line in err.splitlines() if line.startswith("corlld: ")]
    assert problem, err
    return code, "\n".join(problem)


def test_a_file_of_edits_becomes_one_adapter_a_user(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    names = Pseudonyms(SECRET)
    assert {folder.name for folder in (site / "adapters").iterdir()} == {names.uid("ann"), names.uid("bob")}
    capsys.readouterr()
    assert main(["state", "show", "ann", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["statistics"]["pairs_applied"] == 4
    assert shown["recent_event_ids"] == ["ann-0", "ann-1", "ann-2", "ann-9"]
    assert main(["state", "show"]) == 0
    assert names.uid("bob") in capsys.readouterr().out


def test_a_second_run_goes_on_where_the_first_one_stopped(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    with (site / "events.jsonl").open("a") as file:
        file.write(json.dumps(event(10, "bob")) + "\n")
    assert main(["run"]) == 0
    capsys.readouterr()
    main(["state", "show", "bob", "--json"])
    assert json.loads(capsys.readouterr().out)["recent_event_ids"] == ["bob-0", "bob-1", "bob-2", "bob-10"]


def test_an_erasure_from_a_file_leaves_a_tombstone_and_no_adapter(site: Path) -> None:
    assert main(["run"]) == 0
    with (site / "events.jsonl").open("a") as file:
        erase = {"event_id": "x", "user_id": "ann", "occurred_at": "2026-01-02T12:00:00Z", "type": "erase"}
        file.write(json.dumps(erase) + "\n")
    assert main(["run"]) == 0
    assert [folder.name for folder in (site / "adapters").iterdir()] == [Pseudonyms(SECRET).uid("bob")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_exit_code_0(site: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__FOLLOW", "true")
    with started_run(site) as run:
        wait_for(lambda: (site / "adapters").exists() and len(list((site / "adapters").glob("*/*/manifest.json"))) >= 2)
        run.send_signal(number)
        assert run.wait(30) == 0


def test_a_second_signal_ends_the_process_at_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The dead letters' folder is a file: what is set aside is never acknowledged, and a stop waits for it.
    monkeypatch.setenv("CORLLD_SOURCE__FOLLOW", "true")
    with (site / "events.jsonl").open("a") as file:
        file.write("{broken\n")
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__PATH", "/dev/full")
    with started_run(site) as run:
        wait_for(lambda: "will_try_again" in (site / "log").read_text())
        run.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(1)
        run.send_signal(signal.SIGTERM)
        assert run.wait(5) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("CORLLD_LEARNING__MAX_ROW_TOKENS", "1000000000", "a step is larger than the"),
        ("CORLLD_BATCHING__MAX_USERS_PER_STEP", "1000000000", "a step is larger than the"),
        ("CORLLD_STATE__HOST_MEMORY_BYTES", "1000", "must have room for a user"),
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


def test_uid_is_the_hmac_of_the_user_id(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["uid", "ann"]) == 0
    assert capsys.readouterr().out.strip() == Pseudonyms(SECRET).uid("ann")


def test_a_wrong_setting_names_the_key_what_was_found_what_is_allowed_and_where(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[learning]\nbeta = -1\nbetta = 2\n[batching]\nmax_events = 'many'\n")
    code, problem = fails(capsys, "run", "--config", str(file))
    assert code == 78
    assert "learning.beta: found -1" in problem
    assert "learning.betta" in problem
    assert "batching.max_events: found 'many'" in problem
    assert problem.count(str(file)) >= 3


def test_a_port_in_use_is_said_with_the_setting_before_anything_is_loaded(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("CORLLD_OPERATIONS__HTTP_ADDRESS", address)
        code, problem = fails(capsys, "run")
        assert code == 69
        assert f"operations.http_address = {address}: Address already in use" in problem
        assert "another port" in problem
        assert len(problem.splitlines()) == 1
        assert not (site / "state").exists()
        assert main(["check"]) == 0, "a check serves nothing"


def test_readyz_follows_the_start_and_livez_is_good_all_along(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__FOLLOW", "true")
    monkeypatch.setenv("CORLLD_OPERATIONS__LOG_FORMAT", "json")
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "60")
    (site / "events.jsonl").rename(site / "not-yet.jsonl")
    with started_run(site) as run:
        wait_for(lambda: "http_listening" in (site / "log").read_text())
        (line,) = [line for line in (site / "log").read_text().splitlines() if "http_listening" in line]
        port = json.loads(line)["port"]
        assert http_get(port, "/readyz") == (503, "waiting for: input\n")
        assert http_get(port, "/livez") == (200, "ok\n")
        (site / "not-yet.jsonl").rename(site / "events.jsonl")
        wait_for(lambda: http_get(port, "/readyz") == (503, "waiting for: model\n"))
        assert http_get(port, "/livez") == (200, "ok\n")
        assert "corlld_model_info{" not in http_get(port, "/metrics")[1]
        wait_for(lambda: http_get(port, "/readyz") == (200, "ready\n"))
        wait_for(lambda: 'corlld_consumer_lag{partition="0"} 0.0' in http_get(port, "/metrics")[1])
        metrics = http_get(port, "/metrics")[1]
        assert 'corlld_model_info{adapter="' in metrics
        assert "corlld_ready 1.0" in metrics
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0


def test_a_missing_settings_file(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, problem = fails(capsys, "run", "--config", str(site / "none.toml"))
    assert code == 78
    assert "none.toml" in problem


def test_a_missing_secret(site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("CORLLD_IDENTITY__SECRET")
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "identity.secret" in problem
    assert "uid_secret" in problem


def test_a_missing_model_folder(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(site / "no-model"))
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "there is no folder" in problem


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "can't be read"), ("", "has no passage"), ("short", "needed: more than 8")],
)
def test_wrong_passages_are_said_before_anything_is_learnt(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    content: str | None,
    said: str,
) -> None:
    file = site / "passages.txt"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_WEIGHT", "0.1")
    monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_PATH", str(file))
    assert main([command]) == 78
    output = capsys.readouterr()
    [line] = [line for line in (output.out + output.err).splitlines() if "learning.rehearsal_path: " in line]
    assert said in line
    assert not list((site / "adapters").glob("*"))


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


@pytest.mark.parametrize("command", ["run", "check"])
def test_passages_that_can_not_be_read_are_said_before_the_model_is_looked_at(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(site / "no-model"))
    monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_WEIGHT", "0.1")
    monkeypatch.setenv("CORLLD_LEARNING__REHEARSAL_PATH", str(site / "none.txt"))
    assert main([command]) == 78
    output = capsys.readouterr()
    assert "learning.rehearsal_path: " in output.out + output.err
    assert "there is no folder" not in output.out + output.err


def test_a_dead_broker_is_named_after_the_deadline(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
        monkeypatch.delenv("CORLLD_SOURCE__PATH")
        monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", address)
        started = time.monotonic()
        code, problem = fails(capsys, "run")
    assert code == 69
    assert address in problem
    assert "Connection refused" in problem
    assert time.monotonic() - started < 20


def test_a_check_blames_a_dead_broker_once(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
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


def test_a_missing_topic_is_named(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kafka_broker: KafkaCluster
) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
    monkeypatch.delenv("CORLLD_SOURCE__PATH")
    monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", kafka_broker.bootstrap)
    monkeypatch.setenv("CORLLD_KAFKA__TOPIC", "nobody-made-this")
    code, problem = fails(capsys, "run")
    assert code == 69
    assert "nobody-made-this" in problem


def test_a_check_names_every_missing_topic_in_one_run(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kafka_broker: KafkaCluster
) -> None:
    topics = {"input": "no-edits", "dead letters": "no-letters", "announcements": "no-adapters"}
    monkeypatch.setenv("CORLLD_SOURCE__KIND", "kafka")
    monkeypatch.setenv("CORLLD_KAFKA__BOOTSTRAP_SERVERS", kafka_broker.bootstrap)
    monkeypatch.setenv("CORLLD_KAFKA__TOPIC", topics["input"])
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__TOPIC", topics["dead letters"])
    monkeypatch.setenv("CORLLD_PUBLISHING__ANNOUNCE_TOPIC", topics["announcements"])
    monkeypatch.setattr("corlld.commands.check.TOPIC_SECONDS", 1.5)
    assert main(["check"]) == 69
    lines = capsys.readouterr().out.splitlines()
    problems = {line[9:23].strip(): line[24:] for line in lines if line.startswith("problem")}
    assert list(problems) == list(topics)
    for name, topic in topics.items():
        assert problems[name].startswith(f"topic {topic} does not exist")
    # The input has taken all the time of the start; the others are not blamed for it.
    assert "(waited 1.5 s)" in problems["dead letters"]
    assert "(waited 1.5 s)" in problems["announcements"]


def test_a_store_of_another_secret_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run"]) == 0
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", "another secret, which is long enough too")
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "identity.secret" in problem
    assert "another secret" not in problem


def test_nobody_is_looked_up_under_another_secret(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run"]) == 0
    monkeypatch.setenv("CORLLD_IDENTITY__SECRET", "another secret, which is long enough too")
    code, problem = fails(capsys, "state", "show", "ann")
    assert code == 78
    assert "another identity.secret" in problem


def test_a_store_of_another_model_is_refused(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run"]) == 0
    monkeypatch.setenv("CORLLD_MODEL__NAME", str(make_tiny_model(tmp_path / "other", seed=1)))
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "base model" in problem


def test_a_store_that_no_run_has_made_is_told_alike_by_check_and_state_show(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = f"none yet in {site / 'state'}; `corlld run` makes it"
    assert main(["check"]) == 0
    assert f" {said}\n" in capsys.readouterr().out
    for whom in ([], ["ann"], ["--json"]):
        assert fails(capsys, "state", "show", *whom) == (65, f"corlld: state store: {said}")


def test_a_store_that_vanished_is_not_taken_for_new_users(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    (site / "state" / "store.json").unlink()
    code, problem = fails(capsys, "run")
    assert code == 78
    assert "must not look like new users" in problem


def test_a_replaced_file_is_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    write_events(site / "events.jsonl", *(event(n, "someone-else") for n in range(99)))
    code, problem = fails(capsys, "run")
    assert code == 65
    assert "replaced" in problem


def test_a_torn_state_sets_its_user_aside_and_others_go_on(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    uid = Pseudonyms(SECRET).uid("ann")
    newest = max((site / "state" / "users" / uid).iterdir())
    newest.write_bytes(newest.read_bytes()[:-7])
    with (site / "events.jsonl").open("a") as file:
        file.write(json.dumps(event(20, "ann")) + "\n" + json.dumps(event(21, "bob")) + "\n")
    assert main(["run"]) == 0
    letters = [json.loads(line) for line in (site / "state" / "dead-letters.jsonl").read_text().splitlines()]
    assert [letter["headers"]["corlld.reason"] for letter in letters] == ["state_unreadable"]
    capsys.readouterr()
    main(["state", "show", "bob", "--json"])
    assert json.loads(capsys.readouterr().out)["recent_event_ids"][-1] == "bob-21"
    assert main(["state", "show", "ann"]) == 65


def test_states_can_live_in_a_bucket(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with s3_server():
        monkeypatch.setenv("CORLLD_STATE__URL", f"s3://{new_bucket_name()}/states")
        code, problem = fails(capsys, "run")
        assert (code, "dead_letters.path" in problem) == (78, True)
        monkeypatch.setenv("CORLLD_DEAD_LETTERS__PATH", str(site / "dead-letters.jsonl"))
        assert main(["check"]) == 0
        assert "none yet in s3://" in capsys.readouterr().out
        assert main(["run"]) == 0
        assert not (site / "state").exists()
        assert {folder.name for folder in (site / "adapters").iterdir()} == {
            Pseudonyms(SECRET).uid(user) for user in ("ann", "bob")
        }
        capsys.readouterr()
        assert main(["state", "show", "ann", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["statistics"]["pairs_applied"] == 4


# --- the filesystem: as root, file modes stop nobody, so real mounts in a namespace of their own do ------------------


def in_namespace(mounts: str, site: Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """`corlld run` in a mount namespace where `mounts` was executed first."""
    unshare = shutil.which("unshare")
    assert unshare, "these tests need unshare (Debian: util-linux)"
    mine = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    script = f'{mounts} && exec "$0" -m corlld run'
    return subprocess.run(
        [unshare, *mine, "sh", "-c", script, sys.executable],
        cwd=site,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.fixture
def mountpoint(site: Path) -> Path:
    folder = site / "state"
    folder.mkdir()
    return folder


def test_a_full_disk_at_the_start_is_said(site: Path, mountpoint: Path) -> None:
    fill = f"mount -t tmpfs -o size=64k tmpfs {mountpoint} && (cat /dev/zero > {mountpoint}/fill 2>/dev/null; true)"
    run = in_namespace(fill, site)
    assert run.returncode == 73, run.stderr
    assert "No space left on device" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_folder_that_can_not_be_written_is_said(site: Path, mountpoint: Path) -> None:
    run = in_namespace(f"mount -t tmpfs -o ro tmpfs {mountpoint}", site)
    assert run.returncode == 73, run.stderr
    assert "Read-only file system" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_disk_that_fills_up_later_is_waited_for_and_nothing_is_lost(site: Path, mountpoint: Path) -> None:
    # Room for store.json and little more: a state of the tiny model is larger, until the ballast goes.
    ballast = f"head -c 960k /dev/zero > {mountpoint}/ballast"
    later = f"(sleep 12; rm {mountpoint}/ballast) &"
    run = in_namespace(f"mount -t tmpfs -o size=1m tmpfs {mountpoint} && {ballast} && {{ {later} }} && true", site)
    assert run.returncode == 0, run.stderr
    assert "will_try_again" in run.stderr
    assert "No space left on device" in run.stderr
    assert {folder.name for folder in (site / "adapters").iterdir()} == {
        Pseudonyms(SECRET).uid(user) for user in ("ann", "bob")
    }
