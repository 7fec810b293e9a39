"""A step that ends the process is tried again, then user by user, then event by event, and the guilty event set aside.

A crash is an exception of the learner: nothing of that life is committed or stored afterwards. The next life begins
at the offset that was committed last, with the stores as they were left.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from corlld.durable import Attempts
from corlld.errors import AttemptsUnreadable, InvalidReason, RetriableError
from corlld.loop.attempts import AttemptJournal
from corlld.loop.jobs import Jobs
from corlld.loop.partition_notes import MARK_RECORDS
from corlld.observer import Observer
from corlld.records import Polled, Stage, TrainingBatch
from tests.support.crashing import KEY, MAX_CRASHES, USERS, Crash, Site, edits
from tests.support.daemon_parts import PSEUDONYMS, Parts, begun, records, value
from tests.support.deferring import Deferring, when
from tests.support.fakes import ListingLearner, MemoryAttempts, tenure

THREE_USERS = edits(*(f"{user}-{number}" for number in range(3) for user in USERS))


def test_the_guilty_event_is_a_dead_letter_after_max_crashes_and_three_lives_and_all_others_are_learnt() -> None:
    site = Site(THREE_USERS, guilty=["bob-1"])
    assert site.lives_until_it_stands(20) == MAX_CRASHES + 3
    assert site.letters() == [(4, "crashed")]
    assert site.parts.applied_ids("ann") == ("ann-0", "ann-1", "ann-2")
    assert site.parts.applied_ids("bob") == ("bob-0", "bob-2")
    assert site.parts.applied_ids("cid") == ("cid-0", "cid-1", "cid-2")
    assert site.committed == len(THREE_USERS)
    crashed = [step for step in site.steps if any("bob-1" in ids for ids in step)]
    assert crashed[-2:] == [[["bob-0", "bob-1", "bob-2"]], [["bob-1"]]], "first alone with its user, then all alone"


@pytest.mark.parametrize("every_updates", [1, 100])
def test_others_are_learnt_before_a_suspect_is_tried_again(every_updates: int) -> None:
    parts = Parts(batching={"max_events": 8}, snapshot={"every_updates": every_updates, "every_seconds": 1000})
    site = Site(THREE_USERS, guilty=["bob-1"], parts=parts)
    assert not site.live()
    assert not site.live()  # counted: all three users are suspects now
    late = tuple(records(*(value(f"dan-{n}", user="dan") for n in range(3)), user="dan", first=9))
    site.delivered = (*site.delivered, *late)
    assert not site.live()
    assert site.parts.applied_ids("dan") == ("dan-0", "dan-1", "dan-2"), "stored before the step that crashed"


@pytest.mark.parametrize("max_crashes", [1, 5])
def test_the_setting_says_how_many_crashes_are_counted_before_users_are_tried_alone(max_crashes: int) -> None:
    parts = Parts(batching={"max_events": 8}, learning={"max_crashes": max_crashes})
    site = Site(THREE_USERS, guilty=["bob-1"], parts=parts)
    assert site.lives_until_it_stands(20) == max_crashes + 3


def test_two_guilty_events_of_two_users_are_found_one_after_the_other() -> None:
    site = Site(THREE_USERS, guilty=["ann-2", "cid-0"])
    site.lives_until_it_stands(20)
    assert sorted(site.letters()) == [(2, "crashed"), (6, "crashed")]
    assert site.parts.applied_ids("ann") == ("ann-0", "ann-1")
    assert site.parts.applied_ids("bob") == ("bob-0", "bob-1", "bob-2")
    assert site.parts.applied_ids("cid") == ("cid-1", "cid-2")


def test_users_whose_events_crash_only_together_are_all_learnt() -> None:
    class Together(Site):
        def _step(self, batches: Sequence[TrainingBatch]) -> None:
            if len(batches) > 1:
                raise Crash

    site = Together(THREE_USERS)
    assert site.lives_until_it_stands(20) == MAX_CRASHES + 1
    assert site.letters() == []
    assert [len(site.parts.applied_ids(user)) for user in USERS] == [3, 3, 3]


def test_without_a_journal_that_keeps_anything_the_daemon_crashes_for_ever() -> None:
    class Forgetful(MemoryAttempts):
        def save_attempts(self, partition: str, attempts: Attempts) -> None:
            """Keep nothing."""

    site = Site(THREE_USERS, guilty=["bob-1"])
    site.parts.attempts = Forgetful()
    assert not any(site.live() for _ in range(3 * (MAX_CRASHES + 3)))


def test_the_first_step_of_a_partition_raises_the_mark_and_the_next_ones_write_nothing() -> None:
    site = Site(edits(*(f"ann-{number}" for number in range(20))), parts=Parts(batching={"max_events": 1}))
    assert site.live()
    assert len(site.steps) == 20
    assert site.parts.attempts.saves == 1
    assert site.parts.attempts.kept[KEY] == Attempts(tried_below=1 + MARK_RECORDS)


def test_a_step_begins_only_after_the_journal_is_durable() -> None:
    site = Site(THREE_USERS)
    site.parts.attempts.faults = [RetriableError("disk full")] * 3
    seen = []
    learner_step = site._step

    def step(batches: Sequence[TrainingBatch]) -> None:
        seen.append(site.parts.attempts.kept[KEY].tried_below)
        learner_step(batches)

    site._step = step  # type: ignore[method-assign]  # looks at the store as the step begins
    assert site.live()
    assert min(seen) > len(THREE_USERS)


def test_steps_that_ended_leave_no_tries_behind() -> None:
    site = Site(THREE_USERS)
    site.parts.attempts.kept[KEY] = Attempts(tried_below=100)
    assert site.live()
    assert not site.parts.attempts.kept[KEY].tries
    assert site.parts.attempts.saves >= 2, "before the step, and after it"


def test_an_erasure_covers_a_guilty_event_without_another_try() -> None:
    erase = value("bob-erase", user="bob", type="erase")
    site = Site((*THREE_USERS, *records(erase, user="bob", first=9)), guilty=["bob-1"])
    site.parts.attempts.kept[KEY] = Attempts(tried_below=100, tries={4: 1})
    assert site.live()
    assert site.letters() == []
    assert site.parts.store.states[PSEUDONYMS.uid("bob")][0].erased


def test_corrupt_attempts_are_reported_and_counting_begins_anew() -> None:
    site = Site(THREE_USERS)
    site.parts.attempts.load_faults = [AttemptsUnreadable("attempts/x.json is corrupt")]
    assert site.live()
    assert site.parts.applied_ids("ann") == ("ann-0", "ann-1", "ann-2")


def test_records_wait_until_it_is_known_what_was_tried_of_them() -> None:
    site = Site(THREE_USERS, guilty=["bob-1"])
    site.parts.attempts.kept[KEY] = Attempts(tried_below=100, tries={4: MAX_CRASHES + 2})
    site.parts.attempts.load_faults = [RetriableError("away")] * 3
    assert site.live()
    assert site.letters() == [(4, "crashed")]
    assert site.parts.applied_ids("bob") == ("bob-0", "bob-2")


def test_attempts_of_a_tenure_that_ended_before_they_could_be_read_are_not_asked_for_again() -> None:
    parts = Deferring()
    parts.attempts.load_faults = [RetriableError("away")] * 10_000
    source, daemon = parts.live(Polled(begun=(tenure(),)))

    def end() -> None:
        source.deliver(Polled(ended=(tenure(),)))
        source.idle = when(lambda: not daemon._journal.loading and not daemon.waiting_for, daemon.request_stop)

    source.idle = when(lambda: Stage.STATE in daemon.waiting_for, end)
    with capture_logs() as lines:
        daemon.run()
    events = [line["event"] for line in lines]
    assert "will_try_again" in events
    assert not {"works_again", "partition_resumed"}.intersection(events)


def test_a_partition_whose_attempts_cannot_be_read_waits_alone() -> None:
    other = tenure(1, 2)

    class Sick(MemoryAttempts):
        def load_attempts(self, partition: str) -> Attempts | None:
            if partition == other.partition.key:
                raise RetriableError("Input/output error")
            return super().load_attempts(partition)

    parts = Deferring()
    parts.attempts = Sick()
    mixed = (*records(value("ann-0")), *records(value("bob-0", "bob"), of=other, user="bob"))
    source, daemon = parts.live(Polled(mixed, begun=(tenure(), other)))
    source.idle = when(lambda: parts.trained == ["ann-0"] and source.paused_tenures == {other}, daemon.request_stop)
    daemon.run()
    assert parts.applied_ids("ann") == ("ann-0",)
    assert source.final == {tenure(): 1, other: 0}, "what waits belongs to the next owner"
    assert parts.last.status.paused_partitions[Stage.STATE] == 1


def test_the_attempts_of_a_partition_that_left_are_loaded_no_more() -> None:
    left = tenure(1, 2)
    loads: list[str] = []

    class Sick(MemoryAttempts):
        def load_attempts(self, partition: str) -> Attempts | None:
            if partition == left.partition.key:
                loads.append(partition)
                raise RetriableError("Input/output error")
            return super().load_attempts(partition)

    parts = Deferring()
    parts.attempts = Sick()
    source, daemon = parts.live(Polled(begun=(tenure(), left)))
    gone = when(lambda: Stage.STATE not in daemon.waiting_for, daemon.request_stop)

    def leave() -> None:
        assert Stage.STATE in daemon.waiting_for
        source.deliver(Polled(ended=(left,)))
        source.idle = gone

    source.idle = when(lambda: len(loads) >= 3, leave)
    daemon.run()
    assert source.final == {tenure(): 0}


@pytest.mark.parametrize("ends", [False, True])
def test_what_waits_for_a_note_is_done_unless_the_tenure_ends_while_it_is_saved(ends: bool) -> None:
    jobs, done = Jobs(0.01, lambda: 0.0, Observer()), list[str]()
    with ThreadPoolExecutor(1) as pool:
        journal = AttemptJournal(MemoryAttempts(), jobs, pool, MAX_CRASHES)
        journal.begin(tenure(), lambda *_: None)
        jobs.handle_completions(wait_seconds=10)
        journal.note_pause(tenure(), paused=True)
        journal.when_durable(tenure(), lambda: done.append("done"))
        jobs.handle_completions(wait_seconds=10)  # of the save that began before; the next one is under way
        assert (done, journal.saving) == ([], True)
        if ends:
            journal.end(tenure())
        jobs.handle_completions(wait_seconds=10)
    assert done == ([] if ends else ["done"])


def test_a_dead_letter_that_was_acknowledged_before_a_crash_has_no_copy() -> None:
    bad = tuple(records(b"{", first=offset)[0] for offset in (9, 10))
    site = Site((*THREE_USERS, *bad), guilty=["bob-1"])
    site.lives_until_it_stands(20)
    assert sorted(site.letters()) == [(4, "crashed"), (9, "not_json"), (10, "not_json")]


def test_a_group_that_was_set_back_gets_its_dead_letters_anew() -> None:
    site = Site(tuple(records(b"{", b"{")))
    site.parts.attempts.kept[KEY] = Attempts(committed=1, letters=frozenset({1}))
    assert site.live()
    assert site.letters() == [(0, "not_json"), (1, "not_json")]


def test_a_dead_letter_of_a_life_before_is_not_sent_again_and_its_record_is_finished() -> None:
    site = Site(tuple(records(b"{", b"{", value("ann-0"))))
    site.parts.attempts.kept[KEY] = Attempts(committed=0, letters=frozenset({1}))
    assert site.live()
    assert site.letters() == [(0, InvalidReason.NOT_JSON.value)]
    assert site.committed == 3


def test_a_group_that_was_set_back_before_letters_that_were_committed_gets_them_anew() -> None:
    delivered = list(edits(*(f"ann-{number}" for number in range(7))))
    delivered[5:6] = records(b"{", first=5)
    site = Site(tuple(delivered))
    assert site.live()
    assert (site.letters(), site.committed) == ([(5, "not_json")], 7)
    site.committed = 0  # the group is reset to the earliest offsets
    assert site.live()
    assert site.letters() == [(5, "not_json")] * 2


def test_a_commit_that_passes_letters_is_soon_saved_though_there_are_no_new_ones() -> None:
    parts = Deferring()
    source, daemon = parts.live(begun(*records(b"{")))
    source.idle = when(lambda: parts.attempts.kept.get(KEY) == Attempts(committed=1), daemon.request_stop)
    daemon.run()
    assert len(parts.dead_letters.letters) == 1


@pytest.mark.parametrize("ends_while_loading", [False, True])
def test_a_step_that_outlives_its_tenure_counts_as_no_crash_for_the_next_one(ends_while_loading: bool) -> None:
    step_goes_on, step_may_end, may_load = (threading.Event() for _ in range(3))

    class Slow(MemoryAttempts):
        def load_attempts(self, partition: str) -> Attempts | None:
            if step_goes_on.is_set():
                assert may_load.wait(10)
            return super().load_attempts(partition)

    def held(_: object) -> None:
        step_goes_on.set()
        assert step_may_end.wait(10)

    parts = Deferring()
    parts.attempts = Slow({KEY: Attempts(tried_below=100)})
    parts.learner = ListingLearner(held)
    source, daemon = parts.live(begun(*records(value("ann-0"))))
    journal = daemon._journal

    def move_on() -> None:
        assert parts.attempts.kept[KEY].tries == {0: 1}
        source.deliver(Polled(ended=(tenure(),), begun=(tenure(number=2),)))
        if ends_while_loading:
            source.idle = when(lambda: journal.loading, end_the_step)
        else:
            may_load.set()
            source.idle = when(lambda: tenure(number=2) in source.positions() and not journal.loading, end_the_step)

    def end_the_step() -> None:
        step_may_end.set()
        source.idle = when(lambda: not parts.last.status.training, load)

    def load() -> None:
        may_load.set()
        source.idle = when(lambda: not journal.loading and not parts.attempts.kept[KEY].tries, daemon.request_stop)

    source.idle = when(lambda: step_goes_on.is_set() and parts.last.status.training, move_on)
    daemon.run()
    assert not journal.doubts
