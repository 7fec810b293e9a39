"""Simple rules to compare a learner's accuracy with: without them it means nothing. Pure."""

import re
from collections import Counter

from corlld.records import EditEvent


class WordCountPerceptron:
    """Online perceptron on differences of word counts. It prefers the text with the larger w . counts."""

    def __init__(self) -> None:
        self._weights: Counter[str] = Counter()

    def prequential(self, event: EditEvent) -> float:
        """Return 1 if it prefers the edited text, 0 if not, 0.5 for a tie; then learn from the event."""
        difference = _counts(event.edited)
        difference.subtract(_counts(event.proposed))
        score = sum(self._weights[word] * count for word, count in difference.items())
        if score <= 0:
            self._weights.update(difference)
        return 0.5 if score == 0 else float(score > 0)


def longer_wins(event: EditEvent) -> float:
    """Return 1 if the edited text has more characters, 0 if it has fewer, 0.5 for equal lengths."""
    if len(event.edited) == len(event.proposed):
        return 0.5
    return float(len(event.edited) > len(event.proposed))


def _counts(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+|[^\w\s]", text.lower()))
