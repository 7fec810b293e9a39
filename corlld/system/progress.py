"""How far a command has come, shown to whoever waits for it."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Advance:
    """A progress bar where a terminal is attached, else a plain line at each tenth."""

    def __init__(self, console: Console, total: int, what: str = "events") -> None:
        self._console = console
        self._what = what
        self._total = total
        self._done = 0
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(what, total=total)

    def __call__(self, count: int) -> None:
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
