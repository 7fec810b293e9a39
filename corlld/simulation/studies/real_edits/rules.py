"""Ways to learn from edits that are compared on an archive, and which of them were chosen."""

from dataclasses import dataclass, field

from corlld.settings.sections import LearningSettings


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to learn from an edit.

    learning: the engine's settings. texts: supervised fine-tuning: the edited text alone, as if it had been accepted.
    flipped: a coin exchanges proposed and edited text of each edit beforehand, so that there is nothing to learn.
    """

    name: str
    learning: LearningSettings = field(default_factory=LearningSettings)
    texts: bool = False
    flipped: bool = False


def _fine_tuning(name: str, **changes: float) -> Rule:
    return Rule(name, LearningSettings.model_validate({"acceptance_weight": 1.0} | changes), texts=True)


CORLL = Rule("corll")
# The same of both, and few, for the budget; not beta, which hardly matters under Adam before margins saturate.
CORLL_CANDIDATES = (CORLL, Rule("corll-lr-1e-4", LearningSettings(lr=1e-4)))
SFT_CANDIDATES = (_fine_tuning("sft"), _fine_tuning("sft-lr-1e-4", lr=1e-4))
# By accuracy on validation editors; the report says whether a run's own validation agrees.
CHOSEN_CORLL = CORLL_CANDIDATES[1]
CHOSEN_SFT = SFT_CANDIDATES[1]


@dataclass(frozen=True, slots=True)
class Rules:
    """Candidates were compared on validation editors alone, as many of fine-tuning as of corlld.

    corll: the defaults, reported whatever wins. flipped: the same on labels by a coin. chosen_corll, chosen_sft: the
        best of the candidates on validation editors.
    """

    corll: Rule = CORLL
    flipped: Rule = Rule("corll-flipped", flipped=True)
    corll_candidates: tuple[Rule, ...] = CORLL_CANDIDATES
    sft_candidates: tuple[Rule, ...] = SFT_CANDIDATES
    chosen_corll: Rule = CHOSEN_CORLL
    chosen_sft: Rule = CHOSEN_SFT

    @property
    def candidates(self) -> tuple[Rule, ...]:
        return self.corll_candidates + self.sft_candidates

    @property
    def reported(self) -> tuple[Rule, ...]:
        """Each once."""
        return tuple(dict.fromkeys((self.corll, self.chosen_corll, self.chosen_sft, self.flipped)))


RULES = Rules()
