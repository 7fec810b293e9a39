"""Real edits, replayed: does corlld prefer what an editor will do next, and does it know the person or the domain?

The archive's text is not drafts of the user's own adapter, so that accuracy means something here: chance is one half.
Every editor counts with the same number of edits. Rules were compared on validation editors, who are not reported, with
as many candidates for supervised fine-tuning as for corlld; the choices stand below.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from corlld.errors import ExitCode, FatalError
from corlld.learning.resident import ResidentModel, load_resident_model
from corlld.settings import AdapterSettings, LearningSettings, ModelSettings
from corlld.simulation.baselines import WordCountPerceptron, longer_wins
from corlld.simulation.studies.edit_archive import Editor, Sizes, Split, read_edits, split
from corlld.simulation.studies.prequential import Rule, cross_scores, replay
from corlld.simulation.studies.study import Figure, Options, Row, Unit

FULL = Sizes(editors=6, edits=64, validation_editors=4, validation_edits=32)
QUICK = Sizes(editors=2, edits=32, validation_editors=1, validation_edits=16)
GROUP = 3  # reported editors of one unit, whose adapters are tried on each other's edits

CORLL = Rule("corll")
FLIPPED = Rule("corll-flipped", flipped=True)
# Five candidates each. Under Adam beta matters only once margins saturate, which 64 edits hardly do.
CORLL_CANDIDATES = (
    CORLL,
    Rule("corll-beta-.03", LearningSettings(beta=0.03)),
    Rule("corll-anchor-.1", LearningSettings(anchor=0.1)),
    Rule("corll-lr-1e-4", LearningSettings(lr=1e-4)),
    Rule("corll-replay-8", replayed=8),
)
SFT_CANDIDATES = tuple(
    Rule(f"sft-lr-{lr:g}", LearningSettings(lr=lr), texts=True) for lr in (2e-5, 1e-4, 2e-4, 5e-4, 1e-3)
)
CHOSEN_CORLL = CORLL
CHOSEN_SFT = SFT_CANDIDATES[1]


@dataclass(frozen=True)
class RealEdits:
    """A `Study`. sizes: of a whole run, and of a quick one."""

    name: str = "real-edits"
    question: str = "Does corlld learn what an editor of real texts will do next, and is it the person that it learns?"
    budget_minutes: float = 60.0
    seeds: tuple[int, ...] = (1,)
    sizes: tuple[Sizes, Sizes] = (FULL, QUICK)
    rule: Rule = CORLL
    flipped: Rule = FLIPPED
    corll_candidates: tuple[Rule, ...] = CORLL_CANDIDATES
    sft_candidates: tuple[Rule, ...] = SFT_CANDIDATES
    chosen_corll: Rule = CHOSEN_CORLL
    chosen_sft: Rule = CHOSEN_SFT

    def units(self, options: Options) -> Sequence[Unit]:
        """See `Study`. Each unit stands by itself."""
        editors = self._editors(options)
        groups = [editors.reported[at : at + GROUP] for at in range(0, len(editors.reported), GROUP)]
        units = [Unit("baselines", lambda: _baselines((*editors.validation, *editors.reported)))]
        units += [
            Unit(f"validation/{rule.name}", _replaying(options, editors.validation, rule, seed=0, control=False))
            for rule in (*self.corll_candidates, *self.sft_candidates)
        ]
        for seed in options.seeds:
            for rule in dict.fromkeys((self.rule, self.chosen_corll, self.chosen_sft, self.flipped)):
                units += [
                    Unit(
                        f"reported/{rule.name}/{seed}/{number}",
                        _replaying(options, group, rule, seed, control=not rule.flipped),
                    )
                    for number, group in enumerate(groups, 1)
                ]
        return units

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        """See `Study`."""
        raise NotImplementedError

    def _editors(self, options: Options) -> Split:
        if options.edits is None:
            raise FatalError(
                "real-edits needs --edits FILE: one event a line, and with it the text `commit`, the same for edits "
                "that were made together",
                ExitCode.USAGE,
            )
        return split(read_edits(options.edits), self.sizes[options.quick])


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


def _replaying(
    options: Options, editors: Sequence[Editor], rule: Rule, seed: int, *, control: bool
) -> Callable[[], list[Row]]:
    def run() -> list[Row]:
        resident = _resident(options.model)
        replayed = replay(resident, editors, rule, seed)
        crossed = cross_scores(resident, editors, replayed.adapters, rule, seed) if control else []
        return [*replayed.rows, *crossed]

    return run


@cache
def _resident(model: str) -> ResidentModel:
    return load_resident_model(ModelSettings(name=model, dtype="bfloat16"), AdapterSettings())


STUDY = RealEdits()
