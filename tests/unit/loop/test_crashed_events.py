"""An event that ended the process too often is recognised where it is delivered again, and ends it no more."""

from concurrent.futures import Future
from dataclasses import replace

import pytest

from corlld.durable import Attempts
from corlld.errors import RetriableError
from corlld.loop.intake import TRY_AGAIN_HEADER
from corlld.loop.partition_notes import MAX_CRASHED, PartitionNotes
from corlld.records import DeadLetter
from tests.support.crashing import KEY, MAX_CRASHES, Site, edits
from tests.support.daemon_parts import PSEUDONYMS, records, value
from tests.support.fakes import MemoryDeadLetters, tenure

GUILTY_HASH = PSEUDONYMS.event_id_hash(PSEUDONYMS.uid("bob"), "bob-1")
LIVES = MAX_CRASHES + 3


def test_a_guilty_event_that_is_delivered_twice_ends_no_more_lives_than_a_single_one() -> None:
    site = Site(edits("ann-0", "bob-0", "bob-1", "ann-1", "bob-2", "bob-1", "ann-2"), guilty=["bob-1"])
    assert site.lives_until_it_stands(20) == LIVES
    assert site.letters() == [(2, "crashed"), (5, "crashed")]
    assert site.parts.applied_ids("ann") == ("ann-0", "ann-1", "ann-2")
    assert site.parts.applied_ids("bob") == ("bob-0", "bob-2")


def test_history_that_is_delivered_later_brings_a_guilty_event_back_without_a_crash() -> None:
    site = Site(edits("ann-0", "bob-0", "bob-1"), guilty=["bob-1"])
    site.lives_until_it_stands(20)
    assert site.parts.attempts.kept[KEY].crashed == (GUILTY_HASH,)
    site.delivered = edits("ann-0", "bob-0", "bob-1", "bob-0", "bob-1", "ann-1")
    assert site.live()
    assert site.letters() == [(2, "crashed"), (4, "crashed")]
    assert site.parts.applied_ids("ann") == ("ann-0", "ann-1")


def test_a_group_that_was_set_back_meets_the_guilty_event_without_a_crash() -> None:
    site = Site(edits("bob-0", "bob-1"), guilty=["bob-1"])
    site.lives_until_it_stands(20)
    site.committed = 0
    assert site.live()
    assert site.letters() == [(1, "crashed")] * 2


def test_another_user_s_event_of_the_same_id_is_learnt() -> None:
    site = Site(records(value("bob-1", user="cid"), user="cid"))
    site.parts.attempts.kept[KEY] = Attempts(crashed=(GUILTY_HASH,))
    assert site.live()
    assert site.parts.applied_ids("cid") == ("bob-1",)


def test_an_erasure_is_never_set_aside_for_a_crash() -> None:
    site = Site(records(value("bob-1", user="bob", type="erase"), user="bob"))
    site.parts.attempts.kept[KEY] = Attempts(crashed=(GUILTY_HASH,))
    assert site.live()
    assert site.parts.store.states[PSEUDONYMS.uid("bob")][0].erased


def test_the_letter_is_sent_only_once_the_event_is_remembered_durably() -> None:
    class Looking(MemoryDeadLetters):
        def send(self, letter: DeadLetter) -> Future[None]:
            remembered.append(site.parts.attempts.kept[KEY].crashed)
            return super().send(letter)

    remembered: list[tuple[bytes, ...]] = []
    site = Site(edits("bob-0", "bob-1"))
    site.parts.attempts.kept[KEY] = Attempts(tried_below=100, tries={1: MAX_CRASHES + 2})
    site.parts.attempts.faults = [RetriableError("disk full")] * 3
    site.parts.dead_letters = Looking()
    assert site.live()
    assert remembered == [(GUILTY_HASH,)]


@pytest.mark.parametrize("repaired", [True, False])
def test_an_event_that_people_send_again_is_tried_again(repaired: bool) -> None:
    sent = replace(edits("bob-0", "bob-1")[1], headers=(("trace", b"t"), (TRY_AGAIN_HEADER, b"")))
    site = Site((sent,), guilty=[] if repaired else ["bob-1"])
    site.parts.attempts.kept[KEY] = Attempts(crashed=(GUILTY_HASH,))
    assert site.lives_until_it_stands(20) == (0 if repaired else LIVES)
    assert site.letters() == ([] if repaired else [(1, "crashed")])
    assert site.parts.attempts.kept[KEY].crashed == (() if repaired else (GUILTY_HASH,))


def test_what_is_remembered_is_bounded_and_the_oldest_is_forgotten_first() -> None:
    notes = PartitionNotes.of(tenure(), Attempts(), ended=())
    for number in range(MAX_CRASHED + 2):
        notes.remember_crashed(number.to_bytes(8))
    kept = notes.content().crashed
    assert len(kept) == MAX_CRASHED
    assert (kept[0], kept[-1]) == ((2).to_bytes(8), (MAX_CRASHED + 1).to_bytes(8))
