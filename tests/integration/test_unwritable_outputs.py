"""Standard error that can't take the log, standard output that can't take a result: a sentence, and exit code 73."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corlld.errors import ExitCode
from corlld.events.pseudonyms import Pseudonyms
from tests.support.commands import SECRET
from tests.support.daemon_process import ENVIRON, ROOT, START_SECONDS
from tests.support.edits import append_events, edit, write_events

CORLLD = (sys.executable, "-m", "corlld")


@pytest.fixture(autouse=True)
def _buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffer output, as most machines do. Unbuffered, argparse passes over what it can't print: nothing would fail."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def without_a_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def run(*command: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> tuple[int, str, str]:
    """Exit code, and what came to the streams that are captured."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )
    for each in {stdout, stderr} - {subprocess.PIPE}:
        os.close(each)
    return done.returncode, done.stdout or "", done.stderr or ""


def closing(redirections: str, *command: str) -> list[str]:
    """The command, started by a shell that closes some of its streams."""
    return ["sh", "-c", f'exec "$@" {redirections}', "sh", *command]


@pytest.fixture
def site(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where `corlld run` learns from a file of one edit, and then waits for more."""
    write_events(tmp_path / "edits.jsonl", edit(0))
    settings = {
        "SOURCE__KIND": "jsonl",
        "SOURCE__PATH": tmp_path / "edits.jsonl",
        "SOURCE__FOLLOW": "true",
        "MODEL__NAME": tiny_model,
        "STATE__PATH": tmp_path / "state",
        "PUBLISHING__PATH": tmp_path / "adapters",
        "BATCHING__FLUSH_AFTER_SECONDS": "0.1",
        "OPERATIONS__HTTP_ADDRESS": "127.0.0.1:0",  # a daemon that runs beside the tests may have the default port
    }
    for name, value in (ENVIRON | {f"CORLLD_{name}": str(value) for name, value in settings.items()}).items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.parametrize(
    ("make_stderr", "problem"), [(full, "No space left on device"), (without_a_reader, "Broken pipe")]
)
def test_a_log_that_can_t_be_written_ends_the_start(site: Path, make_stderr: Callable[[], int], problem: str) -> None:
    code, out, _ = run(*CORLLD, "run", stderr=make_stderr())
    assert (code, out) == (ExitCode.CANNOT_WRITE, f"corlld: the log can't be written: {problem}\n")
    assert not (site / "adapters").exists(), "before the model was loaded"


def test_a_closed_standard_error_ends_the_start(site: Path) -> None:
    code, out, _ = run(*closing("2>&-", *CORLLD, "run"))
    assert (code, out) == (ExitCode.CANNOT_WRITE, "corlld: the log can't be written: Bad file descriptor\n")


@pytest.mark.parametrize("make_output", [full, without_a_reader])
def test_where_nobody_can_be_told_the_exit_code_says_it(site: Path, make_output: Callable[[], int]) -> None:
    both = make_output()
    assert run(*CORLLD, "run", stdout=both, stderr=both)[0] == ExitCode.CANNOT_WRITE
    assert run(*closing("<&- >&- 2>&-", *CORLLD, "run"))[0] == ExitCode.CANNOT_WRITE


def test_a_log_whose_reader_leaves_ends_the_run_and_the_next_one_goes_on(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(
        [*CORLLD, "run"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert any('"published"' in line for line in process.stderr), "the log ended"
        process.stderr.close()
        append_events(site / "edits.jsonl", edit(1))
        assert process.wait(START_SECONDS) == ExitCode.CANNOT_WRITE
        assert process.stdout.read() == "corlld: the log can't be written: Broken pipe\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    monkeypatch.setenv("CORLLD_SOURCE__FOLLOW", "false")
    code, _, log = run(*CORLLD, "run")
    assert code == 0, log
    _, shown, _ = run(*CORLLD, "state", "show", "--json", "--uid", Pseudonyms(SECRET).uid("ann"))
    assert json.loads(shown)["recent_event_ids"] == ["ann-0", "ann-1"]


# By print, by argparse, and by rich.
@pytest.mark.parametrize("arguments", [("settings",), ("--version",), ("metrics",)])
def test_a_result_that_can_t_be_printed_is_a_failure(arguments: tuple[str, ...]) -> None:
    sentence = "corlld: standard output can't be written: "
    assert run(*CORLLD, *arguments, stdout=full()) == (73, "", f"{sentence}No space left on device\n")
    assert run(*closing(">&-", *CORLLD, *arguments)) == (73, "", f"{sentence}Bad file descriptor\n")


@pytest.mark.parametrize("arguments", [("settings",), ("--version",)])
def test_a_reader_who_has_seen_enough_is_no_failure(arguments: tuple[str, ...]) -> None:
    assert run(*CORLLD, *arguments, stdout=without_a_reader()) == (0, "", "")


def test_a_wrong_command_line_keeps_its_exit_code_where_nobody_can_be_told() -> None:
    both = full()
    assert run(*CORLLD, "nonsense", stdout=both, stderr=both)[0] == ExitCode.USAGE


def test_a_closed_standard_input_is_said_as_such() -> None:
    code, out, told = run(*closing("<&-", *CORLLD, "send", "--dry-run", "-"))
    assert (code, out, told) == (ExitCode.USAGE, "", "corlld: standard input is closed\n")


def test_a_file_that_is_opened_later_does_not_become_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import os, sys; from corlld.system.streams import hold_closed_streams; hold_closed_streams(); "
        f"file = os.open({str(tmp_path / 'file')!r}, os.O_WRONLY | os.O_CREAT); "
        "refused = 0\n"
        "for stream in (1, 2):\n"
        "    try: os.write(stream, b'x')\n"
        "    except OSError: refused += 1\n"
        "sys.exit(10 * file + refused)"
    )
    assert run(*closing("<&- >&- 2>&-", sys.executable, "-c", code))[0] == 32
