"""Who is announced next, and which notes of the outbox are still needed."""

from collections.abc import Mapping

import pytest

from corlld.durable import OutboxNote
from corlld.publishing.backlog import Backlog


@pytest.fixture
def backlog() -> Backlog:
    return Backlog()


def asks(backlog: Backlog) -> Mapping[str, int]:
    return dict(backlog.unnoted)


def announce(backlog: Backlog, uid: str) -> None:
    assert backlog.take() == uid
    backlog.settle(uid, announced=True)


def test_users_have_their_turns_in_the_order_of_their_first_ask(backlog: Backlog) -> None:
    for uid in ("a", "b", "a"):
        backlog.ask(uid, 1.0)
    assert [backlog.take(), backlog.take(), backlog.take()] == ["a", "b", None]


def test_a_user_counts_until_it_is_announced(backlog: Backlog) -> None:
    backlog.ask("a", 1.0)
    backlog.take()
    assert (backlog.users, backlog.oldest_since) == (1, 1.0)
    backlog.settle("a", announced=True)
    assert (backlog.users, backlog.oldest_since) == (0, None)


def test_a_user_who_is_asked_for_while_it_is_announced_has_another_turn(backlog: Backlog) -> None:
    backlog.ask("a", 1.0)
    backlog.take()
    backlog.ask("a", 2.0)
    backlog.settle("a", announced=True)
    assert (backlog.users, backlog.take()) == (1, "a")


def test_a_note_is_needed_for_users_who_are_not_announced_and_only_once(backlog: Backlog) -> None:
    backlog.ask("a", 1.0)
    backlog.ask("b", 2.0)
    announce(backlog, "a")
    assert set(asks(backlog)) == {"b"}
    backlog.noted("note", asks(backlog))
    assert asks(backlog) == {}


def test_a_note_is_done_once_all_its_users_are_announced(backlog: Backlog) -> None:
    for uid in ("a", "b"):
        backlog.ask(uid, 1.0)
    backlog.noted("note", asks(backlog))
    announce(backlog, "a")
    assert backlog.done == []
    announce(backlog, "b")
    assert backlog.done == ["note"]


def test_a_note_whose_users_were_announced_while_it_was_written_is_done_at_once(backlog: Backlog) -> None:
    backlog.ask("a", 1.0)
    written_for = asks(backlog)
    announce(backlog, "a")
    backlog.noted("note", written_for)
    assert backlog.done == ["note"]


def test_a_user_who_is_asked_for_again_needs_another_note(backlog: Backlog) -> None:
    backlog.ask("a", 1.0)
    backlog.noted("first", asks(backlog))
    backlog.ask("a", 2.0)  # another daemon may have announced the version before, and remove the first note now
    assert set(asks(backlog)) == {"a"}
    backlog.noted("second", asks(backlog))
    announce(backlog, "a")
    assert sorted(backlog.done) == ["first", "second"]


def test_an_ask_while_a_note_is_written_is_not_covered_by_it(backlog: Backlog) -> None:
    backlog.ask("a", 1.0)
    written_for = asks(backlog)
    backlog.ask("a", 2.0)
    backlog.noted("note", written_for)
    assert set(asks(backlog)) == {"a"}


def test_users_of_other_lives_come_after_those_of_this_one(backlog: Backlog) -> None:
    backlog.adopt("note", OutboxNote(0.5, ("x", "y")))
    backlog.ask("a", 1.0)
    backlog.ask("y", 1.0)
    assert [backlog.take() for _ in range(4)] == ["a", "y", "x", None]


def test_adopted_users_keep_the_time_since_which_they_wait_and_need_no_note(backlog: Backlog) -> None:
    backlog.ask("a", 5.0)
    backlog.adopt("note", OutboxNote(0.5, ("x", "a")))
    assert (backlog.users, backlog.oldest_since) == (2, 0.5)
    assert set(asks(backlog)) == {"a"}
    for uid in ("a", "x"):
        announce(backlog, uid)
    assert backlog.done == ["note"]


def test_an_adopted_note_without_users_is_done(backlog: Backlog) -> None:
    backlog.adopt("note", OutboxNote(0.5, ()))
    assert backlog.done == ["note"]
    assert backlog.knows("note")


def test_a_note_that_another_daemon_removed_is_forgotten_with_its_users_unless_they_are_asked_for(
    backlog: Backlog,
) -> None:
    backlog.adopt("gone", OutboxNote(0.5, ("x", "y", "a")))
    backlog.adopt("there", OutboxNote(0.5, ("y",)))
    backlog.ask("a", 1.0)
    backlog.forget_others({"there"})
    assert [backlog.take() for _ in range(3)] == ["a", "y", None]
    assert backlog.users == 2
    assert not backlog.knows("gone")
    for uid in ("a", "y"):
        backlog.settle(uid, announced=True)
    assert backlog.done == ["there"]


def test_a_note_of_this_life_is_not_forgotten_where_another_daemon_removes_it(backlog: Backlog) -> None:
    backlog.ask("a", 1.0)
    backlog.noted("own", asks(backlog))
    backlog.forget_others(())
    announce(backlog, "a")
    assert backlog.done == ["own"]


def test_a_user_whose_turn_brought_nothing_has_another_one_with_the_next_look(backlog: Backlog) -> None:
    backlog.ask("a", 1.0)
    backlog.adopt("note", OutboxNote(0.5, ("x",)))
    assert [backlog.take(), backlog.take(), backlog.take()] == ["a", "x", None]
    backlog.try_all_again()
    assert [backlog.take(), backlog.take(), backlog.take()] == ["a", "x", None]


def test_a_note_of_others_stays_where_its_version_is_not_at_hand_until_a_newer_one_is_announced_here(
    backlog: Backlog,
) -> None:
    backlog.adopt("theirs", OutboxNote(0.5, ("x",)))
    assert backlog.take() == "x"
    backlog.settle("x", announced=False)
    assert (backlog.users, backlog.done) == (0, [])
    assert backlog.knows("theirs")
    backlog.try_all_again()
    assert backlog.take() is None
    backlog.ask("x", 1.0)
    backlog.noted("own", asks(backlog))
    assert backlog.take() == "x"
    backlog.settle("x", announced=False)  # theirs is newer again
    assert backlog.done == ["own"]
    backlog.ask("x", 2.0)
    announce(backlog, "x")
    assert backlog.done == ["own", "theirs"]


def test_a_note_that_was_left_to_another_daemon_is_forgotten_when_that_one_removes_it(backlog: Backlog) -> None:
    backlog.adopt("theirs", OutboxNote(0.5, ("x",)))
    assert backlog.take() == "x"
    backlog.settle("x", announced=False)
    backlog.forget_others(())
    assert not backlog.knows("theirs")
