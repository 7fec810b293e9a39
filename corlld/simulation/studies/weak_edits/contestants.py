"""The ways to learn that are compared, and the settings that tuning tries for each: equally many. Pure."""

from dataclasses import dataclass, replace
from typing import Any

from corlld.settings.sections import LearningSettings
from corlld.simulation.studies.weak_edits.feedback import Condition

# Fixed here, so that a rule stays what its name says if the daemon's defaults change.
_PLAIN = {"margin": "tail", "anchor": 0.0, "imitation_weight": 0.0, "imitation_tokens": "tail", "lr": 1e-3}
# The default, half of it, and twice and four times as much.
LEARNING_RATES = (5e-4, 1e-3, 2e-3, 4e-3)


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to learn. learning: None: nothing is learnt. compares: from choices between two samples, not from edits."""

    name: str
    learning: LearningSettings | None
    compares: bool = False

    def at(self, lr: float) -> "Rule":
        """Return the same rule with another learning rate."""
        if self.learning is None:
            return self
        return replace(self, learning=self.learning.model_copy(update={"lr": lr}))


def seen(condition: Condition, rule: Rule) -> str:
    """Return the name of what a rule sees of a condition. A cell is run once for conditions that are the same to it."""
    if rule.learning is None:
        return "nothing"
    if rule.compares:
        return f"choices, noise {condition.epsilon:g}" if condition.epsilon else "choices"
    return condition.name


def _rule(name: str, *, compares: bool = False, **changes: Any) -> Rule:
    return Rule(name, LearningSettings.model_validate(_PLAIN | changes), compares)


NOTHING = Rule("no learning", None)
TAIL = _rule("tail")
CHANGED = _rule("changed", margin="changed")
FINE_TUNING = _rule("fine-tuning", beta=1e-4, imitation_weight=1.0)  # at this beta the margin's gradient is nothing
PAIR_DPO = _rule("pair-DPO", compares=True, acceptance_weight=0.0)
# From the margin to fine-tuning, step by step.
BOTH = (
    _rule("changed + imitation .1", margin="changed", imitation_weight=0.1),
    _rule("changed + imitation 1", margin="changed", imitation_weight=1.0),
    _rule("tail + imitation .1", imitation_weight=0.1),
)
OF_EDITS = (BOTH[0], CHANGED, FINE_TUNING, TAIL, *BOTH[1:])  # the most telling come first
