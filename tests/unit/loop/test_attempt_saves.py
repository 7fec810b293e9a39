"""A partition whose attempts can't be saved waits alone, and goes on by itself. No try is lost, and none is made up."""

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from corlld.durable import Attempts
from corlld.errors import RetriableError
from corlld.loop.attempt_saves import AttemptSaves
from corlld.loop.jobs import Jobs
from corlld.loop.partition_notes import PartitionNotes
from corlld.loop.quarantine import PATIENCE_SECONDS
from corlld.loop.stages import Claim
from corlld.observer import Observer
from corlld.records import Polled, Record, Stage, Tenure
from tests.support.crashing import KEY, MAX_CRASHES
from tests.support.daemon_parts import PSEUDONYMS, records, value
from tests.support.deferring import Deferring, when
from tests.support.fakes import MemoryAttempts, ScriptedSource, tenure

SOUND, SICK = tenure(), tenure(1, 2)
SICK_KEY = SICK.partition.key


class Sick(MemoryAttempts):
    """Saves fail for the partitions in `sick`, once they may. Each try of them is counted."""

    def __init__(self, *sick: Tenure, kept: dict[str, Attempts] | None = None) -> None:
        super().__init__(kept or {})
        self.sick = {each.partition.key for each in sick}
        self.failed = 0
        self.may_fail = threading.Event()
        self.may_fail.set()

    def save_attempts(self, partition: str, attempts: Attempts) -> None:
        if partition in self.sick:
            assert self.may_fail.wait(10)
            self.failed += 1
            raise RetriableError("Input/output error")
        super().save_attempts(partition, attempts)


class Site:
    """A daemon whose store of attempts is sick, on a topic that goes on."""

    def __init__(self, attempts: Sick, *script: Polled, **overrides: dict[str, object]) -> None:
        self.parts = Deferring(**overrides)
        self.parts.attempts = self.attempts = attempts
        self.source, self.daemon = self.parts.live(*script)

    def run(self, *steps: tuple[Callable[[], bool], Callable[[], None]]) -> ScriptedSource:
        """Run until the conditions have held one after the other, each followed by what is done then; then stop."""
        rest = list(steps)

        def next_step() -> None:
            if not rest:
                self.daemon.request_stop()
                return
            condition, act = rest.pop(0)
            self.source.idle = when(condition, lambda: (act(), next_step())[-1])

        next_step()
        self.daemon.run()
        return self.source

    def has_trained(self, event_ids: Collection[str], *, failures: int = 3) -> Callable[[], bool]:
        """Return a condition: exactly these were trained, and the sick partition was tried a few times."""
        return lambda: sorted(self.parts.trained) == sorted(event_ids) and self.attempts.failed >= failures

    def heal(self) -> None:
        self.attempts.sick.clear()


def edits(*event_ids: str, of: Tenure = SOUND, first: int = 0) -> tuple[Record, ...]:
    """Records at offsets from `first` on. The user is the beginning of the event's id."""
    return tuple(
        records(value(event_id, event_id.split("-")[0]), of=of, user=event_id.split("-")[0], first=first + number)[0]
        for number, event_id in enumerate(event_ids)
    )


def nothing() -> None:
    """Do nothing more once the condition holds."""


def test_a_partition_whose_attempts_cannot_be_saved_waits_alone() -> None:
    mixed = (*edits("ann-0"), *edits("bob-0", of=SICK))
    site = Site(Sick(SICK), Polled(mixed, begun=(SOUND, SICK)), Polled(edits("ann-1", "cid-0", first=1)))
    with capture_logs() as lines:
        source = site.run((site.has_trained(["ann-0", "ann-1", "cid-0"]), nothing))
    assert source.paused_tenures == {SICK}
    assert source.final == {SOUND: 3, SICK: 0}, "what waits belongs to the next owner"
    assert site.parts.last.status.paused_partitions[Stage.STATE] == 1
    assert Stage.STATE in site.daemon.waiting_for
    assert [line["partition"] for line in lines if line["event"] == "partition_paused"] == [1], "once, not per try"
    assert not site.daemon.abandoned, "a stop does not wait for what may never be saved"


def test_a_partition_that_waited_goes_on_by_itself_once_its_attempts_are_saved() -> None:
    mixed = (*edits("ann-0"), *edits("bob-0", "bob-1", of=SICK))
    site = Site(Sick(SICK), Polled(mixed, begun=(SOUND, SICK)))
    with capture_logs() as lines:
        source = site.run(
            (site.has_trained(["ann-0"]), site.heal), (site.has_trained(["ann-0", "bob-0", "bob-1"]), nothing)
        )
    assert site.parts.applied_ids("bob") == ("bob-0", "bob-1")
    assert (source.final, source.paused_tenures) == ({SOUND: 1, SICK: 2}, set())
    assert site.attempts.kept[SICK_KEY].tried_below > 1, "durable before the first step"
    assert [line["partition"] for line in lines if line["event"] == "partition_resumed"] == [1]


def test_a_try_that_could_not_be_saved_is_not_counted() -> None:
    """Otherwise an event would be set aside as one that crashed, after it was never tried."""
    attempts = Sick(SICK, kept={SICK_KEY: Attempts(tried_below=100, tries={0: 1})})
    site = Site(attempts, Polled(edits("bob-0", "bob-1", of=SICK), begun=(SICK,)))
    flaps = 2 * (MAX_CRASHES + 3)
    seen: list[int] = []
    before = site.parts.learner._before

    def step(batches: object) -> None:
        seen.append(max(attempts.kept[SICK_KEY].tries.values()))
        before(batches)  # type: ignore[arg-type]  # the batches of the step

    site.parts.learner._before = step

    def flap() -> None:
        """Let one save work, as if the disk came back for a moment: the next try fails again."""
        attempts.save_attempts = lambda partition, kept: once(partition, kept)  # type: ignore[method-assign]

    def once(partition: str, kept: Attempts) -> None:
        del attempts.save_attempts  # type: ignore[method-assign]  # back to the sick one
        assert not any(tries > 1 for tries in kept.tries.values()), "counted, though no step began"
        MemoryAttempts.save_attempts(attempts, partition, kept)

    steps: list[tuple[Callable[[], bool], Callable[[], None]]] = []
    for number in range(1, flaps):
        steps.append((lambda least=2 * number: attempts.failed >= least, flap))  # type: ignore[misc]
    site.run(*steps, (lambda: attempts.failed > 2 * flaps, site.heal), (site.has_trained(["bob-0", "bob-1"]), nothing))
    assert seen[0] == 2, "the try before, and this one"
    assert site.parts.dead_letters.letters == []


def test_the_sound_partition_of_a_user_in_both_counts_no_try_of_a_step_that_did_not_begin() -> None:
    attempts = Sick(SICK, kept={KEY: Attempts(tried_below=100)})
    mixed = (*edits("bob-0"), *edits("bob-1", of=SICK))
    site = Site(attempts, Polled(mixed, begun=(SOUND, SICK)), batching={"max_events": 2})
    site.run((lambda: attempts.failed > 2 and not attempts.kept[KEY].tries, nothing))
    assert site.parts.trained == []


def test_others_have_room_in_the_buffer_though_the_held_partition_fills_it() -> None:
    limit = {"max_buffered_events": 4, "max_users_per_step": 1}
    many = edits(*(f"bob-{number}" for number in range(4)), of=SICK)
    site = Site(Sick(SICK), Polled(many, begun=(SOUND, SICK)), batching=limit)
    later = [f"ann-{number}" for number in range(6)]

    def deliver() -> None:
        for offset, event_id in enumerate(later):
            site.source.deliver(Polled(edits(event_id, first=offset)))

    source = site.run((lambda: source_is_paused_for(site, SICK), deliver), (site.has_trained(later), nothing))
    assert source.final == {SOUND: 6, SICK: 0}


def source_is_paused_for(site: Site, only: Tenure) -> bool:
    return site.source.paused_tenures == {only} and site.attempts.failed >= 2


def test_an_erasure_that_was_read_before_its_partition_is_held_is_carried_out() -> None:
    erase = records(value("bob-erase", "bob", type="erase"), of=SICK, user="bob", first=1)
    site = Site(Sick(SICK), Polled(edits("bob-0", of=SICK), begun=(SICK,)), Polled(erase))
    site.attempts.may_fail.clear()
    uid = PSEUDONYMS.uid("bob")
    site.run(
        (lambda: site.daemon._batcher.erases(uid), site.attempts.may_fail.set),
        (lambda: uid in site.parts.store.states, nothing),
    )
    assert site.parts.store.states[uid][0].erased
    assert site.parts.trained == []


class Twice:
    """Bob was erased, and has an update that is not stored. The erasure comes again in a partition that is held then.

    Attributes:
        put_off: the steps that could not begin.
    """

    def __init__(self) -> None:
        again = records(value("bob-erase", "bob", type="erase"), of=SICK, user="bob", first=1)
        self.site = Site(Sick(), *self._before(), batching={"max_events": 2}, snapshot={"every_seconds": 1000})
        self.uid = PSEUDONYMS.uid("bob")
        self.put_off: list[str] = []
        self._held = Polled((*edits("bob-1", of=SICK), *again))
        self._stages = self.site.daemon._claims._stages
        self._really_put_off = self._stages.put_off
        self._stages.put_off = self._note

    def _before(self) -> tuple[Polled, Polled]:
        erase = records(value("bob-erase", "bob", type="erase"), user="bob")
        return Polled(erase, begun=(SOUND, SICK)), Polled(edits("bob-0", first=1))

    def _note(self, claim: Claim) -> None:
        self.put_off.append(claim.uid)
        self._really_put_off(claim)

    def is_unsaved(self) -> bool:
        return self.site.parts.trained == ["bob-0"] and self.site.daemon._claims.unsaved_users == 1

    def deliver(self) -> None:
        self.site.attempts.sick = {SICK_KEY}
        self.site.attempts.may_fail.clear()
        self.site.source.deliver(self._held)

    def both_wait(self) -> bool:
        """Return whether the edit and the copy were read before the partition is held."""
        return self.site.source.positions()[SICK] == 2


def test_a_copy_of_an_erasure_in_a_held_partition_waits_like_an_edit() -> None:
    """It covers nothing. So the user's step would be begun, and put off, in each turn."""
    twice = Twice()
    site = twice.site
    site.run(
        (twice.is_unsaved, twice.deliver),
        (twice.both_wait, site.attempts.may_fail.set),
        (lambda: site.attempts.failed >= 10, site.heal),
        (lambda: site.parts.trained == ["bob-0", "bob-1"], nothing),
    )
    assert len(twice.put_off) <= 2
    assert site.daemon._claims._put_off == set(), "nobody is remembered for ever"
    assert site.parts.applied_ids("bob") == ("bob-0", "bob-1")
    assert site.source.final == {SOUND: 2, SICK: 2}


def test_a_copy_of_an_erasure_in_a_held_partition_keeps_no_update_of_another_partition_from_being_stored() -> None:
    twice = Twice()
    site = twice.site

    def let_time_pass() -> None:
        site.parts.seconds += 1000

    site.run(
        (twice.is_unsaved, twice.deliver),
        (twice.both_wait, site.attempts.may_fail.set),
        (lambda: bool(twice.put_off) and site.attempts.failed >= 5, let_time_pass),
        (lambda: site.source.committed()[SOUND] == 2, nothing),
    )
    assert site.parts.trained == ["bob-0"]


def test_an_erasure_that_comes_after_a_copy_of_another_one_is_carried_out_though_the_partition_is_held() -> None:
    twice = Twice()
    site = twice.site
    new = Polled(records(value("bob-again", "bob", type="erase"), user="bob", first=2))
    site.run(
        (twice.is_unsaved, twice.deliver),
        (twice.both_wait, site.attempts.may_fail.set),
        (lambda: bool(twice.put_off) and site.attempts.failed >= 5, lambda: site.source.deliver(new)),
        (lambda: site.parts.store.states[twice.uid][0].applied[SOUND.partition.key] == 3, nothing),
    )
    assert site.parts.store.states[twice.uid][0].erased


def test_suspects_of_a_held_partition_do_not_keep_the_suspects_of_others_waiting() -> None:
    kept = {KEY: Attempts(tried_below=100, tries={0: 1}), SICK_KEY: Attempts(tried_below=100, tries={0: 1})}
    mixed = (*edits("ann-0"), *edits("bob-0", "cid-0", of=SICK))
    site = Site(Sick(SICK, kept=kept), Polled(mixed, begun=(SOUND, SICK)))
    trained_at: list[float] = []

    def trained() -> bool:
        if site.parts.trained and not trained_at:
            trained_at.append(site.parts.seconds)
        return bool(site.parts.trained) and site.attempts.failed >= 2

    site.run((trained, nothing))
    assert site.parts.trained == ["ann-0"]
    assert trained_at[0] < PATIENCE_SECONDS


def test_an_ended_tenure_is_saved_no_more_and_a_step_that_waited_for_it_goes_on_without_it() -> None:
    mixed = (*edits("ann-0"), *edits("bob-0", of=SICK))
    site = Site(Sick(SICK), Polled(mixed, begun=(SOUND, SICK)))
    failures: list[int] = []

    def end() -> None:
        site.source.deliver(Polled(ended=(SICK,)))

    def heal() -> None:
        failures.append(site.attempts.failed)
        site.heal()

    with capture_logs() as lines:
        site.run(
            (site.has_trained(["ann-0"]), end),
            (lambda: not site.daemon._journal.held and Stage.STATE not in site.daemon.waiting_for, heal),
            (lambda: True, nothing),
        )
    assert not [line for line in lines if line["event"] in ("works_again", "partition_resumed")]
    assert SICK_KEY not in site.attempts.kept, "it belongs to the next owner"
    assert site.source.paused_tenures == set()


def test_a_partition_that_comes_back_while_a_save_fails_is_held_until_one_works() -> None:
    again = tenure(1, 3)
    site = Site(Sick(SICK), Polled(edits("bob-0", of=SICK), begun=(SICK,)))
    back = Polled(ended=(SICK,), begun=(again,))
    site.run(
        (lambda: site.attempts.failed >= 2, lambda: site.source.deliver(back)),
        (
            lambda: not site.daemon._journal.loading and SICK not in site.source.positions(),
            lambda: site.source._script.append(Polled(edits("bob-0", of=again))),
        ),
        (lambda: site.attempts.failed >= 8, site.heal),
        (lambda: site.parts.trained == ["bob-0"], nothing),
    )
    assert site.parts.applied_ids("bob") == ("bob-0",)
    assert site.source.final == {again: 1}


def test_the_letter_of_a_crashed_event_is_sent_once_what_names_the_event_is_durable() -> None:
    attempts = Sick(SICK, kept={SICK_KEY: Attempts(tried_below=100, tries={0: MAX_CRASHES + 2})})
    site = Site(attempts, Polled(edits("bob-0", "bob-1", of=SICK), begun=(SICK,)))
    letters = site.parts.dead_letters.letters
    sent_early: list[int] = []

    def heal() -> None:
        sent_early.append(len(letters))
        site.heal()

    site.run((lambda: attempts.failed >= 3, heal), (lambda: site.parts.trained == ["bob-1"], nothing))
    assert sent_early == [0]
    assert [letter.error.reason.value for letter in letters] == ["crashed"]
    assert len(attempts.kept[SICK_KEY].crashed) == 1


@pytest.mark.parametrize("fails", [0, 1, 5])
def test_a_save_that_fails_for_a_while_costs_no_event_and_no_second_step(fails: int) -> None:
    site = Site(Sick(), Polled(edits("ann-0", "bob-0"), begun=(SOUND,)))
    site.attempts.faults = [RetriableError("disk full")] * fails
    source = site.run((lambda: sorted(site.parts.trained) == ["ann-0", "bob-0"], nothing))
    assert source.final == {SOUND: 2}


def test_who_asks_while_a_save_is_under_way_is_answered_by_the_next_one_or_at_the_end_of_the_tenure() -> None:
    attempts, answers = Sick(SICK), list[bool]()
    jobs = Jobs(0.01, lambda: 0.0, Observer())
    notes = PartitionNotes.of(SICK, Attempts(), ())
    with ThreadPoolExecutor(1) as pool:
        saves = AttemptSaves(attempts, jobs, pool)
        saves.begin(SICK.partition, notes)
        attempts.sick.clear()
        saves.save(SICK.partition)
        saves.save(SICK.partition, answers.append)
        jobs.handle_completions(wait_seconds=10)
        assert answers == [], "its content may be older than the question"
        jobs.handle_completions(wait_seconds=10)
        assert (answers, saves.under_way, attempts.saves) == ([True], False, 2)
        saves.save(SICK.partition)
        saves.save(SICK.partition, answers.append)
        saves.end(SICK.partition)
        assert answers == [True, False], "a step with others must not wait for it"
        jobs.handle_completions(wait_seconds=10)
    assert (attempts.saves, saves.under_way) == (3, False)


def test_a_save_that_fails_after_its_tenure_has_ended_holds_the_next_tenure_until_the_next_try() -> None:
    attempts, now = Sick(SICK), 0.0
    jobs = Jobs(0.01, lambda: now, Observer())
    with ThreadPoolExecutor(1) as pool:
        saves = AttemptSaves(attempts, jobs, pool)
        saves.begin(SICK.partition, PartitionNotes.of(SICK, Attempts(), ()))
        saves.save(SICK.partition)
        saves.end(SICK.partition)
        jobs.handle_completions(wait_seconds=10)
        saves.begin(SICK.partition, PartitionNotes.of(SICK, Attempts(), ()))
        assert saves.is_held(SICK.partition), "a step would wait for the pause between two tries"
        attempts.sick.clear()
        now = 1.0
        jobs.run_due_retries(now)
        jobs.handle_completions(wait_seconds=10)
    assert (saves.is_held(SICK.partition), attempts.saves) == (False, 1)
