"""The state decides which arrivals are applied: each exactly once, in order."""

from dataclasses import replace
from typing import Any

import pytest

from corlld.durable import ModuleNames, UserState
from corlld.loop.transitions import REPAIR_HEADER, Selection, after_erasure, after_update, next_version, select
from corlld.records import Arrival, EraseEvent, PairOutcome, PairStatus, UpdateOutcome
from tests.support.event_ids import event_ids, hashes
from tests.support.fakes import NOON, Applied, arrival, edit_event, tenure

IDS = event_ids(10)
KEY = tenure().partition.key


def outcome(*event_ids: str, trained: bool = True) -> UpdateOutcome:
    pairs = tuple(PairOutcome(PairStatus.APPLIED) for _ in event_ids)
    return UpdateOutcome("u1", Applied(event_ids), trained=trained, pairs=pairs)


def test_arrivals_below_applied_are_covered_and_known_ids_are_duplicates() -> None:
    state = UserState("u1", applied={KEY: 5}, recent_event_ids=("seen",))
    covered, duplicate, fresh, again = (
        arrival(4, edit_event("new but below")),
        arrival(5, edit_event("seen")),
        arrival(6, edit_event("fresh")),
        arrival(7, edit_event("fresh")),
    )
    assert select(IDS, state, [covered, duplicate, fresh, again]) == Selection((covered,), (duplicate, again), (fresh,))


def sent_again(of: Arrival, repair: str) -> Arrival:
    return replace(of, record=replace(of.record, headers=((REPAIR_HEADER, repair.encode()),)))


def test_what_a_repair_sends_is_for_the_state_that_came_of_it() -> None:
    again = sent_again(arrival(9), "ab12")
    for repair in (None, "ab12", "ab12 cd34", "cd34 ab12"):
        assert select(IDS, UserState("u1", repair=repair), [again]).fresh == (again,)
    assert select(IDS, None, [again]).fresh == (again,), "a store that was lost is filled from the topic"
    for repair in ("", "cd34"):
        assert select(IDS, UserState("u1", repair=repair), [again]) == Selection(duplicates=(again,))


@pytest.mark.parametrize("header", [b"\xff", b"", None])
def test_a_header_of_any_bytes_names_no_repair_and_ends_nothing(header: Any) -> None:
    odd = arrival(9, EraseEvent("odd", "ann", NOON))
    odd = replace(odd, record=replace(odd.record, headers=((REPAIR_HEADER, header),)))
    restored = UserState("u1", repair="ab12")
    assert select(IDS, restored, [odd]).duplicates == (odd,)
    assert after_erasure(IDS, "u1", restored, [odd]).repair == ""


def test_an_erasure_ends_what_a_repair_sends_unless_the_repair_sends_the_erasure_too() -> None:
    restored = UserState("u1", repair="ab12")
    live = arrival(8, EraseEvent("live", "ann", NOON))
    again = sent_again(arrival(7, EraseEvent("again", "ann", NOON)), "ab12")
    after = {
        name: after_erasure(IDS, "u1", restored, erasures).repair
        for name, erasures in {"live": [live], "again": [again], "both": [live, again]}.items()
    }
    assert after == {"live": "", "again": "ab12", "both": ""}
    assert after_erasure(IDS, "u1", UserState("u1"), [live]).repair is None
    assert after_erasure(IDS, "u1", replace(restored, repair="cd34 ab12"), [again]).repair == "cd34 ab12"
    later = after_update(IDS, "u1", restored, select(IDS, restored, [arrival(1)]), outcome("e1"))
    assert next_version(later, None).repair == "ab12"


def test_a_kafka_tombstone_has_no_id_and_is_never_a_duplicate() -> None:
    tombstones = [arrival(0, EraseEvent("", "ann", None)), arrival(1, EraseEvent("", "ann", None))]
    assert select(IDS, None, tombstones).fresh == tuple(tombstones)
    assert after_erasure(IDS, "u1", None, tombstones).recent_event_ids == ()


def test_refilling_knows_what_is_selected_already() -> None:
    first = select(IDS, None, [arrival(0, edit_event("a"))])
    refilled = select(IDS, None, [arrival(1, edit_event("a")), arrival(2, edit_event("b"))], first)
    assert [a.record.offset for a in refilled.fresh] == [0, 2]
    assert [a.record.offset for a in refilled.duplicates] == [1]


def test_applied_is_kept_for_each_topic_id_and_partition() -> None:
    other = tenure(1)
    state = UserState("u1", applied={KEY: 5})
    assert select(IDS, state, [arrival(4, of=other)]).fresh
    after = after_update(IDS, "u1", state, select(IDS, state, [arrival(4, of=other)]), outcome("e4"))
    assert after.applied == {KEY: 5, other.partition.key: 5}


def test_updates_become_the_next_version_where_they_are_stored_and_its_release_is_frozen() -> None:
    one = after_update(IDS, "u1", None, select(IDS, None, [arrival(0)]), outcome("e0"))
    assert (one.version, one.release, one.statistics.updates) == (0, None, 1), "not stored yet"
    first = next_version(one, None)
    assert (first.version, first.release and first.release.parent) == (1, None)
    two = after_update(IDS, "u1", first, select(IDS, first, [arrival(1)]), outcome("e1"))
    three = after_update(IDS, "u1", two, select(IDS, two, [arrival(2)]), outcome("e2"))
    assert (three.version, three.release) == (1, first.release)
    second = next_version(three, None)
    assert second.version == 2
    assert second.release is not None
    assert (second.release.version, second.release.parent, second.release.applied) == (2, 1, {KEY: 3})
    assert second.release.statistics.updates == 3, "all that is in the version, also what was never stored between"
    accepted = select(IDS, second, [arrival(3, edit_event("e3", accepted=True))])
    later = after_update(IDS, "u1", second, accepted, outcome("e3", trained=False))
    assert (later.version, later.release) == (2, second.release), "what did not train does not touch the manifest"
    assert later.applied == {KEY: 4}


def test_a_release_keeps_the_names_of_modules_of_the_time_when_it_was_made() -> None:
    names = ModuleNames("model", "language_model.model")
    first = next_version(after_update(IDS, "u1", None, select(IDS, None, [arrival(0)]), outcome("e0")), None)
    two = after_update(IDS, "u1", first, select(IDS, first, [arrival(1)]), outcome("e1"))
    assert two.release is not None
    assert two.release.module_names is None, "not stored under a new version yet"
    second = next_version(two, names)
    assert second.release is not None
    assert second.release.module_names == names


def test_a_draft_by_the_version_that_is_still_to_be_stored_is_of_unknown_origin() -> None:
    state = next_version(UserState("u1"), None)
    after = after_update(IDS, "u1", state, select(IDS, state, [arrival(0, edit_event("a", version=1))]), outcome("a"))
    after = after_update(IDS, "u1", after, select(IDS, after, [arrival(1, edit_event("b", version=2))]), outcome("b"))
    assert {name: figures.events for name, figures in after.statistics.drafts.items()} == {"1": 1, "unknown": 1}


def test_duplicates_move_applied_so_that_a_replay_can_not_count_them_later() -> None:
    state = UserState("u1", version=3, applied={KEY: 1}, recent_event_ids=("a",))
    selection = select(IDS, state, [arrival(9, edit_event("a"))])
    after = after_update(IDS, "u1", state, selection, UpdateOutcome("u1", None, trained=False, pairs=()))
    assert (after.applied, after.version, after.statistics.events) == ({KEY: 10}, 3, 0)


def test_the_window_of_event_ids_is_bounded_and_keeps_the_newest() -> None:
    state = UserState("u1", recent_event_ids=("a", "b"))
    selection = select(IDS, state, [arrival(0, edit_event("c")), arrival(1, edit_event("d"))])
    assert after_update(event_ids(3), "u1", state, selection, outcome("c", "d")).recent_event_ids == ("b", "c", "d")


def test_an_erasure_leaves_applied_and_the_version_counter_alone() -> None:
    state = next_version(after_update(IDS, "u1", None, select(IDS, None, [arrival(0)]), outcome("e0")), None)
    assert state.statistics.first_drafts.events == 1
    tombstone = after_erasure(IDS, "u1", state, [arrival(1), arrival(2, EraseEvent("e2", "ann", NOON))])
    assert tombstone == UserState(
        "u1",
        version=1,
        applied={KEY: 3},
        erased=True,
        erased_through=1,
        recent_event_ids=("e2",),
        older_event_ids=hashes("e0", "e1"),
    )


def test_after_an_erasure_versions_go_on_without_a_parent() -> None:
    tombstone = UserState("u1", version=7, applied={KEY: 3}, erased=True, erased_through=7)
    after = next_version(after_update(IDS, "u1", tombstone, select(IDS, tombstone, [arrival(3)]), outcome("e3")), None)
    assert (after.version, after.erased, after.release and after.release.parent) == (8, False, None)
    assert after.erased_through == 7, "a late owner's versions of before are known as such for ever"
    assert after.release is not None


def test_an_erased_user_stays_erased_through_duplicates() -> None:
    tombstone = UserState("u1", version=7, applied={KEY: 3}, erased=True)
    nothing = UpdateOutcome("u1", None, trained=False, pairs=())
    assert after_update(IDS, "u1", tombstone, Selection(duplicates=(arrival(4),)), nothing).erased
