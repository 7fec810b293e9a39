"""Progress of a command, shown to the person who waits for it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Advance:
    """Show progress: a bar on a terminal, else a plain line at each tenth."""

    def __init__(self, console: Console, total: int, what: str = "events") -> None:
        """Start at 0.

        Args:
            console: where progress is shown.
            total: the number of things to do.
            what: the things, in the plural.
        """
        self._console = console
        self._what = what
        self._total = total
        self._done = 0
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = _live(*columns, console=console)
        self._task = self._progress.add_task(what, total=total)

    def __call__(self, count: int) -> None:
        """Note that `count` more are done."""
        tenth = 10 * self._done // max(1, self._total)
        self._done += count
        self._progress.advance(self._task, count)
        if not self._console.is_terminal and 10 * self._done // max(1, self._total) > tenth:
            self._console.print(f"{self._done} of {self._total} {self._what}")

    def __enter__(self) -> "Advance":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()


@contextmanager
def shown(console: Console, doing: str) -> Iterator[None]:
    """Show what is done while the block runs: on a terminal with its time, until it is done; else a plain line.

    Args:
        console: where it is shown.
        doing: what is done, as `loading the model`.
    """
    doing = f"{doing} ..."
    if not console.is_terminal:
        console.print(doing, markup=False, soft_wrap=True)
        yield
        return
    columns = (TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with _live(*columns, console=console, transient=True) as progress:
        progress.add_task(doing, total=None)
        yield


def _live(*columns: ProgressColumn, console: Console, transient: bool = False) -> Progress:
    """Return a live display, which shows nothing unless the console is a terminal and not quiet.

    Meanwhile rich sends standard output to the console, which may be standard error. That keeps lines apart on a
    terminal. But in a file or a pipe standard output is a result: it stays where it is. And a quiet console would
    swallow it: nothing is sent there.
    """
    return Progress(
        *columns,
        console=console,
        transient=transient,
        disable=console.quiet or not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    )
