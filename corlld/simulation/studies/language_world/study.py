"""`corlld simulate language-world`: does it learn from weak and noisy edits, and better than from other answers?

The users' wishes are known, see `corlld.simulation.language`. Every method gets the same number of answers from each
user, and tries the same number of settings on validation seeds. The settings with the lowest regret there are reported
on other seeds. Then the grid changes one of the daemon's defaults at a time; each cell is judged on the validation
seeds and confirmed on the others. Nothing is rehearsed: passages are English, of which this world has no word.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corlld.errors import ExitCode, FatalError
from corlld.settings.sections import GuardSettings
from corlld.simulation.language.online import Scenario
from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.language_world.lab import Lab, Scale, outline
from corlld.simulation.studies.language_world.methods import (
    CHANGED,
    COMPARED,
    CORLL,
    NOTHING,
    SFT,
    TAILS,
    Method,
    described,
    settings,
)
from corlld.simulation.studies.language_world.pictures import plot_differences, plot_regret
from corlld.simulation.studies.language_world.report import ARCHIVED, language_figures

SCALED = Scenario("scaled", alpha=0.3, harm_rate=0.2, harm="scaled")
UNSCALED = Scenario("unscaled", alpha=0.3, harm_rate=0.2, harm="unscaled")
HONEST = Scenario("honest", alpha=0.3, harm_rate=0.0, harm="scaled")
WEAKER = Scenario("alpha 0.1", alpha=0.1, harm_rate=0.2, harm="scaled")
STRONGER = Scenario("alpha 1", alpha=1.0, harm_rate=0.2, harm="scaled")
ARCHIVE = Scenario(ARCHIVED, alpha=0.3, harm_rate=0.2, harm="scaled", of_base=True)
SCENARIOS = (SCALED, UNSCALED, ARCHIVE, HONEST, WEAKER, STRONGER)
TUNED_ON = (SCALED, UNSCALED, ARCHIVE)  # each has its own settings; the other scenarios take those of the first

FULL = Scale(pretraining=500, rounds=30, validation=tuple(range(101, 107)))
QUICK = Scale(pretraining=200, rounds=12, validation=(101,), judged=2)
CONFIRMING_SEEDS = 6  # of the reported seeds, for the cells of the grid

DEFAULTS = "defaults"
GRID_LR = 2e-3  # of the tried rates the best here with the daemon's other defaults
GRID: Mapping[str, Mapping[str, Any]] = {
    DEFAULTS: {},
    **{f"lr {lr:g}": {"lr": lr} for lr in (1e-3, 4e-3)},
    **{f"beta {beta:g}": {"beta": beta} for beta in (0.01, 0.03, 0.3)},
    **{f"epsilon {epsilon:g}": {"epsilon": epsilon} for epsilon in (0.05, 0.2)},
    **{f"anchor {anchor:g}": {"anchor": anchor} for anchor in (0.01, 0.03, 0.1)},
    **{f"acceptance_weight {weight:g}": {"acceptance_weight": weight} for weight in (0.0, 0.3)},
    **{f"beta1 {beta1:g}": {"beta1": beta1} for beta1 in (0.0, 0.5)},
    **{f"max_drift_nats {drift:g}": {"max_drift_nats": drift} for drift in (0.3, 0.1)},
    "steps_per_batch 2": {"steps_per_batch": 2},
    "reference previous": {"reference": "previous"},
    "margin tail": {"margin": "tail"},
    **{f"imitation_weight {weight:g}": {"imitation_weight": weight} for weight in (0.0, 0.03, 0.3)},
}
QUICK_GRID = (DEFAULTS, "beta 0.03")
_OF_THE_GUARD = "max_drift_nats"

_QUICK_METHODS = (CORLL, TAILS, SFT)
_QUICK_TRIED = slice(7, 9)  # settings of each method, with the highest lr


@dataclass(frozen=True)
class _Work:
    """Makes the units of one run."""

    lab: Lab
    seeds: tuple[int, ...]
    quick: bool

    def units(self) -> list[Unit]:
        methods: tuple[Method, ...] = COMPARED
        if self.quick:
            methods = tuple(replace(m, tried=m.tried[_QUICK_TRIED]) for m in _QUICK_METHODS)
        tuning = [
            Unit(f"tuning {method.name} {number}", self._tuning(method, number))
            for method in methods
            for number in range(len(method.tried))
        ]
        reported = [Unit(f"reported {method.name}", self._reported(method)) for method in (NOTHING, *methods)]
        grid = [Unit(f"grid {cell}", self._cell(cell)) for cell in (QUICK_GRID if self.quick else GRID)]
        return tuning + reported + grid

    def _tuning(self, method: Method, number: int) -> Callable[[], list[Row]]:
        def run() -> list[Row]:
            learning = method.tried[number]
            head: Row = {"part": "tuning", "method": method.name, **described(method, learning)}
            return [head | row for row in self.lab.tuning(method, learning, self._tuned_on)]

        return run

    def _reported(self, method: Method) -> Callable[[], list[Row]]:
        def run() -> list[Row]:
            tuned_on = self._tuned_on
            chosen = {judged: self.lab.chosen(method, tuned_on, judged) for judged in tuned_on}
            rows = []
            for learning in dict.fromkeys(chosen.values()):
                scenarios = [s for s in self._scenarios(method) if chosen.get(s, chosen[tuned_on[0]]) == learning]
                users = [(scenario, seed) for scenario in scenarios for seed in self.seeds]
                head: Row = {"part": "reported", "method": method.name, **described(method, learning)}
                rows += [head | row for row in self.lab.details(self.lab.run(method, learning, users))]
            return rows

        return run

    def _scenarios(self, method: Method) -> Sequence[Scenario]:
        return self._tuned_on if self.quick or method is CHANGED else SCENARIOS

    @property
    def _tuned_on(self) -> tuple[Scenario, ...]:
        return (HONEST,) if self.quick else TUNED_ON

    def _cell(self, cell: str) -> Callable[[], list[Row]]:
        def run() -> list[Row]:
            changed = dict(GRID[cell])
            guard = GuardSettings(**{_OF_THE_GUARD: changed.pop(_OF_THE_GUARD)} if _OF_THE_GUARD in changed else {})
            learning = settings(**{"lr": GRID_LR} | changed)
            seeds = self.lab.scale.validation + self.seeds[:CONFIRMING_SEEDS]
            users = [(scenario, seed) for scenario in self._tuned_on for seed in seeds]
            head: Row = {"part": "grid", "method": CORLL.name, "cell": cell}
            return [head | outline(history) for history in self.lab.run(CORLL, learning, users, guard)]

        return run


class LanguageWorld:
    """The study."""

    name = "language-world"
    question = "Does CoRLL learn from weak and noisy edits, and better than imitation or comparisons do?"
    budget_minutes = 45.0
    seeds = tuple(range(11, 27))

    def units(self, options: Options) -> Sequence[Unit]:
        scale = QUICK if options.quick else FULL
        if both := sorted(set(options.seeds) & set(scale.validation)):
            raise FatalError(f"--seeds: {both[0]} is a seed that settings are chosen on; name others", ExitCode.USAGE)
        return _Work(Lab(scale), options.seeds, options.quick).units()

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        reported = [row for row in rows if row["part"] == "reported"]
        grid = [row for row in rows if row["part"] == "grid"]
        figures = language_figures(reported, grid, options.seeds, DEFAULTS)
        plot_regret(folder / "regret.png", reported)
        plot_differences(folder / "differences.png", figures, DEFAULTS)
        return figures


STUDY: Study = LanguageWorld()
