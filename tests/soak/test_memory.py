"""Memory stays flat while ten thousand users come and go (I9): the real loop, a tiny model, the real folder store.

`make test-soak` runs it for CORLLD_TEST_SOAK_MINUTES (30). CORLLD_TEST_SOAK_PICTURE names a PNG file for the curves,
which lie beside the samples in the test's own folder otherwise.
"""

import csv
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pytest

from corlld.assembly import build_daemon
from corlld.observer import Observer, Observers
from corlld.operations.logs import configure_logging
from corlld.operations.watched import watched
from corlld.records import Arrival, LoopStatus
from corlld.settings.sections import Settings
from tests.support import traffic

MINUTES = float(os.environ.get("CORLLD_TEST_SOAK_MINUTES", "30"))
USERS, DEVICE_SLOTS = 10_000, 32
HOST_MEMORY_BYTES = 8_000_000  # about a tenth of all states
BACKLOG = 500  # records written ahead of the daemon
SAMPLES = 600
WARM, HALF = SAMPLES // 4, SAMPLES // 2
# The allocator comes to rest within the first quarter, but not to the byte.
MAX_GROWTH_BYTES = 16_000_000
MAX_GROWTH_DESCRIPTORS = 3  # open for the moment of a write


@dataclass(frozen=True)
class Sample:
    """The memory, descriptors and threads of the process at a moment."""

    seconds: float
    resident_bytes: int
    descriptors: int
    threads: int
    finished_events: int
    users_seen: int
    host_memory_bytes: int
    unsaved_users: int


class Progress(Observer):
    """Counts the daemon's progress. It takes the same memory from the beginning on."""

    def __init__(self) -> None:
        self.finished_events = 0
        self._seen = bytearray(USERS)
        self.host_memory_bytes = 0
        self.unsaved_users = 0

    @property
    def users_seen(self) -> int:
        return sum(self._seen)

    def turned(self, status: LoopStatus) -> None:
        self.host_memory_bytes, self.unsaved_users = status.host_memory_bytes, status.unsaved_users

    def finished(self, arrivals: Sequence[Arrival], now: float) -> None:
        self.finished_events += len(arrivals)
        for arrival in arrivals:
            self._seen[int(arrival.event.user_id)] = 1


def write_traffic(path: Path, progress: Progress, stop: threading.Event) -> None:
    """Edits without end, a little ahead of the daemon: every user in turn, and between them a few much more often."""
    draw = random.Random(1)
    with path.open("a") as file:
        number = 0
        while not stop.is_set():
            if number - progress.finished_events >= BACKLOG:
                stop.wait(0.02)
                continue
            for user in (number // 2 % USERS, int(USERS * draw.random() ** 3)):
                file.write(json.dumps(traffic.event(draw, f"e{number}", str(user))) + "\n")
                number += 1
            file.flush()


def sample(progress: Progress, started: float) -> Sample:
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        seconds=time.monotonic() - started,
        resident_bytes=resident_pages * os.sysconf("SC_PAGESIZE"),
        descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - names alone
        threads=threading.active_count(),
        finished_events=progress.finished_events,
        users_seen=progress.users_seen,
        host_memory_bytes=progress.host_memory_bytes,
        unsaved_users=progress.unsaved_users,
    )


def settings_of(folder: Path, model: Path) -> Settings:
    return Settings.model_validate(
        {
            "source": {"kind": "jsonl", "path": folder / "edits.jsonl", "follow": True},
            "identity": {"secret": "s" * 32},
            "batching": {"max_events": 4, "flush_after_seconds": 1.0, "max_buffered_events": 2_000},
            "model": {"name": str(model), "device": "cpu", "threads": 1},
            "adapter": {
                "r": 2,
                "lora_alpha": 4,
                "target_modules": ["q_proj", "v_proj"],
                "device_slots": DEVICE_SLOTS,
            },
            "state": {
                "path": folder / "state",
                "host_memory_bytes": HOST_MEMORY_BYTES,
                "recent_event_ids": 16,
            },
            "snapshot": {"every_updates": 3, "every_seconds": 5.0},
            "publishing": {"path": folder / "adapters", "keep_versions": 1, "keep_seconds": 0},
            "operations": {"http_address": ""},
        }
    )


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 300)
def test_i9_memory_and_descriptors_stay_flat_while_ten_thousand_users_come_and_go(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(tmp_path, tiny_model)
    progress, stop = Progress(), threading.Event()
    samples: list[Sample] = []
    (tmp_path / "edits.jsonl").touch()
    with (tmp_path / "log").open("w") as log, watched(settings) as observer:
        configure_logging("warning", "json", log)
        daemon = build_daemon(settings, Observers(observer, progress))
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone

        def watch() -> None:
            started = time.monotonic()
            for number in range(1, SAMPLES + 1):
                stop.wait(max(0.0, started + number * MINUTES * 60 / SAMPLES - time.monotonic()))
                samples.append(sample(progress, started))
            stop.set()
            daemon.request_stop()

        threads = [
            threading.Thread(target=watch),
            threading.Thread(target=write_traffic, args=(tmp_path / "edits.jsonl", progress, stop)),
        ]
        for thread in threads:
            thread.start()
        try:
            daemon.run()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    write_samples(tmp_path / "memory.csv", samples)
    plot(Path(os.environ.get("CORLLD_TEST_SOAK_PICTURE") or tmp_path / "memory.png"), samples)

    settled = statistics.median(s.resident_bytes for s in samples[WARM - SAMPLES // 20 : WARM])
    second_half = samples[HALF:]
    later = statistics.median(s.resident_bytes for s in second_half)
    seconds = [s.seconds for s in second_half]
    slope = statistics.linear_regression(seconds, [s.resident_bytes for s in second_half]).slope
    growth = slope * (seconds[-1] - seconds[0])
    last = samples[-1]
    with capsys.disabled():
        print(
            f"\n{last.finished_events} events of {last.users_seen} users in {last.seconds / 60:.1f} minutes, "
            f"{last.host_memory_bytes / 1e6:.1f} MB of states in host memory; resident {settled / 1e6:.1f} MB after a "
            f"quarter, {later / 1e6:.1f} MB in the second half, which grew by {growth / 1e6:+.1f} MB; samples in "
            f"{tmp_path / 'memory.csv'}"
        )
    assert last.users_seen > 10 * DEVICE_SLOTS
    assert later - settled < MAX_GROWTH_BYTES
    assert growth < MAX_GROWTH_BYTES
    open_then, open_later = (statistics.median(s.descriptors for s in part) for part in (samples[:WARM], second_half))
    assert open_later - open_then <= MAX_GROWTH_DESCRIPTORS
    assert max(s.threads for s in second_half) <= max(s.threads for s in samples[:WARM])
    assert not daemon.abandoned
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 - names alone


def write_samples(path: Path, samples: Sequence[Sample]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Sample)])
        writer.writeheader()
        writer.writerows(asdict(one) for one in samples)


def plot(path: Path, samples: Sequence[Sample]) -> None:
    """Memory, descriptors and how far the daemon was, against time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)  # never a window
    memory, descriptors, users = figure.subplots(3, sharex=True)
    minutes = [one.seconds / 60 for one in samples]
    memory.plot(minutes, [one.resident_bytes / 1e6 for one in samples], label="resident")
    memory.plot(minutes, [one.host_memory_bytes / 1e6 for one in samples], label="states in host memory")
    memory.set(ylabel="MB", ylim=(0, None), title=f"{USERS} users through {DEVICE_SLOTS} device slots")
    memory.legend()
    descriptors.plot(minutes, [one.descriptors for one in samples], label="open descriptors")
    descriptors.plot(minutes, [one.threads for one in samples], label="threads")
    descriptors.set(ylim=(0, None))
    descriptors.legend()
    users.plot(minutes, [one.users_seen for one in samples], label="users seen")
    users.plot(minutes, [one.finished_events for one in samples], label="events finished")
    users.set(xlabel="minutes", ylim=(0, None))
    users.legend()
    for axes in (memory, descriptors, users):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
