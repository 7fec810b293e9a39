"""States are stored and published whatever fails for now, and nothing is committed before."""

import errno
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from corlld.durable import StoreIdentity, UserState
from corlld.errors import FatalError, RetriableError, StateUnreadable
from corlld.state.store import LocalFolderStore
from tests.support.bad_disk import refuse
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, begun, records, value
from tests.support.fakes import ScriptedSource
from tests.support.states import released_state


def test_what_failed_and_then_ended_otherwise_is_not_waited_for() -> None:
    parts = Parts()
    parts.store.load_faults = [RetriableError("away"), StateUnreadable("torn"), StateUnreadable("torn")]
    source = ScriptedSource([begun(*records(value("a")))])
    daemon = parts.daemon(source)
    daemon.run()
    assert daemon.waiting_for == []
    parts = Parts()
    parts.store.faults = [RetriableError("time-out")]
    parts.store.faults_take_effect = True
    daemon = parts.daemon(ScriptedSource([begun(*records(value("a")))]))
    daemon.run()
    assert daemon.waiting_for == []


def test_i5_versions_go_on_from_what_is_out_where_a_state_was_restored() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"), value("b"), value("c"))))
    uid = PSEUDONYMS.uid("ann")
    assert parts.publisher.out[uid] == [1, 2]
    older = parts.store.states[uid][0]
    parts.run(begun(*records(value("d"), value("e"), first=3)))
    assert parts.publisher.out[uid] == [1, 2, 3]
    parts.store.states[uid] = (older, 9)  # the generation before, back in place
    parts.run(begun(*records(value("f"), first=5)))
    assert parts.publisher.out[uid] == [1, 2, 3, 4]
    release = parts.state().release
    assert release is not None
    assert (release.version, release.parent) == (4, 2)


def test_i5_versions_go_on_from_what_is_out_where_a_state_was_lost() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"), value("b"), value("c"))))
    uid = PSEUDONYMS.uid("ann")
    assert parts.publisher.out[uid] == [1, 2]
    del parts.store.states[uid]
    with capture_logs() as logs:
        parts.run(begun(*records(value("d"), first=3)))
    assert parts.publisher.out[uid] == [1, 2, 3]
    assert parts.applied_ids() == ("d",)
    release = parts.state().release
    assert release is not None
    assert (release.version, release.parent) == (3, None)
    [warning] = [line for line in logs if line["event"] == "state_older_than_versions"]
    assert (warning["uid"], warning["version"], warning["published"]) == (uid, 0, 2)


def test_what_is_older_than_the_versions_that_are_out_is_not_published_again() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"), value("b"))))
    uid = PSEUDONYMS.uid("ann")
    parts.publisher.out[uid] = [5, 6]  # those before were pruned; the state is an old backup
    parts.run(begun(*records(value("c"), first=2)))
    assert parts.publisher.out[uid] == [5, 6, 7]


def test_what_is_older_stays_unpublished_also_after_a_save_that_made_no_version() -> None:
    parts = Parts()
    parts.run(begun(*records(value("a"), value("b"))))
    uid = PSEUDONYMS.uid("ann")
    parts.publisher.out[uid] = [5, 6]
    accepted = value("c", edited="draft")
    parts.run(begun(*records(accepted, first=2)))  # makes no version, and numbers the state as high as those out
    assert parts.state().version == 6
    parts.run(begun(*records(value("d"), first=3)))
    assert parts.publisher.out[uid] == [5, 6, 7]


def test_a_user_who_is_new_begins_with_the_first_version() -> None:
    parts = Parts()
    with capture_logs() as logs:
        parts.run(begun(*records(value("a"))))
    assert parts.publisher.out == {PSEUDONYMS.uid("ann"): [1]}
    assert not any(line["event"] == "state_older_than_versions" for line in logs)


def test_a_store_that_fails_for_now_is_tried_again_and_nothing_is_committed_meanwhile() -> None:
    parts = Parts()
    parts.store.faults = [RetriableError("disk full")] * 3
    source = ScriptedSource([begun(*records(value("a")))])
    daemon = parts.daemon(source)
    seen: list[tuple[list[str], bool]] = []
    source.idle = lambda: seen.append((daemon.waiting_for, any(n > 0 for c in source.commits for n in c.values())))
    daemon.run()
    assert (["state"], False) in seen
    assert not any(committed for waits, committed in seen if waits)
    assert parts.applied_ids() == ("a",)
    assert daemon.waiting_for == []


def test_a_write_that_succeeded_although_it_reported_a_failure_is_not_applied_twice() -> None:
    parts = Parts()
    parts.store.faults = [RetriableError("time-out")]
    parts.store.faults_take_effect = True
    source = parts.run(begun(*records(value("a"), value("b"))))
    assert parts.applied_ids() == ("a", "b")
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1], "the load after the lost swap made it visible"
    assert source.final == {T0: 2}


def test_a_publication_that_fails_holds_the_commit_until_it_is_out() -> None:
    parts = Parts()
    parts.publisher.faults = [RetriableError("no space")] * 2
    source = parts.run(begun(*records(value("a"))))
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1]
    assert source.final == {T0: 1}


def test_a_kill_between_state_and_publication_is_made_good_when_the_user_is_loaded() -> None:
    parts = Parts()
    parts.publisher.faults = [FatalError("killed here")]
    with pytest.raises(FatalError):
        parts.run(begun(*records(value("a"))))
    assert (parts.applied_ids(), parts.publisher.out) == (("a",), {})
    parts.run(begun(*records(value("a"))))
    assert parts.publisher.out[PSEUDONYMS.uid("ann")] == [1]
    assert parts.applied_ids() == ("a",)


def test_publishing_can_be_off_while_learning_goes_on() -> None:
    parts = Parts(publishing={"enabled": False})
    parts.run(begun(*records(value("a"))))
    assert (parts.applied_ids(), parts.publisher.out) == (("a",), {})


def test_i8_versions_of_an_erased_user_are_withdrawn_though_a_damaged_file_can_not_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = PSEUDONYMS.uid("ann")
    store = LocalFolderStore(tmp_path)
    store.open(StoreIdentity("f", "c", "g", "m", "r", "a"), must_exist=False)
    token = store.save(uid, released_state(3, uid=uid, applied={}), "0")
    store.save(uid, released_state(4, uid=uid, applied={}), token)
    refuse(monkeypatch, [tmp_path / "users" / uid / f"{1:012d}.safetensors"], ["read_bytes", "unlink"], errno.EUCLEAN)
    loads, load = list[str](), store.load

    def counted(uid: str) -> tuple[UserState | None, str]:
        loads.append(uid)
        assert len(loads) < 10, "the tombstone can't be loaded"
        return load(uid)

    monkeypatch.setattr(store, "load", counted)
    parts = Parts()
    parts.store = store  # type: ignore[assignment]  # a real one
    parts.publisher.out[uid] = [3, 4]
    with capture_logs() as lines:
        source = parts.run(begun(*records(value("e", type="erase"))))
    assert uid not in parts.publisher.out
    assert source.final == {T0: 1}
    logged = [line["event"] for line in lines if line.get("uid") == uid]
    assert "erased_file_left" in logged
    assert "erased" not in logged, "not all of it is"
