"""`corlld simulate real-edits`: does corlld prefer what an editor will do next, and does it know person or domain?

The texts of the archive are not drafts of the user's own adapter. So accuracy means something here: chance is one half.
Every editor counts with the same number of edits. Rules were tuned on other editors than are reported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from corlld.errors import ExitCode, FatalError
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.resident import ResidentModel
from corlld.settings.sections import AdapterSettings, ModelSettings
from corlld.simulation.baselines import WordCountPerceptron, longer_wins
from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.real_edits.archive import Editor, Sizes, Split, read_edits, split
from corlld.simulation.studies.real_edits.prequential import cross_scores, middle, replay
from corlld.simulation.studies.real_edits.report import BASELINES, REPORTED, VALIDATION, Report
from corlld.simulation.studies.real_edits.rules import RULES, Rule, Rules
from corlld.statistics import repetition_ratio

FULL = Sizes(editors=6, edits=64, validation_editors=3, validation_edits=32)
QUICK = Sizes(editors=2, edits=32, validation_editors=1, validation_edits=16)
GROUP = 3  # reported editors per unit; their adapters are tried on each other's edits
VALIDATION_SEED = 0  # never reported


@dataclass(frozen=True)
class RealEdits:
    """The study. sizes: of a whole run, and of a quick one."""

    name: str = "real-edits"
    question: str = "Does corlld learn what an editor of real texts will do next, and does it learn the person?"
    budget_minutes: float = 60.0
    seeds: tuple[int, ...] = (1,)
    sizes: tuple[Sizes, Sizes] = (FULL, QUICK)
    rules: Rules = RULES

    def units(self, options: Options) -> Sequence[Unit]:
        """Return the units. Each stands by itself."""
        editors = self._editors(options)
        units = [Unit(BASELINES, lambda: _baselines((*editors.validation, *editors.reported)))]
        for rule in self.rules.candidates:
            run = _replaying(options, editors.validation, rule, VALIDATION_SEED, crossed=False)
            units.append(Unit(f"{VALIDATION}/{rule.name}", run))
        groups = [editors.reported[at : at + GROUP] for at in range(0, len(editors.reported), GROUP)]
        for seed in options.seeds:
            for rule in self.rules.reported:
                for number, group in enumerate(groups, 1):
                    shown = [_first_half(editor) for editor in group] if rule.flipped else group
                    run = _replaying(options, shown, rule, seed, crossed=rule == self.rules.chosen_corll)
                    units.append(Unit(f"{REPORTED}/{rule.name}/{seed}/{number}", run))
        return units

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        """Return the figures, and draw `curves.png` and `persons.png`."""
        report = Report(rows, self.rules)
        report.draw(folder)
        return {**report.figures(), "largest_repetition_rise": _repetition(options)}

    def _editors(self, options: Options) -> Split:
        return split(read_edits(_file(options)), self.sizes[options.quick])


def _repetition(options: Options) -> Figure:
    """Return the largest rise of repetition in the whole file, for `guard.max_repetition_rise`."""
    events = [edit.event for edits in read_edits(_file(options)).values() for edit in edits]
    rises = [repetition_ratio(event.edited) - repetition_ratio(event.proposed) for event in events]
    return Figure(max(rises), f"largest rise of the share of repeated words by any of all {len(rises)} edits")


def _file(options: Options) -> Path:
    if options.edits is None:
        raise FatalError(
            "real-edits needs --edits FILE: one event per line, with a text `commit` that is the same for edits "
            "that were made together",
            ExitCode.USAGE,
        )
    return options.edits


def _baselines(editors: Sequence[Editor]) -> list[Row]:
    """Return how simple rules judge each edit before they learn from it, and the number of its commit."""
    rows: list[Row] = []
    for editor in editors:
        perceptron = WordCountPerceptron()
        commits = {commit: number for number, commit in enumerate(dict.fromkeys(e.commit for e in editor.edits))}
        rows += [
            {
                "editor": editor.name,
                "edit": index,
                "commit": commits[edit.commit],
                "words": perceptron.prequential(edit.event),
                "longer": longer_wins(edit.event),
            }
            for index, edit in enumerate(editor.edits)
        ]
    return rows


def _first_half(editor: Editor) -> Editor:
    """Return the editor with half of the edits: enough if there is nothing to learn."""
    return replace(editor, edits=editor.edits[: middle(len(editor.edits))])


def _replaying(
    options: Options, editors: Sequence[Editor], rule: Rule, seed: int, *, crossed: bool
) -> Callable[[], list[Row]]:
    def run() -> list[Row]:
        resident = _resident(options.model)
        replayed = replay(resident, editors, rule, seed)
        return replayed.rows + (cross_scores(resident, editors, replayed.adapters, rule, seed) if crossed else [])

    return run


@cache
def _resident(model: str) -> ResidentModel:
    """Return the model in bfloat16, which the CPUs that the budget is meant for can multiply."""
    return load_resident_model(ModelSettings(name=model, dtype="bfloat16"), AdapterSettings())


STUDY: Study = RealEdits()
