"""I9: what waits behind an unfinished record is bounded: its partition pauses, and other partitions go on."""

import time

from corlld.durable import UserState
from corlld.errors import RetriableError
from corlld.records import LoopStatus, Polled, Stage
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, records, value
from tests.support.fakes import MemoryStore, ScriptedSource, tenure

T1 = tenure(1, 2)
LIMIT = 20
BUFFER = 16


class HeldUp(MemoryStore):
    """The state of ann can't be reached until `works`."""

    works = False

    def load(self, uid: str) -> tuple[UserState | None, str]:
        if uid == PSEUDONYMS.uid("ann") and not self.works:
            raise RetriableError("Input/output error")
        return super().load(uid)


def test_i9_a_low_watermark_that_cannot_move_pauses_its_partition_until_it_moves() -> None:
    parts = Parts(
        batching={"max_finished_ahead": LIMIT, "max_buffered_events": BUFFER}, state={"set_aside_after_seconds": 0}
    )
    parts.store = store = HeldUp()
    seen: list[LoopStatus] = []
    parts.observer.turned = seen.append  # type: ignore[method-assign]
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.01  # so that the status is due again and again
        return now

    parts.clock = clock
    first = Polled(records(value("a")), begun=(T0, T1))
    bob = [Polled(records(value(f"b{n}", "bob"), user="bob", first=n)) for n in range(1, 80)]
    cat = [Polled(records(value(f"c{n}", "cat"), of=T1, user="cat", first=n)) for n in range(20)]
    source = ScriptedSource([first, *bob, *cat])
    read_before: list[int] = []
    deadline = time.monotonic() + 30

    def idle() -> None:
        """Let the state be reached again once the other partition is read and that this one waits is reported."""
        assert time.monotonic() < deadline
        cat_learnt = PSEUDONYMS.uid("cat") in store.states and len(parts.applied_ids("cat")) == 20
        if not store.works and cat_learnt and Stage.LOW_WATERMARK in seen[-1].waiting_for:
            assert seen[-1].paused_partitions[Stage.LOW_WATERMARK] == 1
            assert T1 not in source.paused_tenures
            read_before.append(source.positions()[T0])
            store.works = True

    source.idle = idle
    daemon = parts.daemon(source)
    daemon.run()
    [read] = read_before
    assert LIMIT < read <= LIMIT + BUFFER, "what was buffered when the limit was reached comes on top"
    assert source.final == {T0: 80, T1: 20}
    assert len(parts.applied_ids("bob")) == 79
    assert daemon.waiting_for == []
