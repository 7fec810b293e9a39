"""The language: a sentence has a place for each of five kinds of words; its prompt names an addressee and the noun.

    prompt     ana wek :            (addressee, noun)
    sentence   sef sui wek nova tul (greeting?, adjective?, noun, verb that agrees with the noun, closing?)

The language is so small that all sentences can be listed. So the best text for a user and the probability of any text
are computed, not estimated. Pure.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Words = tuple[int, ...]  # each word by its number in `WORDS`

ADDRESSEES = ("ana", "bor", "cel", "dov")
GREETINGS = ("sef", "oma", "ruk", "tiv", "yel")
ADJECTIVES = ("sui", "fen", "lom", "gra", "hib", "pau")
NOUNS = ("wek", "zon", "mir", "kul", "dax", "jot")  # the first half has the first gender, the rest the second
STEMS = ("nov", "pel", "bri", "sok", "tam", "vur")
ENDINGS = ("a", "o")  # of a verb, by its noun's gender
CLOSINGS = ("tul", "eff", "iri", "quo", "nam")
COLON = ":"

KINDS = 5  # of words in a sentence, in this order: greeting, adjective, noun, verb, closing
GREETING, ADJECTIVE, NOUN, VERB, CLOSING = range(KINDS)
_VERBS = tuple(stem + ending for stem in STEMS for ending in ENDINGS)
_OF_KIND = (GREETINGS, ADJECTIVES, NOUNS, _VERBS, CLOSINGS)
WORDS = tuple(itertools.chain(*_OF_KIND))
KIND = tuple(kind for kind, words in enumerate(_OF_KIND) for _ in words)  # of each word
_FIRST = tuple(itertools.accumulate(map(len, _OF_KIND), initial=0))
_NUMBER = {word: number for number, word in enumerate(WORDS)}

# An empty place has a number too, another for each kind, so that a sentence is always five numbers.
EMPTY = tuple(len(WORDS) + kind for kind in range(KINDS))
NUMBERS = len(WORDS) + KINDS
OPTIONAL = (GREETING, ADJECTIVE, CLOSING)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt. addressee: its number. noun: number of the word that the sentence has to be about."""

    addressee: int
    noun: int

    @property
    def text(self) -> str:
        return f"{ADDRESSEES[self.addressee]} {WORDS[self.noun]} {COLON}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """Any words, read as a sentence.

    places: the word of each kind, or its `EMPTY`. misplaced: number of words without a place: a second word of a kind,
    or a word that comes too late.
    """

    places: tuple[int, ...]
    misplaced: int


def words_of(kind: int) -> range:
    """Return the numbers of all words of a kind."""
    return range(_FIRST[kind], _FIRST[kind + 1])


def agrees(noun: int, verb: int) -> bool:
    gender = int(noun - _FIRST[NOUN] >= len(NOUNS) // 2)
    return (verb - _FIRST[VERB]) % len(ENDINGS) == gender


def stem_of(verb: int) -> int:
    """Return the number of a verb's stem, from 0."""
    return (verb - _FIRST[VERB]) // len(ENDINGS)


def parse(words: Words) -> Parsed:
    places = list(EMPTY)
    last = -1
    misplaced = 0
    for word in words:
        if KIND[word] > last:
            last = KIND[word]
            places[last] = word
        else:
            misplaced += 1
    return Parsed(tuple(places), misplaced)


def is_sentence(parsed: Parsed) -> bool:
    """Return whether the words are a sentence without a fault."""
    noun, verb = parsed.places[NOUN], parsed.places[VERB]
    return not parsed.misplaced and noun < len(WORDS) and verb < len(WORDS) and agrees(noun, verb)


def words_in(places: Sequence[int]) -> Words:
    return tuple(int(number) for number in places if number < len(WORDS))


def text_of(words: Words) -> str:
    return " ".join(WORDS[word] for word in words)


def _choices(kind: int) -> list[int]:
    return [*words_of(kind), *([EMPTY[kind]] if kind in OPTIONAL else [])]


def _sentences() -> Iterator[tuple[int, ...]]:
    for places in itertools.product(*map(_choices, range(KINDS))):
        if agrees(places[NOUN], places[VERB]):
            yield places


PROMPTS = tuple(Prompt(addressee, noun) for addressee in range(len(ADDRESSEES)) for noun in words_of(NOUN))
SENTENCES: npt.NDArray[np.int64] = np.array(list(_sentences()))  # (sentences, KINDS)
NUMBER_OF_PROMPT = {prompt: number for number, prompt in enumerate(PROMPTS)}

_OFF_TOPIC = 0.1  # share of the sentences whose noun is drawn, and so may be another than the prompt's


class Corpus:
    """The texts for pretraining: what people wrote before there was any user. Each addressee has a manner of its own.

    Args:
        rng: draws the manners.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._shares = [[_shares(rng, len(_choices(kind))) for kind in range(KINDS)] for _ in ADDRESSEES]

    def text(self, prompt: Prompt, rng: np.random.Generator) -> Words:
        """Return a sentence for the prompt."""
        places = [int(rng.choice(_choices(kind), p=share)) for kind, share in enumerate(self._shares[prompt.addressee])]
        if rng.random() >= _OFF_TOPIC:
            places[NOUN] = prompt.noun
        stem = _FIRST[VERB] + len(ENDINGS) * stem_of(places[VERB])
        places[VERB] = next(verb for verb in range(stem, stem + len(ENDINGS)) if agrees(places[NOUN], verb))
        return words_in(places)


def _shares(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    weights = np.exp(0.7 * rng.standard_normal(count))
    return np.asarray(weights / weights.sum())
