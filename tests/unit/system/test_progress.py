"""Progress: a live line on a terminal, plain lines elsewhere, and nothing of what the command prints gets lost."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from rich.console import Console

from corlld.system.progress import Advance, shown


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, no_color=True, color_system=None, width=80), stream


WAYS: dict[str, Callable[[Console], AbstractContextManager[object]]] = {
    "count": lambda shown_on: Advance(shown_on, 10),
    "step": lambda shown_on: shown(shown_on, "loading the model"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_printed_meanwhile_goes_to_standard_output(
    capsys: pytest.CaptureFixture[str], way: str, terminal: bool
) -> None:
    """Standard output may be a file while standard error is a terminal."""
    progress, stream = console(terminal=terminal)
    with WAYS[way](progress):
        print("a letter")
    assert capsys.readouterr().out == "a letter\n"
    assert "a letter" not in stream.getvalue()


@pytest.mark.parametrize("way", WAYS)
def test_a_quiet_console_swallows_nothing_of_what_a_command_prints(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `dead-letters show` has it on a terminal, if there are few letters."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    printed = Terminal()
    monkeypatch.setattr("sys.stdout", printed)
    with WAYS[way](Console(file=Terminal(), force_terminal=True, quiet=True)):
        print("a letter")
    assert printed.getvalue() == "a letter\n"


def test_a_step_is_a_line_at_its_beginning() -> None:
    progress, stream = console(terminal=False)
    with shown(progress, "loading [model]"):
        assert stream.getvalue() == "loading [model] ...\n"
    assert stream.getvalue() == "loading [model] ...\n"


def test_a_step_on_a_terminal_shows_its_time_and_goes_away() -> None:
    progress, stream = console(terminal=True)
    with shown(progress, "loading [model]"):
        assert "loading [model] ... 0:00:00" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")  # the line is erased
