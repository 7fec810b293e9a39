"""Texts as token ids that continue a context, with control tokens only where they are meant.

Many tokenizers begin every text with a space that nobody wrote (Llama 2, Mistral, Phi-3: "Sales" becomes `▁Sales`).
That is right where a text begins, and wrong in its middle: a model that goes on behind a line break writes `Sales`.
So texts are encoded by two copies of the tokenizer, made once, which share its vocabulary:

    beginning    as the tokenizer is. For contexts.
    continuing   puts nothing in front of a text, and cuts no white space off. For responses.

In both, a control token is known by its nonce alone (see `control_tokens`).
"""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer

from corlld.learning.model.control_tokens import ControlTokens

# These split at white space and forget it; decoders write a space between all words. Metaspace keeps it.
_FORGETS_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_KEEPS_SPACES = {"Metaspace"}


class ContinuationEncoder:
    """Encodes texts with one tokenizer.

    Args:
        tokenizer: a transformers tokenizer with a backend of the package `tokenizers`.
        control: its control tokens.

    Raises:
        ValueError: a copy would have other ids.
    """

    def __init__(self, tokenizer: Any, control: ControlTokens) -> None:
        self._tokenizer = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._unknown: int | None = tokenizer.unk_token_id
        self._texts = {index: text for text, index in control.ids.items()}
        self._beginning = _copy(self._backend, control, continuing=False)
        self._continuing = _copy(self._backend, control, continuing=True)
        self._meant = _meant(self._continuing, self._backend, control)
        self._spelled: dict[int, tuple[int, ...]] = {}
        kinds = _kinds(_state(self._backend.pre_tokenizer))
        self._forgets_spaces = bool(kinds & _FORGETS_SPACES) and not kinds & _KEEPS_SPACES
        # The decoder of a tokenizer that begins texts with a space takes a space off the beginning of a text.
        self._first = " " if self.decode(self.part(" a")) == "a" else ""

    def conversation(self, text: str) -> tuple[int, ...]:
        """Return the ids of a rendered conversation that `ControlTokens.reveal` made. No token is added."""
        text = _well_formed(text)
        return self._ids(self._beginning.encode(text, add_special_tokens=False), text)

    def prompt(self, text: str, *, special_tokens: bool) -> tuple[int, ...]:
        """Return the ids of a prompt, with the tokens that the tokenizer adds to texts.

        special_tokens: a control token that is written in the prompt is one. Otherwise its characters are plain.
        """
        if special_tokens:
            return tuple(self._tokenizer(_well_formed(text))["input_ids"])
        text = _well_formed(text)
        return self._ids(self._beginning.encode(text), text)

    def response(self, text: str, context: Sequence[int]) -> tuple[int, ...]:
        """Return the ids with decode(context + ids) = decode(context) + text. Its characters are plain.

        If engines show nothing of the context, a response is the beginning of a text: there the decoder drops the space
        that many tokenizers begin texts with, so it is written.
        """
        begins = all(index in self._texts for index in context) and not self.decode(context)
        return self.part(self._first + text if begins and text else text)

    def part(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text in the middle of another. Control tokens are known by their nonces."""
        text = _well_formed(text)
        return self._ids(self._continuing.encode(text, add_special_tokens=False), text)

    def has_control(self, ids: Sequence[int]) -> bool:
        """Return whether one of the ids is a control token, such as that for unknown characters."""
        return any(index in self._texts for index in ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids as engines return it, without special tokens."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def can_tell_apart(self, one: str, other: str) -> bool:
        """Return whether the tokenizer keeps the difference between two texts. Some write all letters small, say."""
        return self._kept(one) != self._kept(other)

    def _kept(self, text: str) -> str:
        if self._continuing.normalizer is not None:
            text = self._continuing.normalizer.normalize_str(text)
        return "".join(text.split()) if self._forgets_spaces else text

    def _ids(self, encoding: Encoding, text: str) -> tuple[int, ...]:
        """Return the tokenizer's ids for a copy's encoding of `text`. Tokens that it added to the text are kept."""
        ids: list[int] = []
        for index, (start, end), added in zip(
            encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True
        ):
            if added:
                ids.append(index)
            elif index in self._meant:
                ids.append(self._meant[index])
            # The token for unknown characters also stands for its own characters, if the model makes it of them.
            elif index in self._texts and (index != self._unknown or text[start:end] == self._texts[index]):
                ids += self._spell(index)
            else:
                ids.append(index)
        return tuple(ids)

    def _spell(self, control: int) -> tuple[int, ...]:
        """Return the ids of a control token's characters, each by itself.

        Unigram models, and some merges, make a control token of its plain characters.
        """
        if control not in self._spelled:
            characters = self._continuing.encode_batch(list(self._texts[control]), add_special_tokens=False)
            self._spelled[control] = tuple(index for character in characters for index in character.ids)
        return self._spelled[control]


def _copy(backend: Tokenizer, control: ControlTokens, *, continuing: bool) -> Tokenizer:
    """Return a tokenizer with the same model, and with nonces in place of control tokens."""
    copy = Tokenizer(backend.model)
    if continuing:
        copy.normalizer, copy.pre_tokenizer = _parts(
            _without_beginning(_state(backend.normalizer)), _without_beginning(_state(backend.pre_tokenizer))
        )
    else:
        copy.normalizer, copy.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    copy.post_processor = backend.post_processor
    # Tokens that the vocabulary lacks get their ids in this order.
    added = sorted(backend.get_added_tokens_decoder().items())
    copy.add_tokens([_renamed(token, control.nonces.get(token.content, token.content)) for _, token in added])
    return copy


def _renamed(token: AddedToken, content: str) -> AddedToken:
    return AddedToken(
        content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=False,
    )


def _meant(copy: Tokenizer, backend: Tokenizer, control: ControlTokens) -> dict[int, int]:
    """Return the tokenizer's ids by the copy's ids, for all added tokens."""
    meant = {}
    for index, token in backend.get_added_tokens_decoder().items():
        own = copy.token_to_id(control.nonces.get(token.content, token.content))
        if own is None or (own != index and copy.model.id_to_token(own) is not None):
            raise ValueError(f"the id of the added token {token.content!r} can't be copied")
        meant[own] = index
    return meant


def _state(part: Any) -> Any:
    """Return a normalizer or a pre-tokenizer as JSON."""
    return None if part is None else json.loads(part.__getstate__())


def _parts(normalizer: Any, pre_tokenizer: Any) -> tuple[Any, Any]:
    """Return both as the package's objects. It reads JSON of whole tokenizers only."""
    whole = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    made = Tokenizer.from_str(json.dumps(whole))
    return made.normalizer, made.pre_tokenizer


def _without_beginning(part: Any) -> Any:
    """Return the part without what it does to the beginning and the end of a text; None if nothing is left."""
    if part is None or part["type"] in {"Prepend", "Strip"}:
        return None
    if part["type"] == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        left = [own for own in map(_without_beginning, part[key]) if own is not None]
        return {**part, key: left} if left else None
    never = {"prepend_scheme": "never", "add_prefix_space": False}
    return part | {key: value for key, value in never.items() if key in part}


def _kinds(part: Any) -> set[str]:
    """Return the types of a pre-tokenizer and of those that it consists of."""
    if part is None:
        return set()
    return {part["type"]}.union(*map(_kinds, part.get("pretokenizers", ())))


def _well_formed(text: str) -> str:
    """Replace halves of surrogate pairs: JSON can hold them, but no tokenizer takes them."""
    return text.encode("utf-8", "replace").decode("utf-8")
