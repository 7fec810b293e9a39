"""`corlld simulate weak-edits`: is the rule ahead where edits put little right, or are wrong, on a real model?

Units, the most telling first:

1. The tuning: every rule with the same number of learning rates, by three writers on a seed that is not reported.
2. By seed, three writers on whom nothing was ever chosen, and the best learning rate of each rule. Every rule learns
   from honest edits that close half of the gap. The first rules also learn from weaker and from whole edits. The
   daemon's rule and fine-tuning also learn from noise of both kinds, and from edits of the words that matter most.
3. The daemon's rule and fine-tuning, both with the daemon's own learning rate.

A rule that learns from choices, or not at all, is run once: all honest conditions are the same to it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from corlld.errors import ExitCode, FatalError
from corlld.simulation.personas import INES, JONAS, LATER_TASTES, MIRA, Taste
from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.weak_edits.contestants import (
    FINE_TUNING,
    LEARNING_RATES,
    NOTHING,
    OF_EDITS,
    PAIR_DPO,
    Rule,
    seen,
)
from corlld.simulation.studies.weak_edits.feedback import Condition, Feedback
from corlld.simulation.studies.weak_edits.loop import Loop
from corlld.simulation.studies.weak_edits.pictures import plot_differences, plot_learning
from corlld.simulation.studies.weak_edits.report import Report, tuning_distance
from corlld.simulation.studies.workshop import Workshop

VALIDATION_SEED = 1001
FIRST_RULES = 3  # that learn from edits of every strength
TUNED_ON = (MIRA, JONAS, INES)
HALF = Condition(0.5)
STRENGTHS = (Condition(0.2), Condition(1.0))
OTHERS = (
    Condition(0.5, epsilon=0.2, harm="scaled"),
    Condition(0.5, epsilon=0.2, harm="unscaled"),
    Condition(0.5, anywhere=True),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """The amount of work.

    drafts: per writer. mark_every: drafts between two measurements on held-out prompts. tuning: drafts per writer in
    tuning. held_out: prompts per writer. strengths: conditions of the first rules. others: conditions of the rules that
    are shipped. tastes: of the new writers.
    """

    drafts: int
    mark_every: int
    tuning: int
    held_out: int
    strengths: tuple[Condition, ...]
    others: tuple[Condition, ...]
    tastes: tuple[Taste, ...]


FULL = Scale(60, mark_every=60, tuning=24, held_out=8, strengths=STRENGTHS, others=OTHERS, tastes=LATER_TASTES)
QUICK = Scale(8, 8, tuning=4, held_out=2, strengths=STRENGTHS[:1], others=OTHERS[:1], tastes=LATER_TASTES[:2])


@dataclass(frozen=True)
class WeakEdits:
    """The study.

    rules: those that learn from edits; the first is the daemon's. rates: learning rates that are tried for each rule.
    shipped: the daemon's rule and its peer: compared in all conditions, and at the daemon's own learning rate, since
    tuning has noise, and may give a rule a slow one. scale: of a whole run, and of a quick one.
    """

    name: str = "weak-edits"
    question: str = "Is CoRLL ahead of fine-tuning and pair-DPO where edits are weak or noisy, on a real model?"
    budget_minutes: float = 360.0
    seeds: tuple[int, ...] = (1, 2, 3)
    rules: tuple[Rule, ...] = OF_EDITS
    rates: tuple[float, ...] = LEARNING_RATES
    shipped: tuple[Rule, ...] = (OF_EDITS[0], FINE_TUNING)
    scale: tuple[Scale, Scale] = (FULL, QUICK)

    def units(self, options: Options) -> Sequence[Unit]:
        if VALIDATION_SEED in options.seeds:
            raise FatalError(f"--seeds: {VALIDATION_SEED} is the seed of the tuning: name others", ExitCode.USAGE)
        if options.scratch is None:
            raise ValueError("this study needs `scratch`")
        scale = self.scale[options.quick]
        work = _Work(Workshop(options.model), scale, self.rates, options.scratch)
        tuning = [
            Unit(f"tuning/{rule.name}/{lr:g}", partial(work.tuning, rule, lr))
            for rule in (*self.rules, PAIR_DPO)
            for lr in self.rates
        ]
        by_condition = (
            ((HALF,), (*self.rules, NOTHING, PAIR_DPO)),
            (scale.strengths, self.rules[:FIRST_RULES]),
            (scale.others, self.shipped),
        )
        return [
            *tuning,
            *(
                unit
                for seed in options.seeds
                for conditions, rules in by_condition
                for unit in _cells(work.tuned, "new", scale.tastes, conditions, rules, seed)
            ),
            *(
                unit
                for seed in options.seeds
                for unit in _cells(work.cell, "shipped", scale.tastes, (HALF,), self.shipped, seed)
            ),
        ]

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        """Return the figures of what was done, and draw `learning.png` and `differences.png` if there is enough."""
        report = Report(rows, self.rules)
        if curves := report.curves():
            plot_learning(folder / "learning.png", curves)
        if differences := report.differences():
            plot_differences(folder / "differences.png", differences)
        return report.figures()


def _cells(
    run: "_Run", part: str, tastes: Sequence[Taste], conditions: Sequence[Condition], rules: Sequence[Rule], seed: int
) -> list[Unit]:
    """Return a unit per condition and rule."""
    return [
        Unit(f"{part}/{seen(condition, rule)}/{rule.name}/{seed}", partial(run, part, tastes, condition, rule, seed))
        for condition in conditions
        for rule in rules
    ]


_Run = Callable[[str, Sequence[Taste], Condition, Rule, int], list[Row]]


@dataclass(frozen=True, slots=True)
class _Work:
    """The work of the units. rates: of the tuning. scratch: keeps the figures of the tuning."""

    workshop: Workshop
    scale: Scale
    rates: Sequence[float]
    scratch: Path

    def cell(self, part: str, tastes: Sequence[Taste], condition: Condition, rule: Rule, seed: int) -> list[Row]:
        loop = Loop(self.workshop, rule, Feedback(condition, seed), tastes, seed)
        rows = loop.mark(self.scale.held_out)
        while loop.drafts < self.scale.drafts:
            rows += loop.round()
            if loop.drafts % self.scale.mark_every == 0:
                rows += loop.mark(self.scale.held_out)
        return _labelled(rows, part, condition, rule, seed)

    def tuning(self, rule: Rule, lr: float) -> list[Row]:
        """Run one learning rate of a rule, and keep the mean distance of the drafts of the later half."""
        loop = Loop(self.workshop, rule.at(lr), Feedback(HALF, VALIDATION_SEED), TUNED_ON, VALIDATION_SEED)
        rows: list[Row] = []
        while loop.drafts < self.scale.tuning:
            rows += loop.round()
        path = self._path(rule, lr)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tuning_distance(rows)))
        return _labelled(rows, "tuning", HALF, rule.at(lr), VALIDATION_SEED)

    def tuned(self, part: str, tastes: Sequence[Taste], condition: Condition, rule: Rule, seed: int) -> list[Row]:
        """Run a cell with the rule's best learning rate."""
        return self.cell(part, tastes, condition, rule.at(self._best(rule)) if rule.learning else rule, seed)

    def _best(self, rule: Rule) -> float:
        """Return the learning rate with the smallest distance of drafts in tuning."""
        try:
            return min(self.rates, key=lambda lr: float(json.loads(self._path(rule, lr).read_text())))
        except FileNotFoundError as error:
            raise FatalError(f"{error.filename} is missing: start again in another folder") from None

    def _path(self, rule: Rule, lr: float) -> Path:
        return self.scratch / f"tuned, {rule.name}, {lr:g}.json"


def _labelled(rows: Sequence[Row], part: str, condition: Condition, rule: Rule, seed: int) -> list[Row]:
    label: Row = {"part": part, "condition": seen(condition, rule), "rule": rule.name, "seed": seed}
    if rule.learning is not None:
        label["lr"] = rule.learning.lr
    return [label | row for row in rows]


STUDY: Study = WeakEdits()
