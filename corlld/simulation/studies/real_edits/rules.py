"""The rules that are compared on an archive, and which of them were chosen. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corlld.settings.sections import LearningSettings

# Fixed here, so that a rule stays what its name says if the daemon's defaults change.
_PLAIN = {
    "margin": "tail",
    "anchor": 0.0,
    "imitation_weight": 0.0,
    "imitation_tokens": "tail",
    "steps_per_batch": 1,
    "replay_pairs": 0,
    "rehearsal_weight": 0.03,
    "lr": 5e-4,
}
_NO_MARGIN = 1e-4  # beta at which the margin's gradient is nothing beside imitation's


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to learn from edits.

    learning: the learner's settings. whole: fine-tuning on the whole edited text, as if it had been accepted, and not
    on its tail. flipped: a coin decides for each edit whether proposed and edited text change places first, so that
    there is nothing to learn.
    """

    name: str
    learning: LearningSettings = field(default_factory=LearningSettings)
    whole: bool = False
    flipped: bool = False

    @property
    def has_margin(self) -> bool:
        """Whether proposed texts are learnt from at all. Fine-tuning learns from edited texts alone."""
        return not self.whole and self.learning.beta > _NO_MARGIN


def ruled(name: str, *, whole: bool = False, flipped: bool = False, **changes: Any) -> Rule:
    """Return the margin over whole tails, with these settings changed."""
    return Rule(name, LearningSettings.model_validate(_PLAIN | changes), whole, flipped)


def _imitating(weight: float, margin: str, tokens: str) -> Rule:
    name = f"{margin} + imitation {_short(weight)}" + ("" if tokens == "tail" else " changed")
    return ruled(name, margin=margin, imitation_weight=weight, imitation_tokens=tokens)


def _anchored(weight: float, margin: str) -> Rule:
    return ruled(f"{margin} + anchor {_short(weight)}", margin=margin, anchor=weight)


def _short(number: float) -> str:
    return f"{number:g}".removeprefix("0")


TAIL = ruled("tail")
CHANGED = ruled("changed", margin="changed")
TAIL_IMITATING = _imitating(0.1, "tail", "tail")
CHANGED_IMITATING = _imitating(0.1, "changed", "tail")
FINE_TUNING = ruled("fine-tuning", beta=_NO_MARGIN, imitation_weight=1.0)
_COMBINED: Mapping[str, Any] = {"margin": "changed", "imitation_weight": 0.1}
COMBINED_FASTER = ruled("changed + imitation .1, lr 1e-3", **_COMBINED, lr=1e-3)
FINE_TUNING_FASTER = ruled("fine-tuning, lr 1e-3", beta=_NO_MARGIN, imitation_weight=1.0, lr=1e-3)
COMBINED_FASTEST = ruled("changed + imitation .1, lr 2e-3", **_COMBINED, lr=2e-3)
TWO_STEPS = ruled("changed + imitation .1, 2 steps", **_COMBINED, steps_per_batch=2)
FOUR_STEPS = ruled("changed + imitation .1, 4 steps", **_COMBINED, steps_per_batch=4)
FINE_TUNING_FOUR_STEPS = ruled("fine-tuning, 4 steps", beta=_NO_MARGIN, imitation_weight=1.0, steps_per_batch=4)
# The most telling come first: a run that was stopped has them. Beta is not tried: under Adam it hardly matters before
# margins saturate.
_GRID = (
    TAIL,
    CHANGED_IMITATING,
    TAIL_IMITATING,
    CHANGED,
    FINE_TUNING,
    _anchored(0.1, "tail"),
    _imitating(0.1, "changed", "changed"),
    _imitating(0.3, "changed", "tail"),
    _anchored(0.1, "changed"),
    _imitating(1.0, "changed", "tail"),
    TWO_STEPS,
    ruled("changed + imitation .1, no rehearsal", **_COMBINED, rehearsal_weight=0.0),
    ruled("tail, no rehearsal", rehearsal_weight=0.0),
    FOUR_STEPS,
    ruled("changed + imitation .1, 4 pairs replayed", **_COMBINED, replay_pairs=4),
    *(_anchored(weight, margin) for weight in (1.0, 0.03, 0.3) for margin in ("tail", "changed")),
    *(_imitating(weight, "changed", "changed") for weight in (0.3, 0.03, 1.0)),
    *(_imitating(weight, "tail", "tail") for weight in (0.3, 0.03, 1.0)),
    *(_imitating(weight, "tail", "changed") for weight in (0.1, 0.3, 0.03, 1.0)),
    _imitating(0.03, "changed", "tail"),
    ruled("tail, 2 steps", steps_per_batch=2),
    ruled("tail, 4 steps", steps_per_batch=4),
    ruled("tail, 4 pairs replayed", replay_pairs=4),
    ruled("changed + imitation .1, lr 1e-4", **_COMBINED, lr=1e-4),
    COMBINED_FASTER,
    COMBINED_FASTEST,
)
# As many learning rates, steps and replayed pairs as are tried for the combined rule. Weights below 1 would only scale
# a gradient that Adam scales itself.
_FINE_TUNING_GRID = (
    ruled("fine-tuning on whole texts", whole=True, acceptance_weight=1.0),
    ruled("fine-tuning, lr 1e-4", beta=_NO_MARGIN, imitation_weight=1.0, lr=1e-4),
    FINE_TUNING_FASTER,
    ruled("fine-tuning, lr 2e-3", beta=_NO_MARGIN, imitation_weight=1.0, lr=2e-3),
    ruled("fine-tuning, 2 steps", beta=_NO_MARGIN, imitation_weight=1.0, steps_per_batch=2),
    FINE_TUNING_FOUR_STEPS,
    ruled("fine-tuning, 4 pairs replayed", beta=_NO_MARGIN, imitation_weight=1.0, replay_pairs=4),
    ruled("fine-tuning, no rehearsal", beta=_NO_MARGIN, imitation_weight=1.0, rehearsal_weight=0.0),
)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a study. Candidates are compared on validation editors alone.

    harmful: those of them that spoil plain English if edits are noise (choice.csv of the study `no-harm`): they are
    never chosen. plain: the margin over whole tails, always reported. chosen: the candidate that validation has chosen.
    fine_tuning: reported beside them, with the same learning rate. others: reported too. flipped: the chosen rule on
    labels by a coin.
    """

    candidates: tuple[Rule, ...] = (*_GRID, *_FINE_TUNING_GRID)
    harmful: tuple[Rule, ...] = (TWO_STEPS, FOUR_STEPS, COMBINED_FASTEST)
    plain: Rule = TAIL
    chosen: Rule = COMBINED_FASTER
    fine_tuning: Rule = FINE_TUNING_FASTER
    others: tuple[Rule, ...] = (CHANGED_IMITATING, FINE_TUNING, FOUR_STEPS, CHANGED)
    flipped: Rule = Rule("labels by a coin", COMBINED_FASTER.learning, flipped=True)

    @property
    def principal(self) -> tuple[Rule, ...]:
        """The rules that run with every seed, and whose adapters also judge another editor's edits."""
        return (self.plain, self.chosen, self.fine_tuning)

    @property
    def learning(self) -> tuple[Rule, ...]:
        """The reported rules that learn from the editors' own labels, each once, the most telling first."""
        return tuple(dict.fromkeys((*self.principal, *self.others)))

    @property
    def reported(self) -> tuple[Rule, ...]:
        """The rules that are reported. Of flipped labels first halves are enough: there is nothing to learn."""
        return (*self.learning, self.flipped)


RULES = Rules()
