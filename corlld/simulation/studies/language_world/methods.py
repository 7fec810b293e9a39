"""The methods that are compared, and the settings that are tried for each: equally many."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corlld.settings.sections import LearningSettings
from corlld.simulation.language.online import Feedback

LRS = (1e-3, 2e-3, 4e-3)  # several times the daemon's default: this model is 4,000 times smaller than gemma3-270m
BETAS = (0.03, 0.1, 0.3)
BETA1S = (0.0, 0.5, 0.9)

# Fixed here, so that a method stays what its name says if the daemon's defaults change.
_PLAIN = {"margin": "tail", "imitation_weight": 0.0}
_BOTH_TERMS = {"margin": "changed", "imitation_weight": 0.1}

_ONE_CALL = 2560  # tokens of a row: smaller rows would cost more time, and change nothing


@dataclass(frozen=True, slots=True)
class Method:
    """A way to learn.

    name: in results. tried: all settings that tuning tries. varied: names of the settings that differ among them. The
    margin and imitation are what the method says. All other settings are the daemon's defaults.
    """

    name: str
    feedback: Feedback
    tried: tuple[LearningSettings, ...]
    varied: tuple[str, ...] = ()


def settings(**changed: Any) -> LearningSettings:
    """Return the daemon's defaults with these changes, and without rehearsal: this world has no English."""
    return LearningSettings(**{"max_row_tokens": _ONE_CALL, "rehearsal_weight": 0.0} | changed)


def described(method: Method, learning: LearningSettings) -> Mapping[str, float]:
    """Return the values of the settings that are tuned for a method, by name."""
    return {name: float(getattr(learning, name)) for name in method.varied}


def _tuned(name: str, feedback: Feedback, second: str, values: Sequence[float], **fixed: Any) -> Method:
    tried = [settings(**_PLAIN | fixed, lr=lr, **{second: value}) for lr, value in itertools.product(LRS, values)]
    return Method(name, feedback, tuple(tried), ("lr", second))


# The daemon's rule, and the two margins without imitation. Fine-tuning has no beta: it tunes beta1 instead.
CORLL = _tuned("CoRLL", Feedback.EDITS, "beta", BETAS, **_BOTH_TERMS)
CHANGED = _tuned("changed alone", Feedback.EDITS, "beta", BETAS, margin="changed")
TAILS = _tuned("tails alone", Feedback.EDITS, "beta", BETAS)
SFT = _tuned("SFT on edits", Feedback.EDITED_TEXTS, "beta1", BETA1S, acceptance_weight=1.0)
PAIR_DPO = _tuned("pair-DPO", Feedback.TWO_SAMPLES, "beta", BETAS, acceptance_weight=0.0)
NOTHING = Method("no learning", Feedback.NONE, (settings(),))
COMPARED = (CORLL, TAILS, CHANGED, SFT, PAIR_DPO)
