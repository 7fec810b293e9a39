"""Feedback of a writer that is weak or noisy: edits that put little right, edits that harm, wrong choices. Pure.

Chance depends on the seed, the number of the draft and the texts alone: the same ones give the same feedback.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from corlld.simulation.editors import WeakEditor, utility

Harm = Literal["scaled", "unscaled"]
_WORDS = (  # that have nothing to do with any message
    "anchor beaver cactus donkey elephant falcon glacier harbour igloo jungle kitten lantern marble nutmeg otter "
    "pepper quiver raven saffron tulip urchin violin walnut yogurt zipper"
)


@dataclass(frozen=True, slots=True)
class Condition:
    """The kind of feedback.

    alpha: share of the gap to the wanted text that an edit closes. epsilon: chance that it harms instead. harm: how
    far it then goes, as a share alpha of the gap (`scaled`) or of the draft's whole utility (`unscaled`). anywhere: the
    words that matter most are put right, and not the first ones.
    """

    alpha: float
    epsilon: float = 0.0
    harm: Harm = "scaled"
    anywhere: bool = False

    @property
    def name(self) -> str:
        noise = f", noise {self.epsilon:g} {self.harm}" if self.epsilon else ""
        return f"alpha {self.alpha:g}{noise}{', anywhere' if self.anywhere else ''}"


@dataclass(frozen=True, slots=True)
class Feedback:
    """The feedback of writers under a condition. seed: of the noise."""

    condition: Condition
    seed: int

    def edit(self, draft: str, hidden: str, number: int) -> str:
        """Return the edited draft. number: of the draft, so that noise differs."""
        random = self._random(number, draft, hidden)
        if random.random() < self.condition.epsilon:
            return self._harmed(draft, hidden, random)
        return WeakEditor(self.condition.alpha, self.condition.anywhere).edit(draft, hidden)

    def prefers_first(self, first: str, second: str, hidden: str, number: int) -> bool | None:
        """Return whether the writer takes the first of two drafts. None: neither is closer to the hidden text."""
        gain = utility(first, hidden) - utility(second, hidden)
        if not gain:
            return None
        errs = self._random(number, first, second).random() < self.condition.epsilon
        return (gain > 0) != errs

    def _harmed(self, draft: str, hidden: str, random: np.random.Generator) -> str:
        """Return the draft with as few of its words replaced as lower its utility enough, or else with all of them."""
        before = utility(draft, hidden)
        loss = self.condition.alpha * (1 - before if self.condition.harm == "scaled" else before)
        words, text = draft.split(" "), draft
        for place in random.permutation(len(words)):
            if before - utility(text, hidden) >= loss:
                break
            words[place] = str(random.choice(_WORDS.split()))
            text = " ".join(words)
        return text

    def _random(self, number: int, *texts: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, number, *"\0".join(texts).encode()])
