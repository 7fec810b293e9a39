"""Records that can't be applied become dead letters, and hold the commit until they are acknowledged."""

import pytest

from corlld.durable import UserState
from corlld.errors import ExitCode, FatalError, InvalidReason, RetriableError, StateUnreadable
from corlld.records import Polled
from tests.support.daemon_parts import PSEUDONYMS, T0, Parts, begun, records, value
from tests.support.fakes import MemoryStore, ScriptedSource, tenure


def test_a_malformed_record_is_a_dead_letter_and_holds_the_commit_until_it_is_acknowledged() -> None:
    parts = Parts()
    parts.dead_letters.faults = [RetriableError("no leader")] * 3
    source = parts.run(begun(*records(b"{", value("b"))))
    assert [letter.error.reason for letter in parts.dead_letters.letters] == [InvalidReason.NOT_JSON]
    assert parts.dead_letters.letters[0].uid == PSEUDONYMS.uid("ann")
    assert source.final == {T0: 2}


def test_too_large_a_share_of_dead_letters_stops_the_daemon_if_the_input_ends() -> None:
    parts = Parts(dead_letters={"max_share": 0.2})
    with pytest.raises(FatalError, match=r"max_share = 20%") as stopped:
        parts.run(begun(*records(*([b"{"] * 100))))
    assert stopped.value.exit_code is ExitCode.DATA


def test_i1_a_loop_that_ends_in_the_middle_of_a_poll_commits_none_of_the_rest() -> None:
    other = tenure(1, 2)
    parts = Parts(dead_letters={"max_share": 0.5, "share_window": 10})
    bad, good = records(*([b"{"] * 12)), records(*(value(f"x{i}", "bob") for i in range(5)), of=other, user="bob")
    source = ScriptedSource([Polled((*bad, *good), begun=(T0, other))])
    with pytest.raises(FatalError):
        parts.daemon(source).run()
    assert source.final is not None
    assert source.final[other] == 0


def test_an_unreadable_state_sends_that_users_records_to_the_dead_letters_and_others_go_on() -> None:
    class Torn(MemoryStore):
        def load(self, uid: str) -> tuple[UserState | None, str]:
            if uid == PSEUDONYMS.uid("ann"):
                raise StateUnreadable("torn")
            return super().load(uid)

    parts = Parts()
    parts.store = Torn()
    bob = records(value("b", user="bob"), user="bob", first=3)
    source = parts.run(begun(*records(value("a"), value("c"), value("d")), *bob))
    assert [letter.error.reason for letter in parts.dead_letters.letters] == [InvalidReason.STATE_UNREADABLE] * 3
    assert parts.applied_ids("bob") == ("b",)
    assert source.final == {T0: 4}
