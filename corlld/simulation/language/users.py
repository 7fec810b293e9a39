"""Users of the language: a hidden utility over all sentences, and their answers to drafts. Pure."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from corlld.simulation.language.grammar import (
    ADDRESSEES,
    ENDINGS,
    KINDS,
    NOUN,
    NUMBER_OF_PROMPT,
    NUMBERS,
    PROMPTS,
    SENTENCES,
    VERB,
    WORDS,
    Parsed,
    Prompt,
    Words,
    agrees,
    parse,
    words_in,
    words_of,
)

Harm = Literal["scaled", "unscaled"]
Floats = npt.NDArray[np.float64]

_BY_ADDRESSEE = 0.5  # weight of the wishes that depend on the addressee; the others have weight 1
_ON_TOPIC = 2.0
_DISAGREES = 1.0  # what a verb of the wrong gender costs
_MISSING = 2.0  # what a missing noun or verb costs
_MISPLACED = 1.0  # what a misplaced word costs
_COLUMNS = np.ascontiguousarray(SENTENCES.T.astype(np.int8))  # (KINDS, sentences)
_NOTHING = 1e-9  # smaller gaps are rounding errors


def seeded(*names: object) -> np.random.Generator:
    """Return a random generator for these names. It is the same in every process."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


class Utility:
    """U(x, y) of one user: 1 for the best sentence of each prompt, 0 for the worst. A text with faults may have less.

    of_sentences: U of all sentences, (prompts, sentences), in the order of `PROMPTS` and `SENTENCES`.

    Args:
        seed: of the user.
    """

    def __init__(self, seed: int) -> None:
        rng = seeded("wishes", seed)
        common = rng.standard_normal(NUMBERS)
        self._values = common + _BY_ADDRESSEE * rng.standard_normal((len(ADDRESSEES), NUMBERS))
        verbs = list(words_of(VERB))
        self._values[:, verbs] = np.repeat(self._values[:, verbs[:: len(ENDINGS)]], len(ENDINGS), axis=1)
        self._values[:, list(words_of(NOUN))] = 0.0
        self._values[:, [len(WORDS) + NOUN, len(WORDS) + VERB]] = -_MISSING

        raw = np.stack([self._raw(prompt, SENTENCES) for prompt in PROMPTS])
        self._low, self._high = raw.min(1), raw.max(1)
        self.of_sentences: Floats = (raw - self._low[:, None]) / (self._high - self._low)[:, None]

    def of(self, prompt: Prompt, parsed: Parsed) -> float:
        """Return U of any words."""
        places = parsed.places
        raw = float(self._raw(prompt, np.array([places]))[0]) - _MISPLACED * parsed.misplaced
        if max(places[NOUN], places[VERB]) < len(WORDS) and not agrees(places[NOUN], places[VERB]):
            raw -= _DISAGREES
        number = NUMBER_OF_PROMPT[prompt]
        return float((raw - self._low[number]) / (self._high[number] - self._low[number]))

    def _raw(self, prompt: Prompt, places: npt.NDArray[np.int64]) -> Floats:
        """Return the utility of texts before it is scaled to 0..1, (texts,). places: (texts, KINDS)."""
        values: Floats = self._values[prompt.addressee][places].sum(1) + _ON_TOPIC * (places[:, NOUN] == prompt.noun)
        return values


@dataclass(frozen=True, slots=True)
class Answer:
    """A user's answer to one draft or to two.

    rejected, chosen: the worse and the better text, as the user says; equal if the user prefers neither.
    gap: U(best sentence) - U(rejected). gain: U(chosen) - U(rejected); below 0 the answer harms.
    """

    rejected: Words
    chosen: Words
    gap: float
    gain: float


@dataclass(frozen=True, slots=True)
class User:
    """A user who changes as little as closes a share of the gap, and who sometimes does harm instead.

    alpha: the share, 0 to 1. harm_rate: chance that an answer harms. harm: what a harmful edit loses. "scaled": alpha
        times the gap, so nothing if nothing is left to gain. "unscaled": alpha times U(draft), which is what there is
        to lose.
    """

    utility: Utility
    alpha: float
    harm_rate: float
    harm: Harm

    def edit(self, prompt: Prompt, draft: Words, rng: np.random.Generator) -> Answer:
        """Edit a draft with the fewest words replaced, put in or taken out.

        Of several such edits the user takes that with the least gain, or the least harm. Every edit takes misplaced
        words out. A draft that can't be made better (or worse, for a harmful edit) is accepted.
        """
        harms = rng.random() < self.harm_rate
        parsed = parse(draft)
        now = self.utility.of(prompt, parsed)
        gains = self.utility.of_sentences[NUMBER_OF_PROMPT[prompt]] - now
        gap = float(gains.max())
        if harms:
            wanted = self.alpha * (gap if self.harm == "scaled" else now)
            fitting, size = gains <= -wanted + _NOTHING, -gains
        else:
            wanted = self.alpha * gap
            fitting, size = gains >= wanted - _NOTHING, gains
        if wanted <= _NOTHING or not fitting.any():
            return Answer(draft, draft, gap, 0.0)
        possible = np.flatnonzero(fitting)
        changes = sum(_COLUMNS[kind][possible] != parsed.places[kind] for kind in range(KINDS))
        best = int(possible[(changes * 10.0 + size[possible]).argmin()])  # no gain is as large as 10
        return Answer(draft, words_in(SENTENCES[best]), gap, float(gains[best]))

    def prefer(self, prompt: Prompt, first: Words, second: Words, rng: np.random.Generator) -> Answer:
        """Prefer the better of two drafts, or the worse if the answer harms."""
        harms = rng.random() < self.harm_rate
        values = [self.utility.of(prompt, parse(words)) for words in (first, second)]
        (low, worse), (high, better) = sorted(zip(values, (first, second), strict=True), key=lambda pair: pair[0])
        if high - low <= _NOTHING:
            return Answer(first, first, 1 - low, 0.0)
        return Answer(better, worse, 1 - high, low - high) if harms else Answer(worse, better, 1 - low, high - low)
