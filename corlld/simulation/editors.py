"""Simulated ways to edit a draft towards the text that a user has in mind. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein


def utility(text: str, hidden: str) -> float:
    """Return how well a text serves the user: its similarity to the text in mind, 0 to 1."""
    return float(Levenshtein.normalized_similarity(text, hidden))


@dataclass(frozen=True, slots=True)
class WeakEditor:
    """Makes the smallest edit that closes a share of the gap: alpha-informative feedback without slack.

    alpha: share of the gap between the draft's utility and the best one that an edit has to close, 0 to 1. At 1 every
        edit is the text in mind, word by word.
    anywhere: False: the first wrong words are put right. True: those that matter most, wherever they are.
    """

    alpha: float
    anywhere: bool = False

    def edit(self, draft: str, hidden: str) -> str:
        """Return the draft with some of its wrong words put right: as few as close the share of the gap."""
        words, wanted = draft.split(" "), hidden.split(" ")
        steps = [_Step(step.tag, step.src_pos, step.dest_pos) for step in Levenshtein.editops(words, wanted)]
        if self.anywhere:
            steps.sort(key=lambda step: utility(" ".join(_apply(words, wanted, [step])), hidden), reverse=True)
        enough = utility(draft, hidden) + self.alpha * (1 - utility(draft, hidden))
        for count in range(1, len(steps)):
            chosen = sorted(steps[:count], key=lambda step: (step.source, step.target))
            text = " ".join(_apply(words, wanted, chosen))
            if utility(text, hidden) >= enough:
                return text
        return hidden


class _Step(NamedTuple):
    """A word that is deleted, inserted or replaced, at its places in both texts."""

    kind: str
    source: int
    target: int


def _apply(words: list[str], wanted: list[str], steps: list[_Step]) -> list[str]:
    """Return `words` after some of the steps that lead to `wanted`. steps: in order."""
    result: list[str] = []
    place = 0
    for kind, source, target in steps:
        result += words[place:source]
        place = source
        if kind != "delete":
            result.append(wanted[target])
        if kind != "insert":
            place += 1
    return result + words[place:]


@dataclass(frozen=True, slots=True)
class NaiveEditor:
    """The wrong user: puts the same words around every draft, even where they stand already.

    Its feedback says that more of the same is always better. A model that learns it repeats words until nothing else is
    left. It is kept to show that the figures expose such a collapse.
    """

    greeting: str
    sign_off: str

    def edit(self, draft: str, hidden: str) -> str:
        """Return the draft between greeting and sign-off. `hidden` is ignored."""
        return f"{self.greeting} {draft} {self.sign_off}"
