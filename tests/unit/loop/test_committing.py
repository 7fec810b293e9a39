"""No offset is committed whose user's announcement a crash would lose: it is acknowledged or noted first."""

import pytest
from structlog.testing import capture_logs

from corlld.durable import UserState
from corlld.errors import RetriableError
from corlld.records import Polled, Record, Stage
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, begun, records, value
from tests.support.fakes import MemoryPublisher, ScriptedSource, tenure

T1 = tenure(1)
UID = PSEUDONYMS.uid("ann")


class OrderedPublisher(MemoryPublisher):
    """Announces nothing, and keeps what had been committed when it wrote its notes."""

    def __init__(self, source: ScriptedSource) -> None:
        super().__init__(announces=False)
        self._source = source
        self.committed_before: list[int] = []

    def note_unannounced(self) -> None:
        super().note_unannounced()
        self.committed_before.append(self._source.committed()[T0])


def running(*values: bytes | None) -> tuple[Parts, ScriptedSource, OrderedPublisher]:
    parts = Parts(batching={"max_events": 1})
    source = ScriptedSource([begun(*records(*values))], finite=False)
    publisher = parts.publisher = OrderedPublisher(source)
    return parts, source, publisher


def test_a_version_that_is_not_announced_is_noted_before_its_offset_is_committed() -> None:
    parts, source, publisher = running(value("a"))
    daemon = parts.daemon(source)
    source.idle = lambda: daemon.request_stop() if source.commits and source.commits[-1] == {T0: 1} else None
    daemon.run()
    assert publisher.noted == [UID]
    assert publisher.committed_before == [0]


def test_an_erasure_that_is_not_announced_is_noted_before_its_offset_is_committed() -> None:
    parts, source, publisher = running(value("a", type="erase"))
    daemon = parts.daemon(source)
    source.idle = lambda: daemon.request_stop() if source.commits and source.commits[-1] == {T0: 1} else None
    daemon.run()
    assert publisher.noted == [UID]
    assert publisher.committed_before == [0]


def test_what_is_announced_in_time_is_never_noted() -> None:
    parts = Parts(batching={"max_events": 1})
    source = parts.run(begun(*records(value("a"), value("b"))))
    assert source.final == {T0: 2}
    assert parts.publisher.noted == []


@pytest.mark.parametrize("failures", [1, 5])
def test_a_note_that_cannot_be_written_holds_the_commit_back_and_the_daemon_is_not_ready(failures: int) -> None:
    parts, source, publisher = running(value("a"))
    publisher.note_faults = [RetriableError("disk full")] * failures
    daemon = parts.daemon(source)
    waited_for: set[Stage] = set()

    def look() -> None:
        waited_for.update(daemon.waiting_for)
        if publisher.note_faults:
            assert source.committed()[T0] == 0
        elif source.committed()[T0] == 1:
            daemon.request_stop()

    source.idle = look
    daemon.run()
    assert waited_for == {Stage.STATE}
    assert publisher.noted == [UID]


def test_the_last_commit_waits_for_the_note_too() -> None:
    parts = Parts(batching={"max_events": 1})
    parts.publisher.announces = False
    source = parts.run(begun(*records(value("a"))))  # it ends before a commit is due
    assert source.final == {T0: 1}
    assert parts.publisher.noted == [UID]
    assert not parts.publisher.must_note


def test_without_a_note_the_last_commit_is_left_out_and_the_edit_comes_again() -> None:
    parts, source, publisher = running(value("a"))
    publisher.note_faults = [RetriableError("disk full")] * 1_000_000
    daemon = parts.daemon(source)
    source.idle = lambda: daemon.request_stop() if publisher.unnoted else None
    daemon.run()
    assert source.final == {}
    assert source.committed()[T0] == 0


class OneSided(OrderedPublisher):
    """Announces all users but Ann."""

    def _ask(self, state: UserState) -> None:
        self.announces = state.uid != UID
        super()._ask(state)


class SourceOfTwo(ScriptedSource):
    """Ann's edits are in partition 0, Bob's in partition 1. He has one at first."""

    delivered_to_bob = 1


def bobs(event_id: str, offset: int) -> tuple[Record, ...]:
    return records(value(event_id, "bob"), of=T1, user="bob", first=offset)


def of_two_partitions(*anns: Record) -> tuple[Parts, SourceOfTwo, OrderedPublisher]:
    """No note can be written."""
    parts = Parts(batching={"max_events": 1})
    source = SourceOfTwo([Polled((*anns, *bobs("b0", 0)), begun=(T0, T1))], finite=False)
    publisher = parts.publisher = OneSided(source)
    publisher.note_faults = [RetriableError("disk full")] * 1_000_000
    return parts, source, publisher


def test_a_note_that_cannot_be_written_holds_the_commits_of_its_users_partitions_alone() -> None:
    parts, source, publisher = of_two_partitions()
    daemon = parts.daemon(source)
    later = iter(
        [
            (*records(value("a")), *bobs("b1", 1)),  # both are finished before the next commit is due
            bobs("b2", 2),
        ]
    )

    def look() -> None:
        committed = source.committed()
        if publisher.note_faults:
            assert committed[T0] == 0
            if committed[T1] == source.delivered_to_bob:
                if (delivered := next(later, None)) is None:
                    publisher.note_faults.clear()
                else:
                    source.delivered_to_bob += 1
                    source.deliver(Polled(delivered))
        elif committed[T0] == 1:
            daemon.request_stop()

    source.idle = look
    with capture_logs() as logs:
        daemon.run()
    assert publisher.noted == [UID]
    of_bob = [offsets[T1] for offsets in source.commits if T1 in offsets]
    assert of_bob == sorted(of_bob), "the note does not take back what was committed meanwhile"
    [held] = [line for line in logs if line["event"] == "commits_held"]
    assert (held["partitions"], held["problem"]) == ([0], "the outbox can't be written: disk full")


def test_without_a_note_the_last_commit_leaves_out_the_partitions_of_its_users_alone() -> None:
    parts, source, publisher = of_two_partitions(*records(value("a")))
    daemon = parts.daemon(source)
    source.idle = lambda: daemon.request_stop() if len(publisher.out) == 2 else None
    daemon.run()
    assert source.final == {T1: 1}
    assert source.committed()[T0] == 0


def test_offsets_of_a_tenure_that_ended_while_the_note_was_written_are_not_committed() -> None:
    parts, source, publisher = running(value("a"))
    daemon = parts.daemon(source)
    note = publisher.note_unannounced

    def ended_meanwhile() -> None:
        daemon._watermarks.end(T0)
        note()

    publisher.note_unannounced = ended_meanwhile  # type: ignore[method-assign]
    turns = 0

    def stop_later() -> None:
        nonlocal turns
        turns += bool(publisher.noted)
        if turns > 5:
            daemon.request_stop()

    source.idle = stop_later
    daemon.run()
    assert source.commits == []
