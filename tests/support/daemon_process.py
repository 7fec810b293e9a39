"""Daemons as real processes: their settings, their start by `python -m corlld` or by fork, and the verdict."""

import atexit
import contextlib
import functools
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support import oracle
from tests.support.commands import SECRET
from tests.support.kafka.broker import KafkaCluster
from tests.support.traffic import MAX_TEXT_CHARS, Producer
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
ENVIRON = {"CORLLD_IDENTITY__SECRET": SECRET, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
START_SECONDS = 60.0
STOP_SECONDS = 60.0


class Daemon(Protocol):
    """A running daemon, however it was started."""

    log: Path

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""


def wait_while_running(daemon: Daemon, condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait for the condition. Fail with `what` and the log's end after so many seconds, or if the daemon ends."""

    def holds() -> bool:
        if condition():
            return True
        assert daemon.code is None, f"{what}: the daemon ended with {daemon.code}\n{tail(daemon.log)}"
        return False

    wait_until(holds, what, seconds, report=lambda: tail(daemon.log))


def tail(log: Path, chars: int = 4000) -> str:
    return log.read_text(errors="replace")[-chars:] if log.exists() else "no log"


def http_port(by: Daemon, seconds: float = START_SECONDS) -> int:
    """The port that the daemon's HTTP server found, from its log (in JSON)."""

    def listening() -> list[int]:
        lines = by.log.read_text(errors="replace").splitlines() if by.log.exists() else []
        return [json.loads(line)["port"] for line in lines if '"http_listening"' in line and line.endswith("}")]

    wait_while_running(by, lambda: bool(listening()), "an HTTP port", seconds)
    return listening()[-1]


def http_get(port: int, path: str) -> tuple[int, str]:
    """Status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


@dataclass(frozen=True)
class Site:
    """The place of one or more daemons of a group: topics of their own, and folders below `folder`."""

    folder: Path
    bootstrap: str
    model: str
    topic: str
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def make(
        cls, folder: Path, broker: KafkaCluster, model: Path | str, partitions: int, **sections: Mapping[str, Any]
    ) -> "Site":
        """Creates the topics. `sections` come over the settings that all tests share."""
        topic = f"edits-{uuid.uuid4().hex[:8]}"
        broker.create_topic(topic, partitions)
        broker.create_topic(f"{topic}.dead-letters", 1)
        broker.create_topic(f"{topic}.adapters", 1, {"cleanup.policy": "compact"})
        return cls(folder, broker.bootstrap, str(model), topic, sections)

    @property
    def group(self) -> str:
        return f"{self.topic}-group"

    @property
    def states(self) -> Path:
        return self.folder / "state"

    @property
    def adapters(self) -> Path:
        return self.folder / "adapters"

    def log(self, name: str = "daemon") -> Path:
        return self.folder / f"{name}.log"

    def write_settings(self, name: str = "corlld", **more: Mapping[str, Any]) -> Path:
        """A settings file. One pair a step, so that where batches are cut decides nothing about the tensors."""
        shared: dict[str, dict[str, Any]] = {
            "kafka": {
                "bootstrap_servers": [self.bootstrap],
                "topic": self.topic,
                "group_id": self.group,
                "session_timeout_seconds": 6.0,
                "heartbeat_interval_seconds": 1.0,
            },
            "events": {"max_text_chars": MAX_TEXT_CHARS},
            "dead_letters": {"topic": f"{self.topic}.dead-letters"},
            "batching": {"max_events": 4, "flush_after_seconds": 0.3},
            "model": {"name": self.model, "device": "cpu", "threads": 1},
            "adapter": {"r": 4, "lora_alpha": 8},
            # A pair a row: who shares a pass, which traffic decides, would show in the last bits.
            "learning": {"lr": 1e-3, "pairs_per_step": 1, "max_row_tokens": 1},
            "state": {"path": str(self.states)},
            # No time for engines: so the oracle sees versions go.
            "publishing": {
                "path": str(self.adapters),
                "announce_topic": f"{self.topic}.adapters",
                "keep_seconds": 0,
            },
            "operations": {
                "log_format": "json",
                "startup_timeout_seconds": START_SECONDS,
                "http_address": "127.0.0.1:0",
            },
        }
        for overlay in (self.sections, more):
            for section, values in overlay.items():
                shared[section] = shared.get(section, {}) | dict(values)
        file = self.folder / f"{name}.toml"
        file.write_text("".join(_toml(section, values) for section, values in shared.items()))
        return file

    def lag(self) -> int:
        """Records between what the group has committed and the end; a partition without a commit counts as a whole."""
        committed, ends = oracle.group_offsets(self.bootstrap, self.topic, self.group)
        return sum(end - (committed[partition] or 0) for partition, end in ends.items())

    def wait_for_end(self, by: Daemon, seconds: float = 90.0) -> None:
        """Wait until everything is committed."""
        wait_while_running(by, lambda: self.lag() == 0, "lag 0", seconds)

    def wait_for_progress(self, by: Daemon, seconds: float = 60.0) -> None:
        """Wait until some user has a state."""
        wait_while_running(by, lambda: any(self.states.glob("users/*/0*.safetensors")), "a first state", seconds)

    def verdict(self, producer: Producer, **case: Any) -> dict[str, Any]:
        """Return the oracle's verdict, from a process of its own that can't see this one's modules."""
        file = self.folder / "case.json"
        file.write_text(
            oracle.to_json(
                oracle.Case(
                    bootstrap=self.bootstrap,
                    topic=self.topic,
                    group=self.group,
                    dead_letters_topic=f"{self.topic}.dead-letters",
                    announce_topic=f"{self.topic}.adapters",
                    state_folder=str(self.states),
                    adapters_folder=str(self.adapters),
                    secret=SECRET,
                    bad=producer.bad,
                    records=producer.records,
                    **case,
                )
            )
        )
        done = subprocess.run(
            [sys.executable, "-I", oracle.__file__, file], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.stdout, done.stderr
        verdict: dict[str, Any] = json.loads(done.stdout)
        assert not verdict["figures"]["imported_corlld"]
        print(*verdict["problems"], sep="\n")  # all of them; an assertion shows the first ones
        return verdict


def _toml(section: str, values: Mapping[str, Any]) -> str:
    # JSON writes strings, numbers, booleans and lists as TOML does. None: left at its default.
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None)
    return f"[{section}]\n{''.join(lines)}\n"


class DaemonProcess:
    """`python -m corlld run --config FILE`, its output in `log`."""

    def __init__(self, config: Path, log: Path, **environ: str) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "corlld", "run", "--config", config],
                cwd=ROOT,
                env=os.environ | ENVIRON | environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def code(self) -> int | None:
        return self._process.poll()

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, and the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def end(self) -> None:
        """Kill it where it still runs."""
        self._process.kill()
        self._process.wait()


@contextmanager
def running(config: Path, log: Path, **environ: str) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(config, log, **environ)
    try:
        yield daemon
    finally:
        daemon.end()


@dataclass(frozen=True)
class Hold:
    """Keep the thread that passes `stage` for the `occurrence`-th time there for some seconds."""

    stage: str
    occurrence: int
    seconds: float


@dataclass(frozen=True)
class Poison:
    """A step with this event ends the process (way `abort`), or never ends (`hang`)."""

    event_id: str
    way: str = "abort"


class Life:
    """A daemon that the launcher forked.

    log_start: the size of the log when it began. Daemons of one test may share a log.
    """

    def __init__(self, pid: int, log: Path, log_start: int) -> None:
        self.pid = pid
        self.log = log
        self._log_start = log_start
        self.code: int | None = None
        self.ended = threading.Event()

    def logged(self, event: str) -> bool:
        """Return whether this daemon, and none before it, has logged the event."""
        written = self.log.read_bytes()[self._log_start :] if self.log.exists() else b""
        return f'"{event}"'.encode() in written

    def wait_for_assignment(self, seconds: float = 60.0) -> None:
        """Wait until it has begun to read: before, a signal would end it as any other program."""
        wait_while_running(self, lambda: self.logged("partition_assigned"), "an assignment", seconds)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """The exit code; minus the signal's number where one ended it."""
        assert self.ended.wait(seconds), f"the daemon did not end within {seconds:.0f} s\n{tail(self.log)}"
        assert self.code is not None
        return self.code

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait(STOP_SECONDS)


class Launcher:
    """The parent's end of tests/support/launcher.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, ROOT / "tests/support/launcher.py"],
            cwd=ROOT,
            env=os.environ | ENVIRON,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        self._lives: dict[int, Life] = {}
        self._started: list[int] = []
        self._changed = threading.Condition()
        self._ready = False
        threading.Thread(target=self._listen, daemon=True).start()
        self._wait(lambda: self._ready)

    def start(
        self,
        config: Path,
        log: Path,
        *,
        marks: Path | None = None,
        hold: Hold | None = None,
        poison: Poison | None = None,
        environ: Mapping[str, str] = ENVIRON,
        mutation: str | None = None,
    ) -> Life:
        """A daemon with these settings.

        marks: a file, or a FIFO that someone reads. environ: comes over its own. mutation: see `mutations`.
        """
        order = {
            "config": str(config),
            "log": str(log),
            "environ": dict(environ),
            "marks": str(marks) if marks else None,
            "hold": asdict(hold) if hold else None,
            "mutation": mutation,
            "poison": asdict(poison) if poison else None,
        }
        log_start = log.stat().st_size if log.exists() else 0
        self._orders.write((json.dumps(order) + "\n").encode())
        self._orders.flush()
        self._wait(lambda: bool(self._started))
        life = Life(self._started.pop(), log, log_start)
        with self._changed:
            self._lives[life.pid] = life
            self._changed.notify_all()
        return life

    def close(self) -> None:
        """Every daemon that still lives is killed."""
        self._orders.close()
        self._process.wait(STOP_SECONDS)
        self._answers.close()

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, START_SECONDS), "the launcher does not answer"

    def _listen(self) -> None:
        for line in self._answers:
            answer = json.loads(line)
            with self._changed:
                if "ended" in answer:
                    # A life that ends at once may end before `start` has heard of it.
                    self._changed.wait_for(functools.partial(self._lives.__contains__, answer["ended"]), START_SECONDS)
                    life = self._lives.pop(answer["ended"])
                    life.code = answer["code"]
                    life.ended.set()
                elif "started" in answer:
                    self._started.append(answer["started"])
                else:
                    self._ready = True
                self._changed.notify_all()


@functools.cache
def shared_launcher() -> Launcher:
    """One for the whole test run: its imports take seconds. Closed when the interpreter ends."""
    launcher = Launcher()
    atexit.register(launcher.close)
    return launcher
