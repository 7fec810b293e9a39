"""Real edits, replayed: does corlld prefer what an editor will do next, and does it know the person or the domain?

The archive's texts are not drafts of the user's own adapter, so that accuracy means something here: chance is one half.
Every editor counts with the same number of edits. What was tuned was tuned on other editors than are reported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from corlld.errors import ExitCode, FatalError
from corlld.learning.model.resident import ResidentModel, load_resident_model
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
GROUP = 3  # reported editors of one unit, whose adapters are tried on each other's edits
VALIDATION_SEED = 0  # none of the reported ones


@dataclass(frozen=True)
class RealEdits:
    """A `Study`. sizes: of a whole run, and of a quick one."""

    name: str = "real-edits"
    question: str = "Does corlld learn what an editor of real texts will do next, and is it the person that it learns?"
    budget_minutes: float = 60.0
    seeds: tuple[int, ...] = (1,)
    sizes: tuple[Sizes, Sizes] = (FULL, QUICK)
    rules: Rules = RULES

    def units(self, options: Options) -> Sequence[Unit]:
        """See `Study`. Each unit stands by itself."""
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
        """See `Study`."""
        report = Report(rows, self.rules)
        report.draw(folder)
        return {**report.figures(), "largest_repetition_rise": _repetition(options)}

    def _editors(self, options: Options) -> Split:
        return split(read_edits(_file(options)), self.sizes[options.quick])


def _repetition(options: Options) -> Figure:
    """What `guard.max_repetition_rise` would meet in the whole file."""
    events = [edit.event for edits in read_edits(_file(options)).values() for edit in edits]
    rises = [repetition_ratio(event.edited) - repetition_ratio(event.proposed) for event in events]
    return Figure(max(rises), f"by how much one of all {len(rises)} edits raises the share of repeated words at most")


def _file(options: Options) -> Path:
    if options.edits is None:
        raise FatalError(
            "real-edits needs --edits FILE: one event a line, and with it the text `commit`, the same for edits "
            "that were made together",
            ExitCode.USAGE,
        )
    return options.edits


def _baselines(editors: Sequence[Editor]) -> list[Row]:
    """What simple rules make of each edit, test then train, and which commit it belongs to."""
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
    """Enough where there is nothing to learn."""
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
    """In bfloat16, which CPUs of the kind that is meant multiply themselves."""
    return load_resident_model(ModelSettings(name=model, dtype="bfloat16"), AdapterSettings())


STUDY: Study = RealEdits()
