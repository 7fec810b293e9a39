"""The rules that are compared on an archive, and which of them were chosen."""

from dataclasses import dataclass, field

from corlld.settings.sections import LearningSettings


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to learn from edits.

    learning: the learner's settings. texts: supervised fine-tuning: only the edited text is learnt, as if it had been
    accepted. flipped: a coin decides for each edit whether proposed and edited text change places first, so that there
    is nothing to learn.
    """

    name: str
    learning: LearningSettings = field(default_factory=LearningSettings)
    texts: bool = False
    flipped: bool = False


def _fine_tuning(name: str, **changes: float) -> Rule:
    return Rule(name, LearningSettings.model_validate({"acceptance_weight": 1.0} | changes), texts=True)


CORLL = Rule("corll")
# Both methods have the same candidates, and few, for the budget. Beta is not tried: under Adam it hardly matters before
# margins saturate.
CORLL_CANDIDATES = (CORLL, Rule("corll-lr-1e-4", LearningSettings(lr=1e-4)))
SFT_CANDIDATES = (_fine_tuning("sft"), _fine_tuning("sft-lr-1e-4", lr=1e-4))
# Chosen by accuracy on validation editors. The report says whether the validation of a run agrees.
CHOSEN_CORLL = CORLL_CANDIDATES[1]
CHOSEN_SFT = SFT_CANDIDATES[1]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a study. Candidates are compared on validation editors alone, equally many of both methods.

    corll: the defaults, always reported. flipped: the defaults on labels by a coin. chosen_corll, chosen_sft: the best
        candidates on validation editors.
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
        """The rules that are reported, each once."""
        return tuple(dict.fromkeys((self.corll, self.chosen_corll, self.chosen_sft, self.flipped)))


RULES = Rules()
