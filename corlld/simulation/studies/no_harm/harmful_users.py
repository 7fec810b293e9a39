"""Users who do harm, on purpose or not. Each edits a draft, and knows the text that an honest user wants. Pure."""

from dataclasses import dataclass

import numpy as np

from corlld.simulation.closed_loop import Editor
from corlld.simulation.editors import WeakEditor

KINDS = ("honest", "noisy", "pasting", "leaping")
HOSTILE = ("pasting", "leaping")
HARMFUL_SHARE = 0.5  # of the noisy user's edits
SPOILT = 0.5  # share of a draft's words that a harmful edit of the noisy user replaces, however good the draft is
_WORDS = (  # that have nothing to do with any message
    "apple brick cloud dinner engine feather garden hammer island jacket kettle ladder mirror needle orange pencil "
    "quarter rabbit saddle ticket umbrella velvet window yellow zebra basket candle dragon elbow forest"
)
_RARE = "ꙮ𓂀ↈ⸎ᚙᛤ꧁༗ጯ⏣⍼☫ꆜꉣ𐎠𐏐߷ᜒ"  # letters and signs that a text for people hardly has


@dataclass(frozen=True, slots=True)
class NoisyEditor:
    """Writes the wanted text, or with chance epsilon spoils words of the draft: unscaled harm."""

    epsilon: float
    random: np.random.Generator

    def edit(self, draft: str, hidden: str) -> str:
        """Return the hidden text, or the draft with `SPOILT` of its words (at least one word) replaced."""
        if self.random.random() >= self.epsilon:
            return WeakEditor(1.0).edit(draft, hidden)
        words = draft.split(" ")
        count = max(1, round(SPOILT * len(words)))
        for place in self.random.choice(len(words), count, replace=False):
            words[place] = str(self.random.choice(_WORDS.split()))
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class PastingEditor:
    """Pastes the same words again and again over every draft."""

    words: str = "buy now"
    times: int = 10

    def edit(self, draft: str, hidden: str) -> str:
        """Return the pasted words. Draft and hidden text are ignored."""
        return " ".join([self.words] * self.times)


@dataclass(frozen=True, slots=True)
class LeapingEditor:
    """Tries to force the largest step: writes other signs every time, all as unlikely as can be."""

    random: np.random.Generator
    signs: int = 10

    def edit(self, draft: str, hidden: str) -> str:
        """Return new signs. Draft and hidden text are ignored."""
        return "".join(self.random.choice(list(_RARE), self.signs))


def make_editor(kind: str, random: np.random.Generator) -> Editor:
    """Return the editor of one of `KINDS`. Raises ValueError for another name."""
    match kind:
        case "honest":
            return WeakEditor(1.0)
        case "noisy":
            return NoisyEditor(HARMFUL_SHARE, random)
        case "pasting":
            return PastingEditor()
        case "leaping":
            return LeapingEditor(random)
    raise ValueError(f"no user of the kind {kind!r}")
