"""A number with its noun."""

from corlld.system.plurals import counted


def test_a_noun_takes_an_s_unless_there_is_exactly_one() -> None:
    assert [counted(number, "day") for number in (0, 1, 2, 1234)] == ["0 days", "1 day", "2 days", "1,234 days"]


def test_words_that_take_no_s_have_a_plural_of_their_own() -> None:
    assert [counted(number, "user is", "users are") for number in (1, 3)] == ["1 user is", "3 users are"]
