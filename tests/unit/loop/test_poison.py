"""A partition with too many invalid records waits, others go on, and it goes on by itself once it is good again."""

import itertools
import time
from collections.abc import Callable, Sequence

import pytest

from corlld.durable import Attempts
from corlld.errors import UnavailableError
from corlld.loop.poison import FIRST_PROBE_SECONDS, LAST_PROBE_SECONDS, PROBED_RECORDS
from corlld.records import LoopStatus, Polled, Record, Stage, Tenure
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, begun, records, value
from tests.support.fakes import ScriptedSource, tenure

T1 = tenure(1, 2)
LIMIT = {"max_share": 0.5, "share_window": 10}


def poison(count: int, of: Tenure = T0, first: int = 0) -> tuple[Record, ...]:
    return records(*([b"{"] * count), of=of, first=first)


def good(count: int, user: str = "ann", of: Tenure = T0, first: int = 0) -> tuple[Record, ...]:
    return records(*(value(f"{user}-{first + i}", user) for i in range(count)), of=of, user=user, first=first)


class Site:
    """A daemon in memory on a topic that goes on. `newest` is what a probe finds; each probe is counted.

    The clock moves by as much as the longest pause between probes in each idle turn.
    """

    def __init__(self, **overrides: object) -> None:
        self.parts = Parts(dead_letters={**LIMIT, **overrides}, batching={"max_events": 1})
        self.parts.newest_records = self._probe
        self.now = 0.0
        self.parts.clock = lambda: self.now
        self.newest: Sequence[Record] = ()
        self.fault: Exception | None = None
        self.probes: list[tuple[float, int]] = []
        self.step_seconds = LAST_PROBE_SECONDS
        self.source = ScriptedSource([], finite=False)
        self.daemon = self.parts.daemon(self.source)
        self.waits: list[list[Stage]] = []

    def _probe(self, partition: int, limit: int) -> Sequence[Record]:
        assert limit == PROBED_RECORDS
        self.probes.append((self.now, partition))
        if self.fault is not None:
            raise self.fault
        return self.newest

    def run(self, *script: Polled, until: Callable[[], bool]) -> None:
        """Run the script, and then idle turns until the condition holds."""
        deadline = time.monotonic() + 20

        def idle() -> None:
            self.waits.append(self.daemon.waiting_for)
            self.now += self.step_seconds
            if until():
                self.daemon.request_stop()
            elif time.monotonic() > deadline:
                raise AssertionError("the condition did not come true")
            time.sleep(0.001)

        self.source.idle = idle
        for step in script:
            self.source.deliver(step)
        self.daemon.run()

    def has_probed(self, times: int = 3) -> Callable[[], bool]:
        return lambda: len(self.probes) >= times

    def has_learnt(self, edits: int, user: str = "ann") -> Callable[[], bool]:
        return lambda: PSEUDONYMS.uid(user) in self.parts.store.states and len(self.parts.applied_ids(user)) >= edits

    @property
    def set_aside(self) -> list[tuple[int, int]]:
        letters = self.parts.dead_letters.letters
        return [(each.record.tenure.partition.partition, each.record.offset) for each in letters]


def test_too_large_a_share_pauses_the_partition_and_what_was_read_after_it_waits_unfinished() -> None:
    site = Site()
    site.newest = poison(PROBED_RECORDS)
    site.run(begun(*poison(10), *poison(5, first=10)), until=site.has_probed())
    assert site.set_aside == [(0, offset) for offset in range(10)]
    assert site.source.paused_tenures == {T0}
    assert site.waits[-1] == [Stage.VALID_RECORDS]
    assert site.source.final == {T0: 10}, "what was judged is committed; what waits belongs to the next owner"


def test_the_partitions_of_good_producers_go_on() -> None:
    site = Site()
    site.newest = poison(PROBED_RECORDS)
    mixed = [record for pair in zip(poison(15), good(15, "bob", T1), strict=True) for record in pair]
    site.run(
        Polled(tuple(mixed), begun=(T0, T1)), Polled(good(5, "bob", T1, first=15)), until=site.has_learnt(20, "bob")
    )
    assert len(site.parts.applied_ids("bob")) == 20
    assert site.source.final == {T0: 10, T1: 20}
    assert site.source.paused_tenures == {T0}


def test_reading_goes_on_by_itself_once_the_newest_records_are_good() -> None:
    site = Site()
    site.newest = good(PROBED_RECORDS, first=15)
    site.run(
        begun(*poison(10), *poison(4, first=10), *good(1, first=14)),
        Polled(good(3, first=15)),
        until=site.has_learnt(4),
    )
    assert site.set_aside == [(0, offset) for offset in range(14)], "what is between becomes dead letters"
    assert site.parts.applied_ids() == ("ann-14", "ann-15", "ann-16", "ann-17")
    assert site.waits[-1] == []
    assert site.source.paused_tenures == set()
    assert site.source.final == {T0: 18}


def test_the_poison_that_was_there_when_reading_went_on_pauses_it_no_more_but_new_poison_does() -> None:
    site = Site()
    site.newest = good(PROBED_RECORDS)
    site.source.ends = lambda: {T0: 40}  # type: ignore[method-assign]
    steps = [begun(*poison(10)), Polled(poison(30, first=10))]
    site.run(*steps, Polled(good(1, first=40)), until=site.has_learnt(1))
    assert len(site.set_aside) == 40
    assert len(site.probes) == 1
    site = Site()
    site.newest = good(PROBED_RECORDS)
    site.source.ends = lambda: {T0: 40}  # type: ignore[method-assign]
    site.step_seconds = FIRST_PROBE_SECONDS
    site.run(*steps, Polled(poison(12, first=40)), until=lambda: len(site.set_aside) >= 50)
    assert len(site.set_aside) == 50
    assert site.source.final == {T0: 50}


def test_probes_come_less_and_less_often_while_they_find_poison() -> None:
    site = Site()
    site.newest = poison(PROBED_RECORDS)
    site.step_seconds = 0.5
    site.run(begun(*poison(10)), until=site.has_probed(5))
    times = [at for at, _ in site.probes]
    assert times[0] >= FIRST_PROBE_SECONDS
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) >= 2
    assert all(longer > gap for gap, longer in itertools.pairwise(gaps))


def test_the_newest_records_may_have_the_share_that_the_setting_allows_and_not_one_more() -> None:
    half = PROBED_RECORDS // 2
    site = Site()
    site.newest = (*poison(half), *good(half))
    site.run(begun(*poison(10)), Polled(good(1, first=10)), until=site.has_learnt(1))
    site = Site()
    site.newest = (*poison(half + 1), *good(half - 1))
    site.run(begun(*poison(10)), Polled(good(1, first=10)), until=site.has_probed())
    assert site.waits[-1] == [Stage.VALID_RECORDS]


@pytest.mark.parametrize("fault", [UnavailableError("the broker is away"), None])
def test_a_probe_that_finds_nothing_or_nobody_is_made_again(fault: Exception | None) -> None:
    site = Site()
    site.fault = fault
    site.run(begun(*poison(10)), until=site.has_probed())
    assert site.waits[-1] == [Stage.VALID_RECORDS]


def test_what_waits_of_an_ended_tenure_is_forgotten_and_its_next_tenure_begins_with_the_pause() -> None:
    site = Site()
    site.newest = poison(PROBED_RECORDS)
    again = tenure(0, 3, start_offset=10)
    moves = [Polled(poison(15, of=again, first=10), ended=(T0,), begun=(again,))]

    def has_probed_after_the_move() -> bool:
        if moves and site.has_probed(1)():
            site.source.deliver(moves.pop())
            site.probes.clear()
        return not moves and site.has_probed()()

    site.run(begun(*poison(15)), until=has_probed_after_the_move)
    assert site.set_aside == [(0, offset) for offset in range(10)], "not so many more for each owner"
    assert site.source.final == {again: 10}
    assert site.waits[-1] == [Stage.VALID_RECORDS]


def test_the_next_owner_begins_with_the_pause_and_goes_on_once_the_newest_records_are_good() -> None:
    before = Site()
    before.newest = poison(PROBED_RECORDS)
    before.run(begun(*poison(15)), until=before.has_probed())
    assert before.parts.attempts.kept[T0.partition.key].paused
    site = Site()
    site.parts.attempts = before.parts.attempts
    site.newest = good(PROBED_RECORDS, first=13)
    site.step_seconds = 0.0  # the first probe needs no wait
    site.daemon = site.parts.daemon(site.source)
    mine = tenure(0, 7, start_offset=10)
    site.run(Polled(good(3, of=mine, first=10), begun=(mine,)), until=site.has_learnt(3))
    assert len(site.probes) == 1
    assert site.parts.applied_ids() == ("ann-10", "ann-11", "ann-12")
    assert site.set_aside == []
    assert not site.parts.attempts.kept[T0.partition.key].paused, "nor does the owner after it"


@pytest.mark.parametrize("left", [poison(PROBED_RECORDS), ()])
def test_an_owner_with_nothing_left_to_read_of_the_poison_needs_no_better_records(left: Sequence[Record]) -> None:
    """The group was moved behind the poison, or retention has deleted it."""
    site = Site()
    site.parts.attempts.kept[T0.partition.key] = Attempts(paused=True, committed=10)
    site.newest = left
    site.daemon = site.parts.daemon(site.source)
    mine = tenure(0, 7, start_offset=100)
    site.run(Polled((), begun=(mine,)), until=lambda: not site.parts.attempts.kept[T0.partition.key].paused)
    assert len(site.probes) == 1


def test_an_input_that_ends_does_not_wait_for_better_records_than_it_has() -> None:
    parts = Parts()
    parts.attempts.kept[T0.partition.key] = Attempts(paused=True)
    assert parts.run(begun(*good(3))).final == {T0: 3}
    assert len(parts.applied_ids()) == 3


def test_the_paused_partitions_are_reported() -> None:
    site = Site()
    site.newest = poison(PROBED_RECORDS)
    seen: list[LoopStatus] = []
    site.parts.observer.turned = seen.append  # type: ignore[method-assign]
    site.run(begun(*poison(10)), until=site.has_probed())
    assert seen[-1].paused_partitions == {Stage.STATE: 0, Stage.VALID_RECORDS: 1, Stage.LOW_WATERMARK: 0}
