"""Progress of a command, shown to the person who waits for it."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


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
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
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
