"""Control tokens, and texts in which users' words can't become any.

A control token is written by the tokenizer or by the chat template (`</s>`, `<|im_end|>`), and engines never return it
as text. So if a user writes these characters, they are plain characters. A text for the tokenizer is made in two steps:

    disguise   before the template is rendered: in users' words, characters that could begin a control token become
               digits, which no template changes
    reveal     in the rendered text: control tokens that are left are the template's own, and become their nonces;
               then the disguised characters come back

Digits and nonces are drawn by chance at each start, so that nobody can write them.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

_RANDOM_DIGITS = 20
_HEAD = 3  # characters by which a search passes over most of what begins like a control token: `<p>`, `</p>`


def _random_digits() -> str:
    return str(10**_RANDOM_DIGITS + secrets.randbelow(10**_RANDOM_DIGITS))


def _any_of(characters: set[str]) -> re.Pattern[str]:
    return re.compile("[" + "".join(re.escape(character) for character in sorted(characters)) + "]")


class ControlTokens:
    """The control tokens of one tokenizer.

    Args:
        ids: their ids by their text, at least one; no text is empty.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = dict(ids)
        self._lengths = sorted({len(text) for text in ids}, reverse=True)
        firsts, lasts = {text[0] for text in ids}, {text[-1] for text in ids}
        self._first = _any_of(firsts)
        self._first_or_last = _any_of(firsts | lasts)
        heads = sorted({text[:_HEAD] for text in ids})
        self._beginning = re.compile("|".join(f"{re.escape(head[0])}(?={re.escape(head[1:])})" for head in heads))
        self._heads = {text[:length] for text in ids for length in range(1, len(text))}
        self._tails = {text[start:] for text in ids for start in range(1, len(text))}
        self._mark = _random_digits()
        self._marked = re.compile(self._mark + "([0-9]{7})")
        nonce = _random_digits()
        self.nonces = {text: f"{nonce}{index:07d}" for text, index in ids.items()}

    def find(self, text: str) -> Iterator[str]:
        """Yield the control tokens in a text, as the tokenizer finds them: from left to right, the longest first."""
        for part in self._parts(text):
            if part in self.ids:
                yield part

    def disguise(self, words: Any, *, every: bool = False) -> Any:
        """Return users' words (a text, or a list or object of texts, at any depth) with no control token in them.

        A text that begins or ends within a control token is disguised too, since a template may join texts, and trim
        them before.

        Args:
            words: as JSON has it. Numbers and the like stay as they are.
            every: disguise all characters that any control token begins with.
        """
        if isinstance(words, str):
            if not self._first_or_last.search(words):  # so no token, no head and no tail of any: most texts of tools
                return words
            if every:
                places = {match.start() for match in self._first.finditer(words)}
            else:
                found = (match.start() for match in self._beginning.finditer(words))
                places = {place for place in found if self._length(words, place)}
            return self._disguised(words, places | self._edges(words))
        if isinstance(words, Mapping):
            return {self.disguise(k, every=every): self.disguise(v, every=every) for k, v in words.items()}
        if isinstance(words, list | tuple):
            return [self.disguise(word, every=every) for word in words]
        return words

    def reveal(self, text: str) -> str:
        """Return a text with nonces for its control tokens, and its disguised characters as they were."""
        marked = "".join(self.nonces.get(part, part) for part in self._parts(text))
        return self._marked.sub(lambda match: chr(int(match[1])), marked)

    def _parts(self, text: str) -> Iterator[str]:
        """Yield the text in parts: control tokens, and what is between them."""
        done = 0
        for match in self._beginning.finditer(text):
            start = match.start()
            if start >= done and (length := self._length(text, start)):
                yield text[done:start]
                yield text[start : start + length]
                done = start + length
        yield text[done:]

    def _length(self, text: str, start: int) -> int:
        """Return the length of the longest control token that begins there; 0 if none does."""
        return next((length for length in self._lengths if text[start : start + length] in self.ids), 0)

    def _edges(self, text: str) -> set[int]:
        """Return the places at the text's edges whose characters could be a part of a control token."""
        begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
        lengths = range(1, min(self._lengths[0], end - begin + 1))
        places = {end - length for length in lengths if text[end - length : end] in self._heads}
        if any(text[begin : begin + length] in self._tails for length in lengths):
            places.add(begin)
        return places

    def _disguised(self, text: str, places: set[int]) -> str:
        parts, done = [], 0
        for place in sorted(places):
            parts += [text[done:place], f"{self._mark}{ord(text[place]):07d}"]
            done = place + 1
        return "".join([*parts, text[done:]]) if places else text
