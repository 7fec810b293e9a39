"""Options of every command stand before, between and after its positional arguments."""

import argparse
from collections.abc import Iterator

import pytest

from corlld.cli import COMMANDS, build_parser

VALUE = "1"  # a file, a user, a pseudonym's beginning, an offset, a number


def leaves(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yield the words of each command that runs, and options of it as they may be typed, as one text each."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for name, own in action.choices.items():
            yield from leaves(own, (*path, name))
    if not below:
        positionals = parser._get_positional_actions()
        excluded = [
            action
            for group in parser._mutually_exclusive_groups
            if set(positionals) & set(group._group_actions)
            for action in group._group_actions
        ]
        options = [
            " ".join((action.option_strings[0], *([] if action.nargs == 0 else [word(action)])))
            for action in parser._get_optional_actions()
            if action not in excluded and action.dest != "help"
        ]
        if positionals and options:
            yield (*path, *map(word, positionals)), [" ".join(path), *options]


def word(action: argparse.Action) -> str:
    return VALUE if action.choices is None else str(next(iter(action.choices)))


CASES = [(words, options[0], option) for words, options in leaves(build_parser(COMMANDS)) for option in options[1:]]


@pytest.mark.parametrize(("words", "path", "option"), CASES, ids=[f"{path} {option}" for _, path, option in CASES])
def test_an_option_may_stand_at_any_place(words: tuple[str, ...], path: str, option: str) -> None:
    first = len(path.split())
    lines = [[*words[:place], *option.split(), *words[place:]] for place in range(first, len(words) + 1)]
    parsed = [vars(build_parser(COMMANDS).parse_args(line)) for line in lines]
    assert all(each == parsed[0] for each in parsed)


def test_every_command_with_a_positional_is_tried() -> None:
    tried = {path for _, path, _ in CASES}
    assert {"uid", "send", "replay", "simulate", "explain", "dead-letters show"} <= tried
    assert {f"state {action}" for action in ("show", "verify", "repair", "export", "import")} <= tried


def test_an_option_that_names_the_user_still_excludes_the_word_that_does(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("folder --uid ab mira", "folder mira --uid ab", "--uid ab folder mira"):
        with pytest.raises(SystemExit):
            build_parser(COMMANDS).parse_args(["state", "export", *line.split()])
        assert "not allowed with" in capsys.readouterr().err
    assert build_parser(COMMANDS).parse_args(["state", "export", "folder", "--uid", "ab"]).user is None
