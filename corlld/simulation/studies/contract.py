"""What a study is: units of work that can be done one by one, and a report on all their rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Row = dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Options:
    """What a run was asked for.

    seeds: of the reported runs; tuning uses others. quick: the same on a scale for tests. model: as `model.name`.
    edits: a file of events, where the study needs one. scratch: a folder for what a unit leaves for a later one, also
    for one of a run that goes on. Who needs it makes it; `run_study` names it, and removes it once there is a summary.
    """

    seeds: tuple[int, ...]
    quick: bool
    model: str
    edits: Path | None
    scratch: Path | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of the work, done as a whole or not at all, and never twice.

    key: unique in the study. run: what it found; the same key and options give the same rows.
    """

    key: str
    run: Callable[[], Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a report. low, high: its 95 % interval, where it has one. meaning: a sentence, with the unit."""

    value: float
    meaning: str
    low: float | None = None
    high: float | None = None


class Study(Protocol):
    """One question, answered by one command."""

    @property
    def name(self) -> str:
        """Of the command and of the folder of results."""

    @property
    def question(self) -> str:
        """A sentence."""

    @property
    def budget_minutes(self) -> float:
        """A whole run on two cores takes at most so long, the model being there."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those that are reported where none are asked for."""

    def units(self, options: Options) -> Sequence[Unit]:
        """All of the work, in order. A unit may lean on what an earlier one of the same run has left in memory, if it
        can make it again, or in `options.scratch`: a run that goes on does not do the earlier ones.

        Raises FatalError for options that the study can't use.
        """

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        """Figures by name, and pictures as PNG files in the folder. rows: of all units, each with its `unit`."""
