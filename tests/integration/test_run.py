"""`corlld run` on a file of edits: what it leaves behind, how it is stopped, and how it goes on."""

import gzip
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corlld.cli import main
from corlld.events.pseudonyms import Pseudonyms
from tests.support.commands import SECRET, fails
from tests.support.daemon_process import http_get
from tests.support.edits import append_events, edit, erasure, write_events
from tests.support.newer_format import NEWER
from tests.support.s3 import Bucket, keep_versions, new_bucket_name, s3_server
from tests.support.waiting import wait_until


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


def shown(capsys: pytest.CaptureFixture[str], user: str) -> str:
    """Return what `corlld state show --json` prints."""
    capsys.readouterr()
    main(["state", "show", user, "--json"])
    return capsys.readouterr().out


def test_a_file_of_edits_becomes_one_adapter_per_user(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    append_events(site / "events.jsonl", edit(10, "bob"))
    assert main(["run"]) == 0
    capsys.readouterr()
    main(["state", "show", "bob", "--json"])
    assert json.loads(capsys.readouterr().out)["recent_event_ids"] == ["bob-0", "bob-1", "bob-2", "bob-10"]


def test_an_erasure_from_a_file_leaves_a_tombstone_and_no_adapter(site: Path) -> None:
    assert main(["run"]) == 0
    append_events(site / "events.jsonl", erasure("ann"))
    assert main(["run"]) == 0
    assert [folder.name for folder in (site / "adapters").iterdir()] == [Pseudonyms(SECRET).uid("bob")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{broken\n{}", "the input has no valid event: 1 not_json, 1 missing_field"),
        (b"\n \n", "the input has no valid event: it is empty"),
        (b"", "the input has no valid event: it is empty"),
        (gzip.compress(b"{}\n"), "it is compressed (gzip)"),
        (b'[{"event_id": "1"}]', "it is a JSON array"),
    ],
    ids=["invalid", "blank", "empty", "gzip", "array"],
)
def test_a_file_with_nothing_valid_in_it_is_exit_code_65(
    site: Path, capsys: pytest.CaptureFixture[str], content: bytes, sentence: str
) -> None:
    (site / "events.jsonl").write_bytes(content)
    code, problem = fails(capsys, "run")
    assert code == 65
    assert sentence in problem


def test_a_file_that_was_read_before_ends_with_0(site: Path) -> None:
    with (site / "events.jsonl").open("ab") as file:
        file.write(json.dumps(edit(10, "bob")).encode())  # without its line break
    assert main(["run"]) == 0
    assert main(["run"]) == 0
    with (site / "events.jsonl").open("ab") as file:
        file.write(b"\n{broken\n")
    assert main(["run"]) == 0
    letters = (site / "state" / "dead-letters.jsonl").read_text().splitlines()
    assert len(letters) == 1


def test_a_file_that_is_rotated_while_it_is_followed_is_read_on(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__FOLLOW", "true")
    monkeypatch.setenv("CORLLD_BATCHING__FLUSH_AFTER_SECONDS", "0.1")
    with started_run(site) as run:
        wait_until(lambda: len(list(site.glob("adapters/*/*/manifest.json"))) >= 2, "two versions")
        old = (site / "events.jsonl").rename(site / "events.jsonl.1")
        write_events(site / "events.jsonl", edit(11, "bob"))
        append_events(old, edit(10, "bob"))
        wait_until(lambda: '"bob-11"' in shown(capsys, "bob"), "the edit of the new file")
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0
    state = json.loads(shown(capsys, "bob"))
    assert state["recent_event_ids"] == ["bob-0", "bob-1", "bob-2", "bob-10", "bob-11"]
    assert len(state["applied"]) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_exit_code_0(site: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__FOLLOW", "true")
    with started_run(site) as run:
        wait_until(lambda: len(list(site.glob("adapters/*/*/manifest.json"))) >= 2, "two versions")
        run.send_signal(number)
        assert run.wait(30) == 0


def test_a_second_signal_ends_the_process_at_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The dead letters' folder becomes a file: what is set aside is never acknowledged, and a stop waits for it.
    monkeypatch.setenv("CORLLD_SOURCE__FOLLOW", "true")
    monkeypatch.setenv("CORLLD_DEAD_LETTERS__PATH", str(site / "letters" / "dead-letters.jsonl"))
    with started_run(site) as run:
        wait_until(lambda: "input_reached" in (site / "log").read_text(), "the input")
        (site / "letters").touch()
        with (site / "events.jsonl").open("a") as file:
            file.write("{broken\n")
        wait_until(lambda: "will_try_again" in (site / "log").read_text(), "another try")
        run.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(1)
        run.send_signal(signal.SIGTERM)
        assert run.wait(5) == -signal.SIGTERM


def test_readyz_follows_the_start_and_livez_is_good_all_along(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORLLD_SOURCE__FOLLOW", "true")
    monkeypatch.setenv("CORLLD_OPERATIONS__LOG_FORMAT", "json")
    monkeypatch.setenv("CORLLD_OPERATIONS__STARTUP_TIMEOUT_SECONDS", "60")
    (site / "events.jsonl").rename(site / "not-yet.jsonl")
    with started_run(site) as run:
        wait_until(lambda: "http_listening" in (site / "log").read_text(), "the HTTP server")
        (line,) = [line for line in (site / "log").read_text().splitlines() if "http_listening" in line]
        port = json.loads(line)["port"]
        assert http_get(port, "/readyz") == (503, "waiting for: input\n")
        assert http_get(port, "/livez") == (200, "ok\n")
        (site / "not-yet.jsonl").rename(site / "events.jsonl")
        wait_until(lambda: http_get(port, "/readyz") == (503, "waiting for: model\n"), "the wait for the model")
        assert http_get(port, "/livez") == (200, "ok\n")
        assert "corlld_model_info{" not in http_get(port, "/metrics")[1]
        wait_until(lambda: http_get(port, "/readyz") == (200, "ready\n"), "readiness")
        wait_until(lambda: 'corlld_consumer_lag{partition="0"} 0.0' in http_get(port, "/metrics")[1], "no lag")
        metrics = http_get(port, "/metrics")[1]
        assert 'corlld_model_info{adapter="' in metrics
        assert "corlld_ready 1.0" in metrics
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 0


def test_a_torn_state_sets_its_user_aside_and_others_go_on(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    uid = Pseudonyms(SECRET).uid("ann")
    newest = max((site / "state" / "users" / uid).iterdir())
    newest.write_bytes(newest.read_bytes()[:-7])
    append_events(site / "events.jsonl", edit(20, "ann"), edit(21, "bob"))
    assert main(["run"]) == 0
    letters = [json.loads(line) for line in (site / "state" / "dead-letters.jsonl").read_text().splitlines()]
    assert [letter["headers"]["corlld.reason"] for letter in letters] == ["state_unreadable"]
    capsys.readouterr()
    main(["state", "show", "bob", "--json"])
    assert json.loads(capsys.readouterr().out)["recent_event_ids"][-1] == "bob-21"
    assert main(["state", "show", "ann"]) == 65


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_older_version_after_a_newer_one_refuses_the_store_and_sets_nothing_aside(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("corlld.state.store_format.FORMAT", NEWER)
    assert main(["run"]) == 0
    append_events(site / "events.jsonl", edit(20, "ann"), edit(21, "bob"))
    stored = files_below(site / "state")
    monkeypatch.setattr("corlld.state.store_format.FORMAT", NEWER - 1)
    for command in (["run"], ["state", "show"]):
        code, problem = fails(capsys, *command)
        assert (code, "of a newer corlld" in problem) == (78, True)
    # As in a rolling upgrade: the older program passed the start before the newer one came.
    identity = json.loads(stored["store.json"])
    (site / "state" / "store.json").write_text(json.dumps({**identity, "format": NEWER - 1}))
    code, problem = fails(capsys, "run")
    assert (code, "of a newer corlld" in problem) == (78, True)
    (site / "state" / "store.json").write_bytes(stored["store.json"])
    left = files_below(site / "state")
    [position] = [name for name in stored if name.startswith("positions/")]
    before, after = (json.loads(files.pop(position))["next_offset"] for files in (stored, left))
    assert after == before
    assert left == stored, "no dead letters either"
    monkeypatch.setattr("corlld.state.store_format.FORMAT", NEWER)
    assert main(["run"]) == 0
    assert json.loads(shown(capsys, "bob"))["recent_event_ids"][-1] == "bob-21"


def test_i5_a_user_whose_state_was_lost_goes_on_above_all_versions_that_are_out(site: Path) -> None:
    uid = Pseudonyms(SECRET).uid("ann")
    out = site / "adapters" / uid
    assert main(["run"]) == 0
    for n in range(20, 23):
        append_events(site / "events.jsonl", edit(n, "ann"))
        assert main(["run"]) == 0
    before = files_below(out)
    newest = max(folder.name for folder in out.iterdir())
    shutil.rmtree(site / "state" / "users" / uid)
    append_events(site / "events.jsonl", edit(30, "ann"))
    assert main(["run"]) == 0
    next_version = f"v{int(newest[1:]) + 1:06d}"
    assert max(folder.name for folder in out.iterdir()) == next_version
    assert {name: data for name, data in files_below(out).items() if next_version not in name}.items() <= before.items()


def test_i8_an_erasure_reaches_the_versions_of_a_user_whose_state_was_lost(site: Path) -> None:
    names = Pseudonyms(SECRET)
    assert main(["run"]) == 0
    shutil.rmtree(site / "state" / "users" / names.uid("ann"))
    append_events(site / "events.jsonl", erasure("ann"))
    assert main(["run"]) == 0
    assert [folder.name for folder in (site / "adapters").iterdir()] == [names.uid("bob")]


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


def test_i8_check_says_that_a_bucket_keeps_what_an_erasure_should_remove(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with s3_server():
        bucket = Bucket(new_bucket_name())
        keep_versions(bucket, "Enabled")
        monkeypatch.setenv("CORLLD_STATE__URL", bucket.url)
        monkeypatch.setenv("CORLLD_DEAD_LETTERS__PATH", str(site / "dead-letters.jsonl"))
        assert main(["run"]) == 0
        capsys.readouterr()
        assert main(["check"]) == 0
        assert re.search(
            r"^ok +state store .*2 users\n +.*an erasure does not reach", capsys.readouterr().out, re.MULTILINE
        )
