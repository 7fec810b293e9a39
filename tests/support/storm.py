"""A storm: several daemons of a group are killed and stopped at random while edits, erasures and history flow in.

Whatever happens is drawn from one seed: kinds of falls, their stages and delays, and the records. When it is over a
last daemon finishes the rest, and the oracle judges what is there.
"""

import itertools
import json
import random
import signal
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import traffic
from tests.support.daemon_process import ENVIRON, Launcher, Life, Site, wait_while_running
from tests.support.falls import HOLD_SECONDS, MarkedLife, Plan
from tests.support.quiet_learning import write_undisturbed_tensors
from tests.support.traffic import Producer, Sent

SESSION_SECONDS = 6.0  # as `Site` sets it
TAKE_OVER_SECONDS = 4.0  # after the session: a rebalance, and some steps of the next owner
STAGES = ("polled", "training", "trained", "saving", "saved", "publishing", "published", "commit")
STALE_STAGES = ("training", "trained", "saving", "saved", "publishing")
KINDS = ("kill at a stage",) * 10 + ("kill at random",) * 6 + ("stop, then kill",) * 2 + ("stop, then end", "end")
LONGEST_DELAY_SECONDS = 0.8
FINISH_SECONDS = 180.0


@dataclass(frozen=True)
class Storm:
    """What happens.

    falls: kills and stops together.
    daemons: at a time. The first one is a dynamic member, the others are static.
    deferred: updates are stored several at a time.
    mutation: a fault that every daemon has; see `mutations`.
    at_once: all records are there at the beginning.
    """

    seed: int
    falls: int
    daemons: int = 3
    partitions: int = 12
    users: int = 40
    events: int = 600
    erasures: int = 30
    deferred: bool = False
    mutation: str | None = None
    kinds: tuple[str, ...] = KINDS
    at_once: bool = False


@dataclass
class Weather:
    """What happened so far. Its lock also keeps the launcher's orders apart."""

    wanted: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    kinds: Counter[str] = field(default_factory=Counter)
    last_marks: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    stops: int = 0
    bad_ends: list[str] = field(default_factory=list)

    @property
    def falls(self) -> int:
        return self.kills + self.stops

    @property
    def over(self) -> bool:
        return self.falls >= self.wanted


def records_of(storm: Storm) -> list[Sent]:
    """Return edits, malformed records, erasures, and history that is delivered once more, in one order per user.

    History is everything of a user up to some moment, erasures included, in the order of its first delivery or in
    another order. What was erased before must stay erased, and nothing may be learnt twice.
    """
    draw = random.Random(storm.seed)
    users = traffic.users(storm.users)
    fresh = traffic.edits(storm.events, users, storm.partitions, seed=storm.seed)
    erasures = iter(range(storm.erasures))
    moments = Counter(draw.randrange(len(fresh)) for _ in erasures)
    history: dict[bytes, list[Sent]] = {}
    records: list[Sent] = []
    numbers = itertools.count()
    for place, sent in enumerate(fresh):
        records.append(sent)
        if sent.reason is None and sent.key is not None:
            history.setdefault(sent.key, []).append(sent)
        for _ in range(moments[place]):
            user = draw.choice(sorted(history)).decode() if history else users[0]
            erasure = _erasure(storm, user, next(numbers))
            records.append(erasure)
            past = history.setdefault(user.encode(), [])
            past.append(erasure)
            again = past[draw.randrange(len(past)) :] if draw.random() < 0.5 else draw.sample(past, len(past))
            records += again[: draw.randint(0, 8)]
    return records


def _erasure(storm: Storm, user: str, number: int) -> Sent:
    body = {
        "type": "erase",
        "event_id": f"erase-{storm.seed}-{number}",
        "user_id": user,
        "occurred_at": traffic.OCCURRED_AT,
    }
    return Sent(traffic.partition_of(user, storm.partitions), user.encode(), json.dumps(body).encode())


def is_assigned(daemon: Life) -> bool:
    """Return whether the daemon has begun to read: before, a signal would end it as any other program."""
    return daemon.log.exists() and '"partition_assigned"' in daemon.log.read_text()


def settings_of(storm: Storm) -> dict[str, dict[str, Any]]:
    """Return the sections of every daemon's settings."""
    snapshot = {"every_updates": 4, "every_seconds": 0.5} if storm.deferred else {}
    return {
        "batching": {"max_events": 3, "flush_after_seconds": 0.1, "max_users_per_step": 4},
        "dead_letters": {"max_share": 1.0},
        "learning": {"max_crashes": 1_000_000},  # no event is to blame for a kill here
        "snapshot": snapshot,
    }


class Chaos:
    """Runs a storm at a site. environ: of every daemon. case: what the oracle needs to know of the store."""

    def __init__(
        self,
        storm: Storm,
        site: Site,
        launcher: Launcher,
        environ: Mapping[str, str] | None = None,
        sections: Mapping[str, Mapping[str, Any]] | None = None,
        case: Mapping[str, Any] | None = None,
    ) -> None:
        self._storm = storm
        self._site = site
        self._launcher = launcher
        self._environ = {**ENVIRON, **(environ or {})}
        self._sections = sections or {}
        self._case = case or {}
        self._records = records_of(storm)
        self._producer = Producer(site.bootstrap, site.topic)
        self._sent = 0
        self.weather = Weather(storm.falls)

    def run(self) -> dict[str, Any]:
        """Return the oracle's verdict, with the storm's own figures under `storm`."""
        configs = [self._config(number) for number in range(self._storm.daemons)]
        self._send(1.0 if self._storm.at_once else 0.05)
        slots = [threading.Thread(target=self._slot, args=(n, config)) for n, config in enumerate(configs)]
        for slot in slots:
            slot.start()
        for slot in slots:
            slot.join()
        self._send(1.0)
        self._producer.close()
        with self.weather.lock:
            last = self._launcher.start(
                configs[0], self._site.log("last"), environ=self._environ, mutation=self._storm.mutation
            )
        wait_while_running(last, lambda: is_assigned(last), "an assignment", FINISH_SECONDS)
        self._site.wait_for_end(last, FINISH_SECONDS)
        code = last.stop()
        problems = [*self.weather.bad_ends, *([f"the last daemon ended with {code}"] if code else [])]
        tensors = write_undisturbed_tensors(configs[0], self._records, self._site.folder / "tensors")
        verdict = self._site.verdict(
            self._producer,
            pairs_per_step=1,
            tensors_folder=str(tensors),
            copies_allowed=True,
            deferred=self._storm.deferred,
            **self._case,
        )
        return {**verdict, "problems": problems + verdict["problems"], "storm": self._figures()}

    def _config(self, number: int) -> Path:
        kafka = {"group_instance_id": f"slot-{number}"} if number else {}
        return self._site.write_settings(f"slot-{number}", **{"kafka": kafka, **self._sections})

    def _figures(self) -> dict[str, Any]:
        weather = self.weather
        return {
            "seed": self._storm.seed,
            "kills": weather.kills,
            "stops": weather.stops,
            "kinds": dict(sorted(weather.kinds.items())),
            "last_marks": dict(weather.last_marks.most_common()),
        }

    # --- the threads of the slots -------------------------------------------------------------------------------------

    def _slot(self, number: int, config: Path) -> None:
        draw = random.Random(self._storm.seed * 1_000 + number)
        for life in itertools.count():
            if self.weather.over:
                return
            try:
                self._live(config, draw, f"{number}-{life}")
            except AssertionError as error:
                self.weather.bad_ends.append(f"slot {number}, life {life}: {error}")
                return

    def _live(self, config: Path, draw: random.Random, name: str) -> None:
        """Run one life to its fall."""
        kind = draw.choice(self._storm.kinds)
        stage = draw.choice(STAGES) if kind == "kill at a stage" else None
        hold_seconds = HOLD_SECONDS
        if stopped := kind.startswith("stop"):
            # With a user's state in its hands. It goes on with it as it wakes up, when others own the user.
            stage, hold_seconds = draw.choice(STALE_STAGES), SESSION_SECONDS + TAKE_OVER_SECONDS
        delay = draw.uniform(0, 0.05 if stage else LONGEST_DELAY_SECONDS)
        early = kind == "kill at random" and draw.random() < 0.1
        plan = Plan(stage, draw.randint(1, 3), delay, early, hold_seconds)
        storm = self._storm
        log, fifo = self._site.log("daemons"), self._site.folder / f"marks-{name}"
        with self.weather.lock:
            marked = MarkedLife(self._launcher, config, log, fifo, plan, self._environ, storm.mutation)
        marked.run(plan)
        if marked.life.code not in (None, 0):
            raise AssertionError(f"it ended by itself with {marked.life.code}")
        self._send_some()
        if stopped:
            marked.life.signal(signal.SIGSTOP)
            threading.Event().wait(SESSION_SECONDS + TAKE_OVER_SECONDS + draw.uniform(0, 2))
            marked.life.signal(signal.SIGCONT)
            threading.Event().wait(draw.uniform(0, 2))
        if kind.endswith("end"):
            code = marked.stop()
            assert code == 0, f"it ended with {code}"
        else:
            marked.kill()
        fifo.unlink()
        passed = [mark[0] for mark in marked.marks if mark[0] != "held"]
        with self.weather.lock:
            self.weather.kinds[kind] += 1
            self.weather.stops += stopped
            self.weather.kills += kind.endswith("kill") or kind.startswith("kill")
            self.weather.last_marks[passed[-1] if passed else "none"] += 1

    def _send_some(self) -> None:
        self._send(min(1.0, 0.1 + self.weather.falls / self._storm.falls))

    def _send(self, share: float) -> None:
        """Send up to this share of all records."""
        with self.weather.lock:
            until = round(share * len(self._records))
            batch: Sequence[Sent] = self._records[self._sent : until]
            self._sent = max(self._sent, until)
            self._producer.send(batch)
