"""One user's torn state is one user's trouble; a store that nobody can read stops the daemon."""

from dataclasses import dataclass, field

import pytest

from corlld.errors import ExitCode, FatalError, InvalidReason, NewerFormat, RetriableError, StateUnreadable
from corlld.loop.store_breaker import RECENT_USERS, SAMPLE_USERS, StoreBreaker
from corlld.records import UserState
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, begun, records, value
from tests.support.fakes import MemoryStore, ScriptedSource


@dataclass
class DamagedStore(MemoryStore):
    """The states of the users `torn` can't be read."""

    torn: set[str] = field(default_factory=set)
    loads: list[str] = field(default_factory=list)

    def load(self, uid: str) -> tuple[UserState | None, str]:
        self.loads.append(uid)
        if uid in self.torn:
            raise StateUnreadable("torn")
        return super().load(uid)


def store_of(users: int, *, torn: int = 0) -> DamagedStore:
    uids = [f"{n:032x}" for n in range(users)]
    return DamagedStore({uid: (UserState(uid), 1) for uid in uids}, torn=set(uids[:torn]))


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
    with pytest.raises(FatalError, match=r"20 of 20 users"):
        run(parts, NAMES[:1])
    assert parts.dead_letters.letters == []


@pytest.mark.parametrize(("users", "torn"), [(1, 1), (2, 1), (40, 1), (40, 4)])
def test_a_few_users_whose_states_are_torn_are_set_aside_and_others_go_on(users: int, torn: int) -> None:
    names = NAMES[:users]
    parts = parts_of(names, names[:torn])
    source = run(parts, names)
    assert [letter.error.reason for letter in parts.dead_letters.letters] == [InvalidReason.STATE_UNREADABLE] * torn
    assert all(parts.applied_ids(name) == ("e",) for name in names[torn:])
    assert source.final == {T0: users}


def test_the_share_is_a_setting() -> None:
    run(parts_of(NAMES, NAMES, max_unreadable_share=1), NAMES)
    with pytest.raises(FatalError, match=r"of 20 users can't be read, more than state.max_unreadable_share = 5%"):
        run(parts_of(NAMES, NAMES[:4], max_unreadable_share=0.05), NAMES)


def test_a_state_in_a_newer_format_stops_the_daemon_and_is_never_a_dead_letter() -> None:
    parts = parts_of(NAMES, [])
    parts.store.load_faults = [NewerFormat("of a newer corlld")]
    source = ScriptedSource([begun(*records(value("e", NAMES[0]), user=NAMES[0]))])
    with pytest.raises(NewerFormat):
        parts.daemon(source).run()
    assert parts.dead_letters.letters == []
    assert source.final == {T0: 0}


def test_as_many_states_are_read_as_a_judgement_needs_and_none_twice() -> None:
    store = store_of(3 * SAMPLE_USERS, torn=1)
    breaker = StoreBreaker(store, 0.2)
    [torn] = store.torn
    for _ in range(3):
        with pytest.raises(StateUnreadable):
            breaker.load(torn)
    assert len(store.loads) == SAMPLE_USERS + 2, "the others once, and the torn state each time"
    store = store_of(3, torn=1)
    breaker = StoreBreaker(store, 0.2)
    for _ in range(3):
        with pytest.raises(StateUnreadable):
            breaker.load(*store.torn)
    assert len(store.loads) == 3 + 2


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
    first, second, third = (f"{n:032x}" for n in range(3))
    for uid in (first, second):
        with pytest.raises(StateUnreadable):
            breaker.load(uid)
    store.torn = {second}
    breaker.load(first)
    store.torn = {second, third}
    with pytest.raises(StateUnreadable):
        breaker.load(third)


def test_only_recent_users_are_judged_and_remembered() -> None:
    store = store_of(2 * RECENT_USERS)
    breaker = StoreBreaker(store, 0.2)
    uids = sorted(store.states)
    for uid in uids:
        breaker.load(uid)
    for uid in (recent := uids[RECENT_USERS:])[:20]:
        store.torn.add(uid)
        with pytest.raises(StateUnreadable):
            breaker.load(uid)
    store.torn.add(recent[20])
    with pytest.raises(FatalError, match=f"21 of {RECENT_USERS} users"):
        breaker.load(recent[20])


def test_nothing_is_judged_while_the_others_can_not_be_reached() -> None:
    store = store_of(3, torn=2)
    breaker = StoreBreaker(store, 0.2)
    store.load_faults = [RetriableError("away")]
    store.torn = {f"{0:032x}"}
    with pytest.raises(RetriableError):
        breaker.load(f"{0:032x}")
