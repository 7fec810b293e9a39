"""The grammar reads every sentence, and any other words."""

from corlld.simulation.language.grammar import (
    EMPTY,
    SENTENCES,
    is_sentence,
    parse,
    words_in,
    words_of,
)


def test_every_sentence_is_read_as_what_it_is() -> None:
    assert len(SENTENCES) == 6 * 7 * 6 * 6 * 6  # three places may be empty, and a verb has one form for its noun
    for places in SENTENCES[::97]:
        parsed = parse(words_in(places))
        assert parsed.places == tuple(places)
        assert is_sentence(parsed)


def test_words_out_of_order_and_second_ones_are_misplaced() -> None:
    greeting, adjective = words_of(0)[0], words_of(1)[0]
    assert parse((adjective, greeting, adjective)).misplaced == 2
    assert parse((adjective, greeting)).places[0] == EMPTY[0]
    assert not is_sentence(parse((greeting, adjective)))  # neither noun nor verb
