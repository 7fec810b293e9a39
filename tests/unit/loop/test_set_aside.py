"""One user's trouble is one user's: that user is set aside, others go on; and what concerns all is nobody's alone."""

from collections.abc import Callable

import pytest

from corlld.durable import AdapterVersion, UserState
from corlld.errors import (
    ExitCode,
    FatalError,
    InvalidReason,
    LostSwap,
    PublicationFailed,
    RetriableError,
    StateUnreadable,
)
from corlld.loop.set_aside import RECENT_USERS, Call, UserTroubles
from corlld.records import LoopStatus, Polled
from corlld.settings.sections import StateSettings
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, begun, records, value
from tests.support.fakes import MemoryPublisher, MemoryStore, ScriptedSource

ANN, BOB = PSEUDONYMS.uid("ann"), PSEUDONYMS.uid("bob")


def edits(user: str, count: int, first: int) -> Polled:
    return Polled(records(*(value(f"{user}-{first + i}", user) for i in range(count)), user=user, first=first))


class Sick(MemoryStore):
    """Calls for `uid` fail. With `uid` None all calls fail."""

    def __init__(self, uid: str | None, *, loads: Exception | None = None, saves: Exception | None = None) -> None:
        super().__init__()
        self.uid, self.loads, self.saves = uid, loads, saves

    def load(self, uid: str) -> tuple[UserState | None, str]:
        if self.loads is not None and self.uid in (None, uid):
            raise self.loads
        return super().load(uid)

    def save(self, uid: str, state: UserState, token: str) -> str:
        if self.saves is not None and self.uid in (None, uid):
            raise self.saves
        return super().save(uid, state, token)


class SickPublisher(MemoryPublisher):
    """Publications for `uid` fail with `error`."""

    def __init__(self, uid: str, error: Exception) -> None:
        super().__init__()
        self.uid: str | None = uid
        self.error = error

    def publish(self, state: UserState) -> AdapterVersion | None:
        if state.uid == self.uid:
            raise self.error
        return super().publish(state)


def run_beside_bob(parts: Parts, *first: bytes) -> tuple[ScriptedSource, list[LoopStatus]]:
    """Run `first` of ann (three edits), with edits of bob coming in between, while time goes on in each idle turn."""
    now = 0.0
    seen: list[LoopStatus] = []
    parts.observer.turned = seen.append  # type: ignore[method-assign]
    parts.clock = lambda: now
    source = ScriptedSource([begun(*records(*(first or (value("a"), value("b"), value("c")))))])
    offset = len(first) or 3

    def idle() -> None:
        nonlocal now, offset
        now += 100.0
        if offset < 30:
            source.deliver(edits("bob", 1, offset))
            offset += 1

    for _ in range(3):
        source.deliver(lambda: (idle(), Polled())[1])
    source.idle = idle
    parts.daemon(source).run()
    return source, seen


@pytest.mark.parametrize(
    "error", [PublicationFailed("integrity alarm: the manifest differs"), RetriableError("Input/output error")]
)
def test_a_version_that_cannot_be_published_sets_its_user_aside_and_others_go_on(error: Exception) -> None:
    parts = Parts(state={"set_aside_after_seconds": 600})
    parts.publisher = SickPublisher(ANN, error)
    source, seen = run_beside_bob(parts)
    letters = parts.dead_letters.letters
    assert {letter.uid for letter in letters} == {ANN}
    assert {letter.error.reason for letter in letters} == {InvalidReason.PUBLICATION_FAILED}
    assert sorted(letter.record.offset for letter in letters) == [0, 1, 2]
    assert len(parts.applied_ids("bob")) == 27
    assert source.final == {T0: 30}
    assert seen[-1].users_aside == 1
    assert seen[-1].waiting_for == ()


@pytest.mark.parametrize("call", ["loads", "saves"])
def test_a_state_that_answers_with_an_error_for_ever_sets_its_user_aside_and_others_go_on(call: str) -> None:
    parts = Parts(state={"set_aside_after_seconds": 600})
    parts.store = Sick(ANN, **{call: RetriableError("Input/output error")})
    source, seen = run_beside_bob(parts)
    assert [(letter.uid, letter.error.reason) for letter in parts.dead_letters.letters] == [
        (ANN, InvalidReason.STATE_UNREADABLE)
    ] * 3
    assert [letter.record.offset for letter in parts.dead_letters.letters] == [0, 1, 2], "in order"
    assert ANN not in parts.store.states
    assert len(parts.applied_ids("bob")) == 27
    assert source.final == {T0: 30}
    assert seen[-1].waiting_for == ()


def test_a_user_who_is_set_aside_comes_back_when_the_trouble_is_over() -> None:
    parts = Parts()
    parts.publisher = SickPublisher(ANN, PublicationFailed("differs"))
    parts.run(begun(*records(value("a"))))
    assert parts.applied_ids() == ("a",), "the state was durable before"
    assert ANN not in parts.publisher.out
    parts.publisher.uid = None  # repaired
    seen: list[LoopStatus] = []
    parts.observer.turned = seen.append  # type: ignore[method-assign]
    parts.run(begun(*records(value("a"), value("b"), first=1)))
    assert parts.applied_ids() == ("a", "b"), "what is replayed is not learnt twice"
    assert parts.publisher.out[ANN] == [1, 2]
    assert seen[-1].users_aside == 0


def test_a_withdrawal_is_tried_until_it_works_and_nobody_is_set_aside_for_it() -> None:
    class Stubborn(MemoryPublisher):
        failures = 0

        def withdraw(self, state: UserState) -> None:
            if len(self.out.get(BOB, [])) < 10:
                self.failures += 1
                raise RetriableError("no disk")
            super().withdraw(state)

    parts = Parts(state={"set_aside_after_seconds": 600})
    parts.publisher = publisher = Stubborn()
    source, _ = run_beside_bob(parts, value("x", type="erase"))
    assert publisher.failures > 2
    assert parts.dead_letters.letters == []
    assert parts.state().erased
    assert source.final == {T0: 30}


# --- whose trouble it is ----------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def troubles(clock: Clock, after_seconds: float = 600, max_share: float = 0.2) -> UserTroubles:
    settings = StateSettings(set_aside_after_seconds=after_seconds, max_unreadable_share=max_share)
    return UserTroubles(settings, clock)


def fail(error: Exception) -> Callable[[], None]:
    def job() -> None:
        raise error

    return job


EIO = RetriableError("Input/output error")


def is_waited_for(known: UserTroubles, uid: str, call: Call = Call.LOAD) -> bool:
    """Return whether a call that fails for now is to be tried again."""
    try:
        known.call(call, uid, fail(EIO))
    except RetriableError:
        return True
    except (StateUnreadable, PublicationFailed):
        return False
    raise AssertionError


def test_a_store_that_is_away_for_everybody_sets_nobody_aside() -> None:
    clock = Clock()
    known = troubles(clock)
    for clock.now in (0.0, 500.0, 1000.0, 100_000.0):
        assert all(is_waited_for(known, uid) for uid in ("a", "b", "c"))
    assert known.aside == 0


def test_a_user_alone_in_trouble_is_waited_for_as_long_as_the_setting_says() -> None:
    clock = Clock()
    known = troubles(clock)
    known.call(Call.LOAD, "b", int)
    assert is_waited_for(known, "a")
    clock.now = 599
    known.call(Call.LOAD, "b", int)
    assert is_waited_for(known, "a")
    clock.now = 600
    assert not is_waited_for(known, "a")
    assert known.aside == 1
    assert not is_waited_for(known, "a"), "who is aside is not waited for again"
    known.call(Call.LOAD, "a", int)
    assert known.aside == 0
    assert is_waited_for(known, "a")


def test_others_must_have_succeeded_since_the_trouble_began_and_as_many_as_fail() -> None:
    clock = Clock()
    known = troubles(clock)
    known.call(Call.LOAD, "b", int)
    clock.now = 1.0
    assert is_waited_for(known, "a")
    assert is_waited_for(known, "c")
    clock.now = 1000.0
    assert is_waited_for(known, "a"), "the other one succeeded before"
    known.call(Call.LOAD, "b", int)
    assert is_waited_for(known, "a"), "two fail, one succeeded"
    known.call(Call.LOAD, "d", int)
    assert not is_waited_for(known, "a")


def test_a_full_disk_fails_writes_alone_and_sets_nobody_aside() -> None:
    clock = Clock()
    known = troubles(clock)
    for clock.now in (0.0, 1000.0):
        known.call(Call.LOAD, "b", int)
        known.call(Call.CATCH_UP, "b", int)
        assert is_waited_for(known, "a", Call.SAVE)
        assert is_waited_for(known, "a", Call.PUBLISH)


def test_a_lost_swap_is_no_trouble() -> None:
    clock = Clock()
    known = troubles(clock)
    assert is_waited_for(known, "a", Call.SAVE)
    with pytest.raises(LostSwap):
        known.call(Call.SAVE, "a", fail(LostSwap("newer")))
    clock.now = 1000.0
    known.call(Call.SAVE, "b", int)
    assert is_waited_for(known, "a", Call.SAVE)


def test_with_0_seconds_a_user_is_waited_for_for_ever() -> None:
    clock = Clock()
    known = troubles(clock, after_seconds=0)
    for clock.now in (0.0, 1e9):
        known.call(Call.LOAD, "b", int)
        assert is_waited_for(known, "a")


def test_versions_of_too_many_users_that_differ_stop_the_daemon() -> None:
    known = troubles(Clock())
    for uid in ("a", "b"):
        with pytest.raises(PublicationFailed):
            known.call(Call.CATCH_UP, uid, fail(PublicationFailed("differs")))
    with pytest.raises(FatalError, match="the versions of 3 of the last 3 users") as stopped:
        known.call(Call.CATCH_UP, "c", fail(PublicationFailed("differs")))
    assert stopped.value.exit_code is ExitCode.DATA


def test_a_few_users_among_many_never_stop_the_daemon_however_often_they_fail() -> None:
    known = troubles(Clock())
    for turn in range(50):
        for uid in range(RECENT_USERS):
            known.call(Call.PUBLISH, f"sound-{turn}-{uid}", int)
        for uid in range(10):
            with pytest.raises(PublicationFailed):
                known.call(Call.CATCH_UP, f"broken-{uid}", fail(PublicationFailed("differs")))
    assert known.aside == 10


def test_users_of_a_partition_that_went_may_be_sound_elsewhere_and_are_not_counted_any_more() -> None:
    known = troubles(Clock())
    with pytest.raises(PublicationFailed):
        known.call(Call.PUBLISH, "a", fail(PublicationFailed("differs")))
    known.forget()
    assert known.aside == 0
