"""A storm: several daemons of a group are killed and stopped at random while edits, erasures and history flow in.

Whatever happens is drawn from one seed: kinds of falls, their stages and delays, and the records. When it is over a
last daemon finishes the rest, and the oracle judges what is there.
"""

import itertools
import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support import traffic
from tests.support.daemon_process import ENVIRON, Launcher, Site
from tests.support.falls import MarkedLife, Plan
from tests.support.quiet_learning import write_undisturbed_tensors
from tests.support.traffic import Producer, Sent

TAKE_OVER_SECONDS = 40.0  # at most: the session (6 s), a rebalance, a start, and some steps of the next owner
REACH_SECONDS = 12.0  # how long a life may take to its stage: a member that fell holds the others up for a session
STAGES = ("polled", "training", "trained", "saving", "saved", "publishing", "published", "commit")
STALE_STAGES = ("saving",) * 4 + ("training", "trained", "publishing")
KINDS = ("kill at a stage",) * 10 + ("kill at random",) * 6 + ("stop, then kill",) * 2 + ("stop, then end", "end")
AFTER_A_TAKE_OVER = "kill after a take-over"
LONGEST_DELAY_SECONDS = 0.8
FINISH_SECONDS = 180.0
LOGS = ("daemons", "last")


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
    """What happened so far. Its lock also keeps the launcher's orders apart.

    stops: daemons that were stopped with a user's state in their hands. taken_over: those among them whose users other
    daemons had stored or published before the stop ended. ends: orderly ones, some of them after a stop.
    stopping: names of the lives that are, or are to be, stopped. stopped: users in the hands of those that are,
    until another daemon has stored or published such a user.
    """

    wanted: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    kinds: Counter[str] = field(default_factory=Counter)
    last_marks: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    stops: int = 0
    ends: int = 0
    stopping: set[str] = field(default_factory=set)
    stopped: dict[str, set[str]] = field(default_factory=dict)
    taken_over: int = 0
    bad_ends: list[str] = field(default_factory=list)

    @property
    def falls(self) -> int:
        return self.kills + self.stops

    @property
    def over(self) -> bool:
        return self.falls >= self.wanted and not self.stopping

    def may_stop(self, name: str, at_once: int) -> bool:
        """Return whether another daemon may be stopped. Then it is counted as such until `woken`."""
        with self.lock:
            if len(self.stopping) >= at_once:
                return False
            self.stopping.add(name)
            return True

    def stop(self, name: str, users: set[str]) -> None:
        with self.lock:
            self.stopped[name] = set(users)

    def stored(self, marks: Sequence[Sequence[str]]) -> None:
        """Note the users whom another life has stored or published, as its marks tell."""
        users = {mark[1] for mark in marks if mark[0] in ("saved", "published")}
        with self.lock:
            for name, in_hand in self.stopped.items():
                if in_hand & users:
                    self.stopped[name] = set()

    def woken(self, name: str) -> None:
        """Count a daemon no longer as stopping or stopped."""
        with self.lock:
            if name in self.stopped:
                self.taken_over += not self.stopped.pop(name)
            self.stopping.discard(name)

    def fallen(self, kind: str, passed: Sequence[str]) -> None:
        """Count a life that is over. passed: its marks."""
        with self.lock:
            self.kinds[kind] += 1
            self.stops += kind.startswith("stop")
            self.ends += kind.endswith("end")
            self.kills += not kind.endswith("end")
            self.last_marks[passed[-1] if passed else "none"] += 1


def records_of(storm: Storm) -> list[Sent]:
    """Return edits, malformed records, erasures, and history that is delivered once more, in one order per user.

    Every second erasure is a record without a value. Copies of it in the history erase each time.
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
        if sent.reason == "no_value" and storm.erasures:
            sent = replace(sent, reason=None)  # an erasure, too
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


def passers_by(storm: Storm) -> list[Sent]:
    """Return an edit each of new users, as many as there were.

    With each version that is published another user's are looked at. So the last daemon comes by everybody, and
    removes what a daemon left that was killed as it published an erased version.
    """
    draw = random.Random(storm.seed)
    names = [f"passer-by-{number}@example.org" for number in range(storm.users)]
    events = [traffic.event(draw, f"passing-{storm.seed}-{n}", name) for n, name in enumerate(names)]
    return [traffic.plain(traffic.partition_of(e["user_id"], storm.partitions), e["user_id"], e) for e in events]


def _erasure(storm: Storm, user: str, number: int) -> Sent:
    place = traffic.partition_of(user, storm.partitions)
    if number % 2:
        return Sent(place, user.encode(), None)
    body = {
        "type": "erase",
        "event_id": f"erase-{storm.seed}-{number}",
        "user_id": user,
        "occurred_at": traffic.OCCURRED_AT,
    }
    return Sent(place, user.encode(), json.dumps(body).encode())


def plan_of(kind: str, draw: random.Random) -> Plan:
    """Return the moment at which such a fall begins."""
    if kind == AFTER_A_TAKE_OVER:
        return Plan(None, 0, 0.0, early=True)
    if kind in ("kill at random", "end"):
        return Plan(None, 0, draw.uniform(0, LONGEST_DELAY_SECONDS), early=kind != "end" and draw.random() < 0.1)
    if kind.startswith("stop"):
        return Plan(draw.choice(STALE_STAGES), 1, draw.uniform(0, 0.05))
    return Plan(draw.choice(STAGES), draw.randint(1, 3), draw.uniform(0, 0.05))


def settings_of(storm: Storm) -> dict[str, dict[str, Any]]:
    """Return the sections of every daemon's settings."""
    snapshot = {"every_updates": 4, "every_seconds": 0.5} if storm.deferred else {}
    return {
        "batching": {"max_events": 3, "flush_after_seconds": 0.1, "max_users_per_step": 4},
        "dead_letters": {"max_share": 1.0},
        "events": {"tombstones_erase": storm.erasures > 0},
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
        with self.weather.lock:
            last = self._launcher.start(
                configs[0], self._site.log("last"), environ=self._environ, mutation=self._storm.mutation
            )
        last.wait_for_assignment(FINISH_SECONDS)
        self._site.wait_for_end(last, FINISH_SECONDS)
        self._producer.send(passers_by(self._storm))
        self._site.wait_for_end(last, FINISH_SECONDS)
        code = last.stop()
        self._producer.close()
        records = [*self._records, *passers_by(self._storm)]
        problems = [*self.weather.bad_ends, *([f"the last daemon ended with {code}"] if code else [])]
        tensors = write_undisturbed_tensors(configs[0], records, self._site.folder / "tensors")
        verdict = self._site.verdict(
            self._producer,
            pairs_per_step=1,
            tensors_folder=str(tensors),
            copies_allowed=True,
            deferred=self._storm.deferred,
            stops=self.weather.stops,
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
            "taken_over": weather.taken_over,
            "lost_swaps": sum(self._site.log(name).read_text(errors="replace").count('"lost_swap"') for name in LOGS),
            "orderly_ends": weather.ends,
            "tombstones": sum(sent.value is None and sent.reason is None for sent in self._records),
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
        kind = self._kind(draw, name)
        stop = kind.startswith("stop")
        plan = plan_of(kind, draw)
        log, fifo = self._site.log("daemons"), self._site.folder / f"marks-{name}"
        try:
            with self.weather.lock:
                marked = MarkedLife(self._launcher, config, log, fifo, plan, self._environ, self._storm.mutation)
            marked.run(plan, REACH_SECONDS)
            self._send_some()
            if kind == AFTER_A_TAKE_OVER:
                self._take_over(marked, draw)
            elif stop and not self._stop(marked, draw, name):
                kind = "kill at a stage"  # which it did not reach
        finally:
            if stop:
                self.weather.woken(name)
        if marked.life.code not in (None, 0):
            raise AssertionError(f"it ended by itself with {marked.life.code}")
        if kind.endswith("end"):
            code = marked.stop()
            assert code == 0, f"it ended with {code}"
        else:
            marked.kill()
        fifo.unlink()
        self.weather.fallen(kind, [mark[0] for mark in marked.marks if mark[0] != "held"])

    def _kind(self, draw: random.Random, name: str) -> str:
        """Draw a kind of fall. While a daemon is stopped, others live until they have taken its users over."""
        kind = draw.choice(self._storm.kinds)
        if self.weather.stopped:
            return AFTER_A_TAKE_OVER
        if kind.startswith("stop") and not self.weather.may_stop(name, self._storm.daemons - 1):
            return "kill at a stage"
        return kind

    def _stop(self, marked: MarkedLife, draw: random.Random, name: str) -> bool:
        """Stop a daemon until others have stored its users. It goes on with their old states as it wakes up.

        Return False, and do not stop it, if it holds nobody's state.
        """
        users = marked.users_in_hand()
        if not users:
            return False
        self.weather.stop(name, users)
        marked.life.signal(signal.SIGSTOP)
        self._send_some(ahead=0.03)  # so that the next owner goes beyond the state that is held
        deadline = time.monotonic() + TAKE_OVER_SECONDS
        while self.weather.stopped[name] and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 2))
        marked.life.signal(signal.SIGCONT)
        self.weather.woken(name)
        marked.live_on(draw.uniform(0.5, 2))
        return True

    def _take_over(self, marked: MarkedLife, draw: random.Random) -> None:
        """Let a daemon live until no other is stopped, and a little longer."""
        while self.weather.stopped and marked.life.code is None:
            self.weather.stored(marked.live_on(0.1))
        marked.live_on(draw.uniform(0, LONGEST_DELAY_SECONDS))

    def _send_some(self, ahead: float = 0.0) -> None:
        """Send records as falls go on. ahead: a share of all that is sent earlier."""
        self._send(min(1.0, 0.1 + self.weather.falls / self._storm.falls + ahead))

    def _send(self, share: float) -> None:
        """Send up to this share of all records."""
        with self.weather.lock:
            until = round(share * len(self._records))
            batch: Sequence[Sent] = self._records[self._sent : until]
            self._sent = max(self._sent, until)
            self._producer.send(batch)
