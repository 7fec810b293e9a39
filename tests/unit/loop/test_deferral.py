"""Unsaved updates become durable when they are due, and are given up without a loss (I1, I2, I6, I8, I9)."""

import threading
from typing import Any

import pytest

from corlld.durable import Attempts, UserState
from corlld.errors import RetriableError
from corlld.loop.quarantine import PATIENCE_SECONDS
from corlld.records import LoopStatus, Polled
from tests.support.daemon_parts import PSEUDONYMS, T0, begun, records, value
from tests.support.deferring import ANN, BOB, NEVER, Deferring, LastStatus, RecordingStore, wait_for, when
from tests.support.event_ids import hashes
from tests.support.fakes import Applied, ListingLearner, ScriptedSource, tenure


def test_a_state_is_stored_and_is_a_version_after_so_many_updates() -> None:
    parts = Deferring(snapshot={"every_updates": 3})
    source = parts.run(begun(*records(*(value(f"e{i}") for i in range(7)))))
    assert [len(ids) for ids in parts.saved()] == [3, 6, 7]
    assert parts.publisher.out[ANN] == [1, 2, 3]
    releases = [state.release for state in parts.store.saves]
    assert [(r.version, r.parent, r.statistics.updates) for r in releases if r] == [(1, None, 3), (2, 1, 6), (3, 2, 7)]
    assert [dict(r.applied) for r in releases if r] == [{T0.partition.key: n} for n in (3, 6, 7)]
    assert source.final == {T0: 7}


def test_i1_nothing_is_committed_before_it_is_stored_and_a_stop_stores_it() -> None:
    parts = Deferring()
    source, daemon = parts.live(
        begun(*records(value("a"), value("b"))), lambda: Polled(records(value("c", "bob"), user="bob", first=2))
    )
    unsaved: list[tuple[int, int]] = []

    def look_and_stop() -> None:
        unsaved.append((parts.last.status.unsaved_users, parts.last.status.buffered_events))
        assert (parts.store.saves, source.commits) == ([], [])
        daemon.request_stop()

    source.idle = when(lambda: parts.last.status.unsaved_users == 2 and len(parts.trained) == 3, look_and_stop)
    daemon.run()
    assert unsaved == [(2, 3)], "trained events still count for back-pressure"
    assert sorted(parts.saved()) == [("a", "b"), ("c",)]
    assert parts.publisher.out == {ANN: [1], BOB: [1]}
    assert source.final == {T0: 3}
    assert (parts.last.status.unsaved_users, parts.last.status.unsaved_age_seconds) == (0, 0)


def test_a_stop_out_of_time_commits_none_of_the_unsaved_updates() -> None:
    parts = Deferring(operations={"shutdown_timeout_seconds": 3})
    source, daemon = parts.live(begun(*records(value("a"))))

    def stop() -> None:
        parts.store.faults = [RetriableError("disk full")] * 1_000
        daemon.request_stop()

    source.idle = when(lambda: parts.last.status.unsaved_users == 1, stop)
    daemon.run()
    assert daemon.abandoned
    assert source.final == {T0: 0}


def test_a_state_is_stored_so_long_after_the_first_update_that_is_not() -> None:
    long = 1e6  # far more than the turns of this test take
    parts = Deferring(snapshot={"every_seconds": long})
    source, daemon = parts.live(begun(*records(value("a"))))
    ages: list[float] = []

    def wait_and_send_another() -> None:
        parts.seconds += long / 2
        source.deliver(Polled(records(value("b"), first=1)))
        source.idle = when(lambda: parts.trained == ["a", "b"] and parts.last.status.unsaved_users == 1, wait_on)

    def wait_on() -> None:
        ages.append(parts.last.status.unsaved_age_seconds)
        assert parts.store.saves == []
        parts.seconds += long / 2
        source.idle = when(lambda: bool(parts.store.saves), daemon.request_stop)

    source.idle = when(lambda: parts.last.status.unsaved_users == 1, wait_and_send_another)
    daemon.run()
    assert parts.saved() == [("a", "b")]
    assert long / 2 < max(ages) < long, "the first one's age, whatever came after it"


def test_a_duplicate_is_judged_against_the_unsaved_state() -> None:
    parts = Deferring()
    source, daemon = parts.live(begun(*records(value("a"))))

    def send_again() -> None:
        source.deliver(Polled(records(value("a"), value("b"), first=1)))
        source.idle = when(lambda: "b" in parts.trained, daemon.request_stop)

    source.idle = when(lambda: parts.last.status.unsaved_users == 1, send_again)
    daemon.run()
    assert parts.trained == ["a", "b"]
    assert parts.applied_ids() == ("a", "b")
    assert source.final == {T0: 3}


def test_i8_an_erasure_covers_unsaved_updates_and_nothing_of_them_is_ever_stored() -> None:
    parts = Deferring()
    source, daemon = parts.live(begun(*records(value("a"))))

    def erase() -> None:
        source.deliver(Polled(records(value("x", type="erase"), first=1)))
        source.idle = when(lambda: bool(parts.store.saves), daemon.request_stop)

    source.idle = when(lambda: parts.last.status.unsaved_users == 1, erase)
    daemon.run()
    assert parts.trained == ["a"]
    (tombstone,) = parts.store.saves
    assert tombstone == UserState(
        ANN,
        applied={T0.partition.key: 2},
        recent_event_ids=("x",),
        older_event_ids=hashes("a", uid=ANN),
        erased=True,
        erased_through=0,
    )
    assert source.final == {T0: 2}


def test_an_erasure_during_a_suspects_trial_ends_the_trial_and_halts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corlld.loop.quarantine.PATIENCE_SECONDS", NEVER)  # no patience may be needed
    parts = Deferring()
    parts.attempts.kept[T0.partition.key] = Attempts(tried_below=1_000, tries={0: 1})
    admitted = threading.Event()

    def hold_the_trial(batches: Any) -> None:
        parts.note(batches)
        if parts.trained == ["a"]:
            erase, other = records(value("x", type="erase"), first=1), records(value("b", "bob"), user="bob", first=2)
            source.idle = when(lambda: parts.last.status.buffered_events == 3, let_it_end)
            source.deliver(Polled(erase + other))
            assert admitted.wait(10)

    def let_it_end() -> None:
        admitted.set()
        source.idle = when(lambda: len(parts.trained) == 2 and bool(parts.store.saves), daemon.request_stop)

    parts.learner = ListingLearner(hold_the_trial)
    source, daemon = parts.live(begun(*records(value("a"))))
    daemon.run()
    assert parts.trained == ["a", "b"]
    assert [state.erased for state in parts.store.saves if state.uid == ANN] == [True], "nothing of the trial is stored"
    assert source.final == {T0: 3}


def test_a_suspect_beside_a_user_whose_state_cannot_be_stored_does_not_halt_the_others_for_ever() -> None:
    parts = Deferring(state={"set_aside_after_seconds": NEVER})
    parts.attempts.kept[T0.partition.key] = Attempts(tried_below=1_000, tries={1: 1})
    save = parts.store.save

    def sick_for_bob(uid: str, state: UserState, token: str) -> str:
        if uid == BOB:
            raise RetriableError("Input/output error")
        return save(uid, state, token)

    parts.store.save = sick_for_bob  # type: ignore[method-assign]  # as one folder on a sick disk
    source, daemon = parts.live(begun(*records(value("b", "bob"), user="bob")))
    offset = 2

    def suspect() -> None:
        source.deliver(Polled(records(value("a"), first=1)))
        source.idle = when(lambda: parts.last.status.buffered_events == 2, others)

    def others() -> None:
        nonlocal offset
        for _ in range(3):
            parts.seconds += PATIENCE_SECONDS
            source.deliver(Polled(records(value(f"c{offset}", "cid"), user="cid", first=offset)))
            offset += 1
        source.idle = when(lambda: len(parts.trained) >= 4, stop)

    def stop() -> None:
        parts.store.save = save  # type: ignore[method-assign]  # the disk is well again
        daemon.request_stop()

    source.idle = when(lambda: parts.trained == ["b"], suspect)
    daemon.run()
    assert parts.trained[1:] == ["c2", "c3", "c4"]


def test_a_suspect_whose_state_is_loaded_late_is_not_trained_beside_the_others() -> None:
    ann_loads, step_held, step_ends = (threading.Event() for _ in range(3))
    parts = Deferring()
    parts.store = RecordingStore(before_load=lambda uid: wait_for(ann_loads)(uid) if uid == ANN else None)
    parts.attempts.kept[T0.partition.key] = Attempts(tried_below=1_000, tries={0: 1})
    steps: list[list[str]] = []

    def hold_cid(batches: Any) -> None:
        parts.note(batches)
        steps.append([event.event_id for batch in batches for event in batch.events])
        if steps == [["c"]]:
            step_held.set()
            assert step_ends.wait(10)

    parts.learner = ListingLearner(hold_cid)
    source, daemon = parts.live(begun(*records(value("a"))))

    def occupy_the_trainer() -> None:
        parts.seconds += PATIENCE_SECONDS
        source.deliver(Polled(records(value("c", "cid"), user="cid", first=1)))
        source.idle = when(step_held.is_set, let_two_be_ready)

    def let_two_be_ready() -> None:
        source.deliver(Polled(records(value("b", "bob"), user="bob", first=2)))
        ann_loads.set()
        source.idle = when(lambda: BOB in parts.store.loads and not parts.store.under_way, end_the_step)

    def end_the_step() -> None:
        step_ends.set()
        source.idle = when(lambda: len(parts.trained) == 3, daemon.request_stop)

    source.idle = when(lambda: ANN in parts.store.under_way, occupy_the_trainer)
    daemon.run()
    assert ["a"] in steps
    assert sorted(parts.trained) == ["a", "b", "c"]


def test_what_the_stored_state_covers_is_finished_beside_unsaved_updates() -> None:
    parts = Deferring()
    other = tenure(1, 2)
    parts.store.states[ANN] = (UserState(ANN, applied={other.partition.key: 5}), 1)
    source, daemon = parts.live(Polled(records(value("a")), begun=(T0, other)))

    def send_again() -> None:
        source.deliver(Polled(records(value("seen"), of=other, first=4)))
        source.idle = when(lambda: source.positions()[other] == 5 and parts.last.status.buffered_events == 1, check)

    def check() -> None:
        assert parts.last.status.unsaved_users == 1
        assert parts.store.saves == []
        daemon.request_stop()

    source.idle = when(lambda: parts.last.status.unsaved_users == 1, send_again)
    daemon.run()
    assert parts.trained == ["a"]
    assert source.final == {T0: 1, other: 5}


def stopped_while_another_trains(parts: Deferring, third: bytes) -> ScriptedSource:
    """Run a daemon that stops while ann's first edit is trained but unsaved, bob's trains, and `third` waits behind."""
    hold, held = threading.Event(), threading.Event()

    def hold_bob(batches: Any) -> None:
        parts.note(batches)
        if batches[0].uid == BOB:
            held.set()
            assert hold.wait(10)

    class UntilItStops(LastStatus):
        def turned(self, status: LoopStatus) -> None:
            super().turned(status)
            if status.stopping:
                hold.set()

    parts.learner = ListingLearner(hold_bob)
    parts.last = parts.observer = UntilItStops(parts)
    source, daemon = parts.live(begun(*records(value("a"))))

    def occupy_the_trainer() -> None:
        source.deliver(Polled(records(value("b", "bob"), user="bob", first=1)))
        source.idle = when(held.is_set, deliver_the_third)

    def deliver_the_third() -> None:
        source.deliver(Polled(records(third, first=2)))
        source.idle = when(lambda: parts.last.status.buffered_events == 3, daemon.request_stop)

    source.idle = when(lambda: parts.last.status.unsaved_users == 1, occupy_the_trainer)
    daemon.run()
    assert not daemon.abandoned
    assert parts.trained == ["a", "b"]
    return source


def test_i8_a_stop_leaves_updates_that_a_waiting_erasure_covers_to_the_replay() -> None:
    parts = Deferring()
    source = stopped_while_another_trains(parts, value("x", type="erase"))
    assert [state.uid for state in parts.store.saves] == [BOB]
    assert source.final == {T0: 0}


def test_a_stop_stores_the_updates_of_a_user_whose_next_edit_waits_for_the_trainer() -> None:
    parts = Deferring()
    source = stopped_while_another_trains(parts, value("c"))
    assert sorted(parts.saved()) == [("a",), ("b",)]
    assert source.final == {T0: 2}


def test_i6_an_ended_tenures_unsaved_updates_are_dropped_and_its_next_owner_trains_them() -> None:
    parts = Deferring()
    again = tenure(number=2)
    source, daemon = parts.live(begun(*records(value("a"))))

    def end() -> None:
        source.deliver(Polled(records(value("a"), value("b"), of=again), ended=(T0,), begun=(again,)))
        source.idle = when(lambda: "b" in parts.trained, daemon.request_stop)

    source.idle = when(lambda: parts.last.status.unsaved_users == 1, end)
    daemon.run()
    assert parts.trained == ["a", "a", "b"]
    assert parts.saved() == [("a", "b")]
    assert source.final == {again: 2}


def test_i1_unsaved_updates_are_dropped_too_where_the_users_next_edit_waits_for_the_trainer() -> None:
    parts = Deferring()
    again, others = tenure(number=2), tenure(1, 3)
    hold, held = threading.Event(), threading.Event()

    def hold_bob(batches: Any) -> None:
        parts.note(batches)
        if batches[0].uid == BOB:
            held.set()
            assert hold.wait(10)

    parts.learner = ListingLearner(hold_bob)
    source, daemon = parts.live(Polled(records(value("a")), begun=(T0, others)))

    def occupy_the_trainer() -> None:
        source.deliver(Polled(records(value("b", "bob"), user="bob", of=others)))
        source.idle = when(held.is_set, end_the_tenure)

    def end_the_tenure() -> None:
        source.deliver(Polled(records(value("c"), first=1)))
        source.deliver(Polled(records(value("a"), value("c"), of=again), ended=(T0,), begun=(again,)))
        source.deliver(lambda: (hold.set(), Polled())[1])
        source.idle = when(lambda: parts.trained[-1] == "c", daemon.request_stop)

    source.idle = when(lambda: parts.last.status.unsaved_users == 1, occupy_the_trainer)
    daemon.run()
    assert parts.trained == ["a", "b", "a", "c"]
    assert parts.applied_ids() == ("a", "c")
    assert source.final == {again: 2, others: 1}


def test_a_live_tenures_arrivals_among_dropped_updates_go_back_to_the_front_in_order() -> None:
    parts = Deferring(batching={"max_events": 2})
    other = tenure(1, 2)
    source, daemon = parts.live(
        Polled((*records(value("a")), *records(value("x"), value("y"), of=other)), begun=(T0, other))
    )

    def end() -> None:
        parts.trained.clear()
        source.deliver(Polled(records(value("z"), of=other, first=2), ended=(T0,)))
        source.idle = when(lambda: "z" in parts.trained, daemon.request_stop)

    source.idle = when(lambda: len(parts.trained) == 3 and parts.last.status.unsaved_users == 1, end)
    daemon.run()
    assert parts.trained == ["x", "y", "z"]
    assert parts.saved() == [("x", "y", "z")]
    assert source.final == {other: 3}
    assert parts.last.status.buffered_events == 0


def test_i6_a_lost_swap_drops_the_unsaved_updates_and_trains_what_the_other_owner_has_not() -> None:
    parts = Deferring(snapshot={"every_updates": 3})
    source, daemon = parts.live(begun(*records(value("a"), value("b"))))

    def intrude_and_go_on() -> None:
        theirs = UserState(ANN, version=1, adapter=Applied(("a",)), applied={T0.partition.key: 1})
        parts.store.states[ANN] = (theirs, 5)
        parts.publisher.out[ANN] = [1]
        parts.trained.clear()
        source.deliver(Polled(records(value("c"), first=2)))
        source.idle = when(lambda: parts.trained == ["c", "b", "c"], daemon.request_stop)

    source.idle = when(lambda: len(parts.trained) == 2 and parts.last.status.unsaved_users == 1, intrude_and_go_on)
    daemon.run()
    assert parts.applied_ids() == ("a", "b", "c")
    assert parts.publisher.out[ANN] == [1, 2]
    assert source.final == {T0: 3}
    assert parts.last.status.buffered_events == 0


def test_i9_the_user_trained_longest_ago_is_stored_where_host_memory_is_full() -> None:
    size = 4_096 + 64 + 2 + 100  # a state with one event id; see `memory.stored`
    parts = Deferring(state={"host_memory_bytes": 3 * size})
    users = ["ann", "bob", "cat", "dan", "eve"]
    source, daemon = parts.live(
        begun(), *(Polled(records(value("e0", u), user=u, first=n)) for n, u in enumerate(users))
    )
    most: list[int] = []

    def look() -> None:
        most.append(parts.last.status.host_memory_bytes)
        if len(parts.trained) == len(users) and len(parts.store.saves) == 2 and parts.last.status.unsaved_users == 3:
            daemon.request_stop()
            parts.store.saves.append(UserState("the stop"))

    source.idle = when(lambda: True, look)
    daemon.run()
    order = [state.uid for state in parts.store.saves]
    assert sorted(order[:2]) == sorted(PSEUDONYMS.uid(user) for user in users[:2])
    assert order[2] == "the stop"
    assert len(order) == 6
    assert max(most) <= 3 * size + size, "and one that just came back"


@pytest.mark.parametrize("limit", [{"max_buffered_events": 4}, {"max_buffered_chars": 4 * len("x" + "draft" + "text")}])
def test_unsaved_updates_never_keep_the_buffer_full(limit: dict[str, int]) -> None:
    parts = Deferring(batching=limit)
    users = [f"user-{n}" for n in range(12)]
    source, daemon = parts.live(
        begun(), *(Polled(records(value("e", u), user=u, first=n)) for n, u in enumerate(users))
    )
    source.idle = when(lambda: len(parts.trained) == len(users), daemon.request_stop)
    daemon.run()
    assert source.final == {T0: len(users)}


def test_others_train_while_a_state_is_being_written() -> None:
    saving_ann, bob_trained = threading.Event(), threading.Event()
    parts = Deferring(snapshot={"every_updates": 1})

    def hold_ann(uid: str) -> None:
        if uid == ANN:
            saving_ann.set()
            assert bob_trained.wait(10)

    parts.store = RecordingStore(before_save=hold_ann)

    def note(batches: Any) -> None:
        parts.note(batches)
        if any(batch.uid == BOB for batch in batches):
            bob_trained.set()

    parts.learner = ListingLearner(note)
    source, daemon = parts.live(begun(*records(value("a"))))

    def send_bobs() -> None:
        source.deliver(Polled(records(value("b", "bob"), user="bob", first=1)))
        source.idle = when(lambda: len(parts.store.saves) == 2, daemon.request_stop)

    source.idle = when(saving_ann.is_set, send_bobs)
    daemon.run()
    assert bob_trained.is_set()
    assert parts.applied_ids() == ("a",)


def test_a_draft_that_an_unsaved_update_could_not_have_written_is_of_unknown_origin() -> None:
    parts = Deferring()
    parts.run(begun(*records(value("a"), value("b", adapter_version=1))))
    assert set(parts.state().statistics.drafts) == {"unknown"}
