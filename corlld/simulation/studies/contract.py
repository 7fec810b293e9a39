"""The contract of a study: units of work that can be done one by one, and a report on all their rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Row = dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run.

    seeds: of the reported runs; tuning uses others. quick: do the same on a scale for tests. model: as `model.name`.
    edits: a file of events, for a study that needs one. scratch: a folder for results that a unit leaves for a later
    unit, which may run after a restart. A unit that needs the folder makes it; `run_study` names it, and removes it
    once there is a summary.
    """

    seeds: tuple[int, ...]
    quick: bool
    model: str
    edits: Path | None
    scratch: Path | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of the work. It is done as a whole or not at all, and never twice.

    key: unique in the study. run: does the work and returns its rows; the same key and options give the same rows.
    """

    key: str
    run: Callable[[], Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a report. low, high: its 95 % interval; None without one. meaning: a sentence, with the unit."""

    value: float
    meaning: str
    low: float | None = None
    high: float | None = None


class Study(Protocol):
    """One question, answered by one command."""

    @property
    def name(self) -> str:
        """Name on the command line and of the folder of results."""

    @property
    def question(self) -> str:
        """The question in a sentence."""

    @property
    def budget_minutes(self) -> float:
        """Minutes that a whole run may take on two cores, without the download of the model."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds to report if the options name none."""

    def units(self, options: Options) -> Sequence[Unit]:
        """Return all of the work, in order.

        A run that goes on after a cut does not repeat its earlier units. So a unit may use what an earlier unit has
        left in memory only if it can make that again; what is left in `options.scratch` stays.

        Raises FatalError for options that the study can't use.
        """

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        """Return figures by name, and write pictures as PNG files. rows: of all units, each with its `unit`."""
