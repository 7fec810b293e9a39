"""`corlld simulate tastes`: does the real model learn five made-up tastes in 200 edits each, and does it stay sound?

The units, in order:

1. The long run: five tastes are learnt with the default settings, in blocks of edits.
2. The cells: two of the tastes are learnt with other settings, one change at a time.
3. The tuning of the rule and of supervised fine-tuning, on two tastes and a seed that are not reported.
4. The two tastes of the cells are learnt with the tuned settings.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from corlld.errors import ExitCode, FatalError
from corlld.settings.sections import LearningSettings
from corlld.simulation.editors import WeakEditor
from corlld.simulation.personas import FIVE_TASTES, JONAS, MIRA, PAVEL, YUKI, Taste
from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.tastes.direct_loop import DirectLoop, Method, writers
from corlld.simulation.studies.tastes.pictures import plot_cells, plot_learning, plot_soundness
from corlld.simulation.studies.tastes.report import CELLS, FINE_TUNING, TUNED, UNREHEARSED, figures_of
from corlld.simulation.studies.tastes.series import DEFAULT
from corlld.simulation.studies.workshop import Workshop

VALIDATION_SEED = 1001
VALIDATION = (MIRA, JONAS)  # the defaults were chosen on these two: nothing is compared on them
COMPARED = (PAVEL, YUKI)
LEARNING_RATES = (5e-4, 1e-3, 2e-3)  # tried for both methods, so that their tuning budgets are equal
ALPHA = 1.0  # as in the demo


@dataclass(frozen=True, slots=True)
class Scale:
    """The amount of work. edits: per user in the long run; block, cell, tuning: per user in each of them.

    held_out: prompts per user.
    """

    edits: int
    block: int
    cell: int
    tuning: int
    held_out: int


FULL = Scale(edits=200, block=40, cell=80, tuning=24, held_out=12)
QUICK = Scale(edits=8, block=4, cell=8, tuning=4, held_out=2)


def corll(name: str, **changes: Any) -> Method:
    """Return the daemon's rule with some of its defaults changed."""
    return Method(name, LearningSettings.model_validate(changes))


def fine_tuning(lr: float, name: str = FINE_TUNING, **changes: float) -> Method:
    """Return supervised fine-tuning on the edited texts, with the same optimizer and rehearsal but for the changes."""
    return Method(
        name, LearningSettings.model_validate({"lr": lr, "acceptance_weight": 1.0} | changes), supervised=True
    )


class Tastes:
    """The study."""

    name = "tastes"
    question = "Does gemma3-270m learn five made-up tastes from 200 edits each, and does it stay sound?"
    budget_minutes = 60.0
    seeds: tuple[int, ...] = (1,)

    def units(self, options: Options) -> Sequence[Unit]:
        if VALIDATION_SEED in options.seeds:
            raise FatalError(
                f"--seeds: {VALIDATION_SEED} is the seed of the tuning, and can't be reported", ExitCode.USAGE
            )
        if options.scratch is None:
            raise ValueError("this study needs `scratch`")
        work = _Work(Workshop(options.model), QUICK if options.quick else FULL, options.scratch)
        tuning = [
            Unit(f"tuning {method.name} {method.learning.lr:g}", partial(work.tuning, method))
            for method in work.tuned_methods()
        ]
        seeds = options.seeds
        return [
            *(unit for seed in seeds for unit in (*_long_run(work, seed), *_changed(work, seed))),
            *tuning,
            *(unit for seed in seeds for unit in _tuned(work, seed)),
        ]

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


def _changed(work: "_Work", seed: int) -> list[Unit]:
    """Return the cells: the default with one change each."""
    return [
        Unit(f"seed {seed} {name}", partial(work.cell, seed, partial(corll, name, **changes)))
        for name, changes in CELLS.items()
    ]


def _tuned(work: "_Work", seed: int) -> list[Unit]:
    return [
        Unit(f"seed {seed} {TUNED}", partial(work.cell, seed, work.tuned_rule)),
        Unit(f"seed {seed} {FINE_TUNING}", partial(work.cell, seed, work.tuned_fine_tuning)),
        Unit(f"seed {seed} {FINE_TUNING}, {UNREHEARSED}", partial(work.cell, seed, work.unrehearsed_fine_tuning)),
    ]


class _Work:
    """The work of the units. `scratch` keeps the tuned figures, and the state of the long run after each block."""

    def __init__(self, workshop: Workshop, scale: Scale, scratch: Path) -> None:
        self._workshop = workshop
        self.scale = scale
        self._scratch = scratch

    def tuned_methods(self) -> list[Method]:
        rules = [corll(DEFAULT, lr=lr) for lr in LEARNING_RATES]
        return [*rules, *(fine_tuning(lr) for lr in LEARNING_RATES)]

    def tuning(self, method: Method) -> list[Row]:
        """Run the method on the validation tastes and seed, and keep the mean edit ratio of the later half."""
        loop = self._loop(method, VALIDATION, VALIDATION_SEED)
        rows = self._labelled(self._rounds(loop, self.scale.tuning), "tuning", method, VALIDATION_SEED)
        late = [float(row["edit_ratio"]) for row in rows if int(row["edits"]) > self.scale.tuning // 2]
        path = self._tuning(method.name, method.learning.lr)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sum(late) / len(late)))
        return rows

    def best_lr(self, name: str) -> float:
        """Return the learning rate with the lowest edit ratio in tuning; of equal rates the smaller."""
        try:
            return min(LEARNING_RATES, key=lambda lr: float(json.loads(self._tuning(name, lr).read_text())))
        except FileNotFoundError as error:
            raise FatalError(f"{error.filename} is missing: start again in another folder") from None

    def tuned_rule(self) -> Method | None:
        """Return the rule at its best learning rate; None if that is the default, which the long run has."""
        best = self.best_lr(DEFAULT)
        return None if best == LearningSettings().lr else corll(TUNED, lr=best)

    def tuned_fine_tuning(self) -> Method:
        return fine_tuning(self.best_lr(FINE_TUNING))

    def unrehearsed_fine_tuning(self) -> Method:
        return fine_tuning(self.best_lr(FINE_TUNING), f"{FINE_TUNING}, {UNREHEARSED}", rehearsal_weight=0.0)

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

    def cell(self, seed: int, get: Callable[[], Method | None]) -> list[Row]:
        method = get()
        if method is None:
            return []
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

    def _tuning(self, name: str, lr: float) -> Path:
        return self._scratch / f"tuned-{name}-{lr:g}.json"

    def _state(self, seed: int, edits: int) -> Path:
        return self._scratch / f"long-{seed}-{edits}.safetensors"


STUDY: Study = Tastes()
