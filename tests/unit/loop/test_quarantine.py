"""Suspects wait until nobody else is due and nothing is unsaved, but not for ever; then they are tried."""

from dataclasses import dataclass, field

from corlld.loop.attempts import Caution
from corlld.loop.batching import Batcher
from corlld.loop.quarantine import PATIENCE_SECONDS, Quarantine, Turn
from corlld.records import EraseEvent, Record
from corlld.settings.sections import BatchingSettings
from tests.support.fakes import NOON, arrival

OPEN = Turn()


@dataclass
class Cautions:
    """A journal that knows how each offset must be tried."""

    by_offset: dict[int, Caution] = field(default_factory=dict)

    @property
    def doubts(self) -> bool:
        return bool(self.by_offset)

    def caution(self, record: Record) -> Caution:
        return self.by_offset.get(record.offset, Caution.NONE)


class Ward:
    """A quarantine and its buffer."""

    def __init__(self, **by_uid: Caution) -> None:
        """Let an event of each user wait, to be tried with this caution."""
        settings = BatchingSettings(flush_after_seconds=0, max_users_per_step=2)
        self.batcher = Batcher(settings)
        self.journal = Cautions()
        self.quarantine = Quarantine(settings, self.journal, self.batcher)  # type: ignore[arg-type]  # has what it reads
        for offset, (uid, caution) in enumerate(by_uid.items()):
            if caution:
                self.journal.by_offset[offset] = caution
            waits = arrival(offset, uid=uid)
            self.batcher.add(waits)
            self.quarantine.expect(waits)

    def turn(self, now: float = 0.0, *, busy: bool = False, unsaved: bool = False) -> Turn:
        return self.quarantine.turn(now, busy=busy, unsaved=unsaved)


def test_nobody_is_kept_apart_if_nothing_was_tried() -> None:
    assert not Ward(ann=Caution.NONE).turn(busy=True, unsaved=True).suspects


def test_a_suspect_is_not_claimed_while_another_user_is_due_or_claimed() -> None:
    ward = Ward(ann=Caution.AFTER_OTHERS, bob=Caution.NONE)
    assert ward.turn() == Turn(suspects={"ann": Caution.AFTER_OTHERS})
    ward.batcher.take("bob", 1)
    assert not ward.turn(busy=True).closed
    assert ward.turn().users == ("ann",)


def test_under_steady_traffic_a_suspects_turn_comes_all_the_same() -> None:
    ward = Ward(ann=Caution.AFTER_OTHERS, bob=Caution.NONE)
    assert not ward.turn(0, busy=True).closed
    assert not ward.turn(PATIENCE_SECONDS - 1, busy=True).closed
    closed = Turn(closed=True, suspects={"ann": Caution.AFTER_OTHERS})
    assert ward.turn(PATIENCE_SECONDS, busy=True) == closed, "no new claims"
    assert ward.turn(PATIENCE_SECONDS + 1) == Turn(closed=True, users=("ann",))


def test_a_trial_begins_only_once_everything_is_saved_and_lasts_until_it_is_saved_itself() -> None:
    ward = Ward(ann=Caution.AFTER_OTHERS)
    assert ward.turn(unsaved=True) == Turn(closed=True, suspects={"ann": Caution.AFTER_OTHERS})
    assert ward.turn().users == ("ann",)
    ward.batcher.take("ann", 1)
    assert ward.turn(busy=True).closed
    assert ward.turn(unsaved=True).closed
    assert not ward.turn().closed


def test_before_a_trial_and_during_it_others_are_halted_only_every_other_while() -> None:
    def is_closed(turns: int) -> list[bool]:
        nonlocal now
        seen = []
        for _ in range(turns):
            seen.append(ward.turn(now, busy=True).closed)
            now += PATIENCE_SECONDS
        return seen

    now = 0.0
    ward = Ward(ann=Caution.EVENT_ALONE)
    assert is_closed(1) == [False], "patience first"
    assert is_closed(4) == [True, False, False, True]
    assert ward.turn(now).users == ("ann",)
    ward.batcher.take("ann", 1)
    assert ward.quarantine.max_events == 1
    now += PATIENCE_SECONDS
    assert is_closed(1) == [False]
    assert ward.quarantine.max_events == 8, "not for the others"


def test_a_suspect_who_could_not_be_loaded_for_long_is_not_trained_beside_the_others() -> None:
    ward = Ward(ann=Caution.USER_ALONE)
    assert ward.turn(0).users == ("ann",)
    assert ward.turn(1, busy=True) == Turn(closed=True), "the trial"
    assert ward.turn(PATIENCE_SECONDS, busy=True) == Turn(suspects={"ann": Caution.USER_ALONE})
    assert ward.turn(PATIENCE_SECONDS + 1).users == ("ann",), "anew"


def test_users_are_tried_alone_from_the_least_suspicious_on_and_events_alone_one_per_step() -> None:
    ward = Ward(
        ann=Caution.EVENT_ALONE,
        bob=Caution.USER_ALONE,
        cid=Caution.AFTER_OTHERS,
        dan=Caution.USER_ALONE,
        eve=Caution.AFTER_OTHERS,
    )
    tried = []
    while users := ward.turn().users:
        tried.append((users, ward.quarantine.max_events))
        for uid in users:
            ward.batcher.take(uid, 1)
    assert tried == [(("cid", "eve"), 8), (("bob",), 8), (("dan",), 8), (("ann",), 1)]
    assert ward.quarantine.max_events == 8


def test_a_suspect_whose_erasure_waits_is_none() -> None:
    ward = Ward(ann=Caution.USER_ALONE, bob=Caution.USER_ALONE)
    ward.batcher.add(arrival(9, EraseEvent("e", "bob", NOON), uid="bob"))
    assert list(ward.turn().suspects) == ["ann"]
