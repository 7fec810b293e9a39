"""Simple rules beside which a learner's accuracy has to be seen: without them it means nothing. Pure."""

import re
from collections import Counter

from corlld.records import EditEvent


class WordCountPerceptron:
    """Online perceptron on differences of word counts, test then train: prefers the text with the larger w . counts."""

    def __init__(self) -> None:
        self._weights: Counter[str] = Counter()

    def prequential(self, event: EditEvent) -> float:
        """1 if it preferred the edited text before it saw the answer, 0 if not, one half for a tie. Then it learns."""
        difference = _counts(event.edited)
        difference.subtract(_counts(event.proposed))
        score = sum(self._weights[word] * count for word, count in difference.items())
        if score <= 0:
            self._weights.update(difference)
        return 0.5 if score == 0 else float(score > 0)


def longer_wins(event: EditEvent) -> float:
    """1 where the edited text is the longer one in characters, 0 where it is shorter, one half for equal lengths."""
    if len(event.edited) == len(event.proposed):
        return 0.5
    return float(len(event.edited) > len(event.proposed))


def _counts(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+|[^\w\s]", text.lower()))
