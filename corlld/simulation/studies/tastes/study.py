"""`corlld simulate tastes`: does the real model learn five made-up tastes in 200 edits each, and does it stay sound?

The units, in order:

1. The long run: five tastes are learnt with the default settings, in blocks of edits.
2. The cells: two of the tastes are learnt with other settings, one change at a time, and by fine-tuning.

Nothing is tuned here, and nothing is chosen: the study `weak-edits` compares rules at their best learning rates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from corlld.settings.sections import LearningSettings
from corlld.simulation.editors import WeakEditor
from corlld.simulation.personas import FIVE_TASTES, PAVEL, YUKI, Taste
from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.tastes.direct_loop import DirectLoop, Method, writers
from corlld.simulation.studies.tastes.pictures import plot_cells, plot_learning, plot_soundness
from corlld.simulation.studies.tastes.report import CELLS, figures_of
from corlld.simulation.studies.tastes.series import DEFAULT
from corlld.simulation.studies.workshop import Workshop

COMPARED = (PAVEL, YUKI)  # not Mira and Jonas: the first defaults were chosen on these two
ALPHA = 1.0  # as in the demo


@dataclass(frozen=True, slots=True)
class Scale:
    """The amount of work.

    edits: per user in the long run. block, cell: per user in each of them. held_out: prompts per user.
    """

    edits: int
    block: int
    cell: int
    held_out: int


FULL = Scale(edits=200, block=40, cell=80, held_out=12)
QUICK = Scale(edits=8, block=4, cell=8, held_out=2)


def corll(name: str, **changes: Any) -> Method:
    """Return the daemon's rule with some of its defaults changed."""
    return Method(name, LearningSettings.model_validate(changes))


def fine_tuning() -> Method:
    """Return supervised fine-tuning on the edited texts, with the same optimizer, learning rate and rehearsal."""
    return Method("fine-tuning", LearningSettings.model_validate({"acceptance_weight": 1.0}), supervised=True)


class Tastes:
    """The study."""

    name = "tastes"
    question = "Does gemma3-270m learn five made-up tastes from 200 edits each, and does it stay sound?"
    budget_minutes = 60.0
    seeds: tuple[int, ...] = (1,)

    def units(self, options: Options) -> Sequence[Unit]:
        if options.scratch is None:
            raise ValueError("this study needs `scratch`")
        work = _Work(Workshop(options.model), QUICK if options.quick else FULL, options.scratch)
        return [unit for seed in options.seeds for unit in (*_long_run(work, seed), *_cells(work, seed))]

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        figures = figures_of(rows)
        plot_learning(folder / "learning.png", rows)
        plot_soundness(folder / "soundness.png", rows)
        plot_cells(folder / "cells.png", rows)
        return figures


def _long_run(work: "_Work", seed: int) -> list[Unit]:
    """Return the default in blocks. The cells are compared with its first edits."""
    return [
        Unit(f"seed {seed} long {start + work.scale.block}", partial(work.block, seed, start))
        for start in range(0, work.scale.edits, work.scale.block)
    ]


def _cells(work: "_Work", seed: int) -> list[Unit]:
    """Return the default with one change each, and fine-tuning."""
    methods = [fine_tuning(), *(corll(name, **changes) for name, changes in CELLS.items())]
    return [Unit(f"seed {seed} {method.name}", partial(work.cell, seed, method)) for method in methods]


class _Work:
    """The work of the units. `scratch` keeps the state of the long run after each block."""

    def __init__(self, workshop: Workshop, scale: Scale, scratch: Path) -> None:
        self._workshop = workshop
        self.scale = scale
        self._scratch = scratch

    def block(self, seed: int, start: int) -> list[Row]:
        """Run one block of the long run, from the state that the block before has left."""
        method = corll(DEFAULT)
        loop = self._loop(method, FIVE_TASTES, seed)
        rows: list[Row] = []
        if start:
            loop.restore(self._state(seed, start))
        else:
            rows += loop.mark(self.scale.held_out)
        rows += self._rounds(loop, self.scale.block)
        rows += loop.mark(self.scale.held_out, exchanged=loop.edits == self.scale.edits)
        loop.save(self._state(seed, loop.edits))
        # The state from which this block went on stays: the block is repeated if it is cut off before it is noted.
        self._state(seed, start - self.scale.block).unlink(missing_ok=True)
        return self._labelled(rows, "long", method, seed)

    def cell(self, seed: int, method: Method) -> list[Row]:
        loop = self._loop(method, COMPARED, seed)
        rows = [*self._rounds(loop, self.scale.cell), *loop.mark(self.scale.held_out)]
        return self._labelled(rows, "cell", method, seed)

    def _loop(self, method: Method, tastes: Sequence[Taste], seed: int) -> DirectLoop:
        return DirectLoop(self._workshop, method, writers(tastes, FIVE_TASTES, seed), WeakEditor(ALPHA))

    def _rounds(self, loop: DirectLoop, edits: int) -> list[Row]:
        end = loop.edits + edits
        rows: list[Row] = []
        while loop.edits < end:
            rows += loop.round()
        return rows

    def _labelled(self, rows: Sequence[Row], part: str, method: Method, seed: int) -> list[Row]:
        label: Row = {"part": part, "method": method.name, "lr": method.learning.lr, "seed": seed}
        return [label | row for row in rows]

    def _state(self, seed: int, edits: int) -> Path:
        return self._scratch / f"long-{seed}-{edits}.safetensors"


STUDY: Study = Tastes()
