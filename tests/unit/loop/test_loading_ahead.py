"""States are loaded while their users' edits still gather, each once and a few at a time."""

import threading

import pytest

from corlld.durable import UserState
from corlld.errors import StateUnreadable
from corlld.records import Polled
from tests.support.daemon_parts import PSEUDONYMS, T0, begun, records, value
from tests.support.deferring import ANN, NEVER, Deferring, RecordingStore, wait_for, when
from tests.support.fakes import Applied


@pytest.mark.parametrize("known", [True, False], ids=["stored before", "new user"])
def test_a_state_is_loaded_while_edits_gather_and_a_due_batch_does_not_wait_for_the_store(known: bool) -> None:
    parts = Deferring(batching={"max_events": 2, "flush_after_seconds": NEVER})
    go = threading.Event()
    store = parts.store = RecordingStore(wait_for(go))
    if known:
        store.states[ANN] = (UserState(ANN, version=1, adapter=Applied(("before",))), 1)
    source, daemon = parts.live(begun(*records(value("a"))))

    def let_it_load() -> None:
        go.set()
        source.idle = when(lambda: parts.last.status.host_memory_users == 1, make_it_due)

    def make_it_due() -> None:
        go.clear()  # another load would hang
        source.deliver(Polled(records(value("b"), first=1)))
        source.idle = when(lambda: len(parts.trained) == 2, daemon.request_stop)

    source.idle = when(lambda: store.under_way == {ANN}, let_it_load)
    daemon.run()
    assert store.loads == [ANN]
    assert parts.applied_ids() == (("before",) if known else ()) + ("a", "b")


def test_a_batch_that_comes_due_while_its_state_is_being_loaded_takes_that_load() -> None:
    parts = Deferring(batching={"max_events": 2, "flush_after_seconds": NEVER})
    go = threading.Event()
    store = parts.store = RecordingStore(wait_for(go))
    source, daemon = parts.live(begun(*records(value("a"))))

    def make_it_due() -> None:
        source.deliver(Polled(records(value("b"), first=1)))
        source.idle = when(lambda: parts.last.status.buffered_events == 2, let_it_load)

    def let_it_load() -> None:
        go.set()
        source.idle = when(lambda: len(parts.trained) == 2, daemon.request_stop)

    source.idle = when(lambda: store.under_way == {ANN}, make_it_due)
    daemon.run()
    assert store.loads == [ANN]
    assert parts.applied_ids() == ("a", "b")


def test_a_few_states_are_loaded_ahead_at_a_time_each_once() -> None:
    parts = Deferring(batching={"max_events": 2, "flush_after_seconds": NEVER}, publishing={"threads": 8})
    go = threading.Event()
    store = parts.store = RecordingStore(wait_for(go))
    users = [f"user-{n}" for n in range(10)]
    source, daemon = parts.live(
        begun(*(records(value("e", u), user=u, first=n)[0] for n, u in enumerate(users))),
    )

    def let_them_load() -> None:
        go.set()
        source.idle = when(lambda: parts.last.status.host_memory_users == len(users), daemon.request_stop)

    source.idle = when(lambda: len(store.under_way) == 2, let_them_load)
    daemon.run()
    assert store.most_loads_at_once == 2
    assert sorted(store.loads) == sorted(PSEUDONYMS.uid(user) for user in users)
    assert parts.trained == []


def test_unreadable_states_are_found_ahead_set_their_records_aside_and_do_not_hold_up_other_loads() -> None:
    parts = Deferring(batching={"max_events": 2, "flush_after_seconds": NEVER}, state={"max_unreadable_share": 1.0})
    parts.store.load_faults = [StateUnreadable("torn"), StateUnreadable("torn")]
    source, daemon = parts.live(
        begun(*(records(value("e", u), user=u, first=n)[0] for n, u in enumerate(("ann", "bob", "cat"))))
    )
    source.idle = when(
        lambda: len(parts.dead_letters.letters) == 2 and parts.last.status.host_memory_users == 1, daemon.request_stop
    )
    daemon.run()
    assert source.final == {T0: 2}
    assert len(parts.store.loads) == 3
