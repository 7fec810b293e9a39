"""Kills of a running daemon at chosen and at random moments, and where they fell, as disk and broker show."""

import os
import random
import selectors
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import oracle
from tests.support.daemon_process import ENVIRON, STOP_SECONDS, Hold, Launcher, Life, Site

LONGEST_RUN_SECONDS = 5.0  # a life that passes no chosen stage is killed all the same
LONGEST_DELAY_SECONDS = 1.0
HOLD_SECONDS = 60.0  # longer than it takes to kill


@dataclass(frozen=True)
class Plan:
    """The moment of a kill: soon after the `occurrence`-th mark of `stage`, whose thread is held there, or at random.

    delay_seconds: after the held mark, after the first records were polled, or (`early`) after the start.
    """

    stage: str | None
    occurrence: int
    delay_seconds: float
    early: bool = False


@dataclass(frozen=True)
class Fall:
    """The moment at which a kill fell.

    last_mark: the last stage that the daemon passed. polled_uncommitted: records were polled whose offsets are not
    committed. stored_unpublished: a state that this life was saving is on disk, and its version is not out.
    unsaved_users: trained by this life since their state was last saved.
    """

    plan: Plan
    last_mark: str
    polled_uncommitted: int
    stored_unpublished: int
    unsaved_users: int

    def __str__(self) -> str:
        where = self.plan.stage or ("start" if self.plan.early else "at random")
        return (
            f"{where:<10} last mark {self.last_mark:<11} {self.polled_uncommitted:3d} records polled, not committed; "
            f"{self.stored_unpublished} versions stored, not out; {self.unsaved_users} users trained, not saved"
        )


def plans(count: int, stages: Mapping[str, int], early: int, *, seed: int) -> list[Plan]:
    """`stages` says how many kills to place where; `early` ones come during the start; the rest is at random."""
    draw = random.Random(seed)
    chosen: list[str | None] = [stage for stage, times in stages.items() for _ in range(times)]
    placed = [Plan(stage, draw.randint(1, 3), draw.uniform(0, 0.05)) for stage in chosen]
    soon = [Plan(None, 0, draw.uniform(0, 0.8), early=True) for _ in range(early)]
    rest = count - len(placed) - len(soon)
    everything = placed + soon + [Plan(None, 0, draw.uniform(0, LONGEST_DELAY_SECONDS)) for _ in range(rest)]
    draw.shuffle(everything)
    return everything


class MarkedLife:
    """A forked daemon with the reading end of its marks."""

    def __init__(
        self,
        launcher: Launcher,
        config: Path,
        log: Path,
        fifo: Path,
        plan: Plan,
        environ: Mapping[str, str] = ENVIRON,
        mutation: str | None = None,
    ) -> None:
        os.mkfifo(fifo)
        self._fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._fd, selectors.EVENT_READ)
        self._rest = b""
        self.marks: list[list[str]] = []
        hold = Hold(plan.stage, plan.occurrence, HOLD_SECONDS) if plan.stage else None
        self.life: Life = launcher.start(config, log, marks=fifo, hold=hold, environ=environ, mutation=mutation)

    def run_and_kill(self, plan: Plan) -> None:
        self.run(plan)
        self.kill()

    def run(self, plan: Plan, longest_seconds: float = LONGEST_RUN_SECONDS) -> None:
        """Let it live until the plan's moment."""
        if not plan.early:
            self._wait_for("held" if plan.stage else "polled", longest_seconds)
        self._wait_for(None, plan.delay_seconds)

    def live_on(self, seconds: float) -> list[list[str]]:
        """Let it live for so long. Return the marks that came meanwhile."""
        before = len(self.marks)
        self._wait_for(None, seconds)
        return self.marks[before:]

    def kill(self) -> None:
        self.life.kill()
        self._drain()

    def stop(self) -> int:
        """SIGTERM, and the exit code. Its marks are read meanwhile, so that a full FIFO holds nothing up."""
        self.life.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self.life.code is None and time.monotonic() < deadline:
            self._wait_for(None, 0.05)
        self._drain()
        return self.life.wait(0.1)

    def polled_offsets(self) -> dict[int, int]:
        """The offset after the last record that this life polled, by partition."""
        pairs = (pair.split(":") for mark in self.marks if mark[0] == "polled" for pair in mark[1:])
        return {int(partition): int(offset) for partition, offset in pairs}

    def users_in_hand(self) -> set[str]:
        """Return the users of the mark at which a thread is held; nobody if none is."""
        if ["held"] not in self.marks:
            return set()
        stage, *details = self.marks[self.marks.index(["held"]) - 1]
        return set(details if stage in ("training", "trained") else details[:1])

    def unsaved_users(self) -> set[str]:
        """Return the users who were trained since their state was last saved."""
        unsaved: set[str] = set()
        for stage, *details in self.marks:
            if stage == "trained":
                unsaved.update(details)
            elif stage == "saved":
                unsaved.discard(details[0])
        return unsaved

    def _wait_for(self, stage: str | None, seconds: float) -> None:
        """Wait until such a mark has come, at most for so long."""
        deadline = time.monotonic() + seconds
        while not any(mark[0] == stage for mark in self.marks):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            # Before the daemon opens the FIFO, and after it died, the end is always readable, and empty.
            if self._selector.select(min(left, 0.02)):
                self._read()

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.marks.extend(line.decode().split() for line in lines)
        return bool(data)

    def _drain(self) -> None:
        while self._read():
            pass
        self._selector.close()
        os.close(self._fd)


def kill_once(launcher: Launcher, site: Site, config: Path, plan: Plan, number: int) -> Fall:
    """One life, from its start to its kill."""
    marked = MarkedLife(launcher, config, site.log(), site.folder / f"marks-{number}", plan)
    marked.run_and_kill(plan)
    committed, _ = oracle.group_offsets(site.bootstrap, site.topic, site.group)
    passed = [mark[0] for mark in marked.marks if mark[0] != "held"]
    saved = {mark[1] for mark in marked.marks if mark[0] == "saving"}
    return Fall(
        plan,
        last_mark=passed[-1] if passed else "none",
        polled_uncommitted=sum(
            max(0, offset - (committed[partition] or 0)) for partition, offset in marked.polled_offsets().items()
        ),
        stored_unpublished=sum(not is_out(site, state) for state in newest_states(site) if state["uid"] in saved),
        unsaved_users=len(marked.unsaved_users()),
    )


def newest_states(site: Site) -> list[dict[str, Any]]:
    folders = site.states.glob("users/*")
    return [oracle.read_state_header(oracle.newest_state_file(f)) for f in folders if any(f.glob("0*.safetensors"))]


def is_out(site: Site, state: Mapping[str, Any]) -> bool:
    """Return whether the state's version is published, or there is none to publish."""
    version: int = state["version"]
    return version == 0 or (site.adapters / state["uid"] / f"v{version:06d}" / "adapter_config.json").exists()
