"""`corlld simulate real-edits`: does corlld make more likely what an editor writes next, and does it know the person?

The texts of the archive are not drafts of the user's own adapter. So the rise of an edited text's likelihood before it
is learnt from, and accuracy, mean something here. Every editor counts the same. Rules were chosen on other editors than
are reported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from corlld.adapters.layout import AdapterTensors
from corlld.errors import ExitCode, FatalError
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.resident import ResidentModel
from corlld.settings.sections import AdapterSettings, ModelSettings
from corlld.simulation.baselines import WordCountPerceptron, longer_wins
from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.kept_adapters import keep, kept
from corlld.simulation.studies.real_edits.archive import Editor, Sizes, Split, read_edits, split
from corlld.simulation.studies.real_edits.prequential import cross_scores, middle, replay
from corlld.simulation.studies.real_edits.report import BASELINES, PERSONS, REPORTED, VALIDATION, Report
from corlld.simulation.studies.real_edits.rules import RULES, Rule, Rules
from corlld.statistics import repetition_ratio

FULL = Sizes(editors=8, validation_editors=3, least=16, most=96)
QUICK = Sizes(editors=2, validation_editors=1, least=16, most=32)
VALIDATION_SEED = 1001  # never reported
SECOND_HALF = f"{REPORTED}, second half"
_ANY_LENGTH = 10_000_000  # characters


@dataclass(frozen=True)
class RealEdits:
    """The study. sizes: of a whole run, and of a quick one."""

    name: str = "real-edits"
    question: str = "Does corlld make more likely what an editor of real texts will write next?"
    budget_minutes: float = 150.0
    seeds: tuple[int, ...] = (1,)
    sizes: tuple[Sizes, Sizes] = (FULL, QUICK)
    rules: Rules = RULES

    def units(self, options: Options) -> Sequence[Unit]:
        """Return the units: a minute or so each.

        The baselines come first, then the candidates on the validation editors. Then come by seed the reported rules on
        first halves, whose adapter knows whom on second halves, and the reported rules on these. After the first seed
        only the principal rules run, and no adapter judges another editor's edits.
        """
        if options.scratch is None:
            raise ValueError("this study needs `scratch`")
        if VALIDATION_SEED in options.seeds:
            raise FatalError(f"--seeds: {VALIDATION_SEED} is the seed of the choice: name others", ExitCode.USAGE)
        editors = self._editors(options)
        work = _Work(options.model, options.scratch)
        units = [Unit(BASELINES, lambda: _baselines((*editors.validation, *editors.reported)))]
        for rule in self.rules.candidates:
            for editor in editors.validation:
                units.append(_unit(VALIDATION, editor, rule, VALIDATION_SEED, work.validating))
        rules, first = self.rules, options.seeds[0]
        for seed in options.seeds:
            for kind, each, run in (
                (REPORTED, rules.reported if seed == first else rules.principal, work.first_half),
                (PERSONS, rules.principal if seed == first else (), partial(work.crossing, editors.reported)),
                (SECOND_HALF, rules.learning if seed == first else rules.principal, work.second_half),
            ):
                units += [_unit(kind, editor, rule, seed, run) for editor in editors.reported for rule in each]
        return units

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        """Return the figures of what was done, and draw `rises.png` and `persons.png` if there is enough for them."""
        report = Report(rows, self.rules)
        report.draw(folder)
        return {**report.figures(), "largest_repetition_rise": _repetition(options)}

    def _editors(self, options: Options) -> Split:
        return split(read_edits(_file(options)), self.sizes[options.quick])


_Run = Callable[[Editor, Rule, int], list[Row]]


@dataclass(frozen=True, slots=True)
class _Work:
    """The work of the units. scratch: keeps each adapter as it was after half of its editor's edits."""

    model: str
    scratch: Path

    def validating(self, editor: Editor, rule: Rule, seed: int) -> list[Row]:
        return replay(_resident(self.model), editor, rule, seed, range(len(editor.edits))).rows

    def first_half(self, editor: Editor, rule: Rule, seed: int) -> list[Row]:
        half = middle(len(editor.edits))
        replayed = replay(_resident(self.model), editor, rule, seed, range(half))
        keep(self._path(editor, rule, seed), {editor.name: replayed.adapter} if replayed.adapter else {}, half)
        return replayed.rows

    def second_half(self, editor: Editor, rule: Rule, seed: int) -> list[Row]:
        places = range(middle(len(editor.edits)), len(editor.edits))
        adapter = self._kept(editor, rule, seed).get(editor.name)
        return replay(_resident(self.model), editor, rule, seed, places, adapter).rows

    def crossing(self, editors: Sequence[Editor], editor: Editor, rule: Rule, seed: int) -> list[Row]:
        """Score the second half with the editor's own adapter, and with the next editor's."""
        other = editors[(editors.index(editor) + 1) % len(editors)]
        adapters = self._kept(editor, rule, seed) | self._kept(other, rule, seed)
        return cross_scores(_resident(self.model), editor, adapters, rule, seed)

    def _kept(self, editor: Editor, rule: Rule, seed: int) -> dict[str, AdapterTensors]:
        return kept(self._path(editor, rule, seed)).adapters

    def _path(self, editor: Editor, rule: Rule, seed: int) -> Path:
        return self.scratch / f"{editor.name}, {rule.name}, {seed}.safetensors"


def _unit(kind: str, editor: Editor, rule: Rule, seed: int, run: _Run) -> Unit:
    """Return a unit whose rows name the kind of their figures, and the rule."""
    label: Row = {"kind": kind.partition(",")[0], "rule": rule.name}
    return Unit(f"{kind}/{rule.name}/{seed}/{editor.name}", lambda: [label | row for row in run(editor, rule, seed)])


def _repetition(options: Options) -> Figure:
    """Return the largest rise of repetition in the whole file, for `guard.max_repetition_rise`."""
    events = [edit.event for edits in read_edits(_file(options), _ANY_LENGTH).values() for edit in edits]
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
                "kind": BASELINES,
                "editor": editor.name,
                "edit": index,
                "commit": commits[edit.commit],
                "words": perceptron.prequential(edit.event),
                "longer": longer_wins(edit.event),
            }
            for index, edit in enumerate(editor.edits)
        ]
    return rows


@cache
def _resident(model: str) -> ResidentModel:
    """Return the model in bfloat16, which the CPUs that the budget is meant for can multiply."""
    return load_resident_model(ModelSettings(name=model, dtype="bfloat16"), AdapterSettings())


STUDY: Study = RealEdits()
