"""One user's torn state is one user's trouble; a store that nobody can read stops the daemon."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from corlld.durable import Head, UserState
from corlld.errors import ExitCode, FatalError, InvalidReason, NewerFormat, RetriableError, StateUnreadable
from corlld.loop.store_breaker import LOOK_AGAIN_SECONDS, LOOK_SECONDS, SAMPLE_USERS, StoreBreaker
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, begun, records, value
from tests.support.fakes import MemoryStore, ScriptedSource


@dataclass
class DamagedStore(MemoryStore):
    """States that can't be read: of the users `torn`, of `torn_tensors` behind a good header, and for now of `away`.

    reads: called with each user of whom anything is read.
    """

    torn: set[str] = field(default_factory=set)
    torn_tensors: set[str] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    heads: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    reads: Callable[[str], None] = lambda uid: None

    def head(self, uid: str) -> Head | None:
        self.heads.append(uid)
        self._read(uid)
        return super().head(uid)

    def load(self, uid: str) -> tuple[UserState | None, str]:
        self.loads.append(uid)
        self._read(uid)
        if uid in self.torn_tensors:
            raise StateUnreadable("torn behind its header")
        return super().load(uid)

    def _read(self, uid: str) -> None:
        self.reads(uid)
        if uid in self.torn:
            raise StateUnreadable("torn")
        if uid in self.away:
            raise RetriableError("away")


def uids_of(users: int) -> list[str]:
    return [f"{n:032x}" for n in range(users)]


def store_of(users: int, *, torn: int = 0) -> DamagedStore:
    uids = uids_of(users)
    return DamagedStore({uid: (UserState(uid), 1) for uid in uids}, torn=set(uids[:torn]))


def load_torn(breaker: StoreBreaker, *uids: str) -> None:
    for uid in uids:
        with pytest.raises(StateUnreadable):
            breaker.load(uid)


def parts_of(names: list[str], torn: list[str], **state: float) -> Parts:
    parts = Parts(state=state)
    uids = [PSEUDONYMS.uid(name) for name in names]
    parts.store = DamagedStore({uid: (UserState(uid), 1) for uid in uids}, torn={PSEUDONYMS.uid(name) for name in torn})
    return parts


def run(parts: Parts, names: list[str]) -> ScriptedSource:
    return parts.run(begun(*(records(value("e", name), user=name, first=n)[0] for n, name in enumerate(names))))


NAMES = [f"user-{n}" for n in range(40)]


@pytest.mark.parametrize("users", [2, 3, 40])
def test_a_store_that_nobody_can_read_stops_the_daemon_before_a_record_is_set_aside_or_committed(users: int) -> None:
    names = NAMES[:users]
    parts = parts_of(names, names)
    source = ScriptedSource([begun(*(records(value("e", u), user=u, first=n)[0] for n, u in enumerate(names)))])
    with pytest.raises(FatalError, match=r"max_unreadable_share = 20%: was the store damaged") as stopped:
        parts.daemon(source).run()
    assert stopped.value.exit_code is ExitCode.DATA
    assert parts.dead_letters.letters == []
    assert source.final == {T0: 0}


def test_others_are_looked_at_also_if_only_one_users_records_come() -> None:
    parts = parts_of(NAMES, NAMES)
    with pytest.raises(FatalError, match=r"40 of 40 users"):
        run(parts, NAMES[:1])
    assert parts.dead_letters.letters == []


@pytest.mark.parametrize(("users", "torn"), [(1, 1), (2, 1), (5, 2), (40, 1), (40, 4)])
def test_a_few_users_whose_states_are_torn_are_set_aside_and_others_go_on(users: int, torn: int) -> None:
    names = NAMES[:users]
    parts = parts_of(names, names[:torn])
    source = run(parts, names)
    assert [letter.error.reason for letter in parts.dead_letters.letters] == [InvalidReason.STATE_UNREADABLE] * torn
    assert all(parts.applied_ids(name) == ("e",) for name in names[torn:])
    assert source.final == {T0: users}


def test_the_share_is_a_setting() -> None:
    run(parts_of(NAMES, NAMES, max_unreadable_share=1), NAMES)
    with pytest.raises(FatalError, match=r"4 of 40 users can't be read, more than state.max_unreadable_share = 5%"):
        run(parts_of(NAMES, NAMES[:4], max_unreadable_share=0.05), NAMES)


def test_a_state_in_a_newer_format_stops_the_daemon_and_is_never_a_dead_letter() -> None:
    parts = parts_of(NAMES, [])
    parts.store.load_faults = [NewerFormat("of a newer corlld")]
    source = ScriptedSource([begun(*records(value("e", NAMES[0]), user=NAMES[0]))])
    with pytest.raises(NewerFormat):
        parts.daemon(source).run()
    assert parts.dead_letters.letters == []
    assert source.final == {T0: 0}


def test_a_state_that_a_repair_restores_while_the_store_is_looked_at_is_no_torn_one() -> None:
    store = store_of(5, torn=1)
    [uid] = store.torn

    def restore(_: str) -> None:
        if store.loads.count(uid) == 3:  # the second one was for the look
            store.torn.clear()

    store.reads = restore
    assert StoreBreaker(store, 0.5).load(uid) == (UserState(uid), "1")


def test_as_many_states_are_read_as_a_judgement_needs_and_none_twice() -> None:
    store = store_of(3 * SAMPLE_USERS, torn=1)
    [torn] = store.torn
    load_torn(StoreBreaker(store, 0.2), torn)
    assert store.heads == store.loads[1:-1] == uids_of(SAMPLE_USERS), "the user's own state first, then the sample"
    store = store_of(3, torn=1)
    breaker = StoreBreaker(store, 0.2)
    for _ in range(3):
        load_torn(breaker, *store.torn)
    assert (len(store.heads), len(store.loads)) == (3, 3 + 3 + 3), "the others once, the torn state twice"


def test_users_who_are_new_say_nothing_about_the_store() -> None:
    store = store_of(2, torn=2)
    breaker = StoreBreaker(store, 0.2)
    for n in range(100, 100 + SAMPLE_USERS):
        breaker.load(f"{n:032x}")
    with pytest.raises(FatalError, match="2 of 2 users"):
        breaker.load(f"{0:032x}")


def test_a_repaired_state_counts_as_readable_again() -> None:
    store = store_of(10, torn=2)
    breaker = StoreBreaker(store, 0.2)
    first, second, third, fourth = uids_of(4)
    load_torn(breaker, first, second)
    store.torn = {third, fourth}
    load_torn(breaker, third, fourth)


def test_a_few_torn_users_who_are_loaded_again_and_again_never_stop_the_daemon() -> None:
    """The others stay in host memory: of the users that are loaded, almost all are torn."""
    store = store_of(2000)
    uids = uids_of(2000)
    torn = uids[::95]
    store.torn = set(torn)
    breaker = StoreBreaker(store, 0.2)
    assert len(torn) == 22
    for uid in uids[1:2000:20]:
        if uid not in store.torn:
            breaker.load(uid)
        load_torn(breaker, *torn)


def test_a_store_that_breaks_later_stops_the_daemon_at_the_third_user_or_after_a_while() -> None:
    now = 0.0
    uids = uids_of(10)
    store = store_of(10, torn=1)
    breaker = StoreBreaker(store, 0.2, clock=lambda: now)
    load_torn(breaker, uids[0])
    store.torn = set(uids)
    load_torn(breaker, uids[0], uids[8], uids[9], uids[8])
    with pytest.raises(FatalError, match="10 of 10 users"):
        breaker.load(uids[7])

    store = store_of(10, torn=1)
    breaker = StoreBreaker(store, 0.2, clock=lambda: now)
    load_torn(breaker, uids[0])
    store.torn = set(uids)
    now = LOOK_AGAIN_SECONDS
    with pytest.raises(FatalError, match="10 of 10 users"):
        breaker.load(uids[0])


def test_states_that_are_torn_behind_their_headers_stop_the_daemon_too() -> None:
    store = store_of(10)
    store.torn_tensors = set(uids_of(3))
    with pytest.raises(FatalError, match="3 of 10 users"):
        StoreBreaker(store, 0.2).load(f"{0:032x}")


def test_a_look_at_slow_states_ends_in_time_and_is_judged() -> None:
    now = 0.0

    def read(uid: str) -> None:
        nonlocal now
        now += LOOK_SECONDS / 4

    store = store_of(SAMPLE_USERS)
    store.torn_tensors = set(uids_of(3))
    store.reads = read
    with pytest.raises(FatalError, match="3 of 4 users"):
        StoreBreaker(store, 0.2, clock=lambda: now).load(f"{0:032x}")
    assert len(store.heads) == 4


def test_a_state_that_can_be_read_does_not_wait_for_a_look_at_others() -> None:
    store = store_of(3, torn=1)
    first, second, third = uids_of(3)
    breaker = StoreBreaker(store, 0.2)
    looking, go_on = threading.Event(), threading.Event()

    def read(uid: str) -> None:
        if uid == second:
            looking.set()
            assert go_on.wait(30)

    store.reads = read
    with ThreadPoolExecutor(2) as pool:
        look = pool.submit(breaker.load, first)
        assert looking.wait(30)
        try:
            assert pool.submit(breaker.load, third).result(30) == (UserState(third), "1")
            assert not look.done()
        finally:
            go_on.set()
        assert isinstance(look.exception(30), StateUnreadable)


def test_nothing_is_judged_while_most_others_can_not_be_reached() -> None:
    store = store_of(3, torn=1)
    store.away = set(uids_of(3)[1:])
    breaker = StoreBreaker(store, 0.2)
    for _ in range(2):
        with pytest.raises(RetriableError, match="most states can't be reached"):
            breaker.load(*store.torn)
    store.away = set()
    load_torn(breaker, *store.torn)


def test_another_user_who_can_not_be_reached_does_not_keep_a_torn_one_from_being_set_aside() -> None:
    store = store_of(50, torn=1)
    store.away = {uids_of(50)[-1]}
    load_torn(StoreBreaker(store, 0.2), *store.torn)
    store = store_of(2, torn=1)
    store.away = {uids_of(2)[-1]}
    load_torn(StoreBreaker(store, 0.2), *store.torn)
