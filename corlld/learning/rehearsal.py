"""Plain text that is rehearsed at each step, so that an adapter that learns its user's edits forgets little else.

Experience replay as in continual learning, of text that is nobody's. Its loss is a hinge on the base model's own
likelihood: it asks for nothing where nothing was forgotten, and never teaches the passages themselves.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corlld.errors import ConfigurationError
from corlld.learning.pairs import PreferencePair
from corlld.settings import LearningSettings

GIVEN_TOKENS = 8  # of a passage: context, not scored
SCORED_TOKENS = 64  # at most; what follows is left out, for a step to cost about the same with any passages
PLAIN_ENGLISH = Path(__file__).with_name("plain_english.txt")
_EMPTY_LINES = re.compile(r"\n\s*\n")  # spaces in one can't be seen


def passages(learning: LearningSettings) -> tuple[str, ...]:
    """What the settings have rehearsed; empty where that is nothing. Raises ConfigurationError, see below."""
    return read_passages(learning.rehearsal_path or PLAIN_ENGLISH) if learning.rehearsal_weight else ()


def rehearsals(learning: LearningSettings, tokenizer: Any) -> tuple[PreferencePair, ...]:
    """The `passages`, tokenised. Raises ConfigurationError, see below."""
    return rehearsal_pairs(tokenizer, passages(learning))


def read_passages(path: Path) -> tuple[str, ...]:
    """A file's passages, which empty lines divide; line breaks within one are spaces.

    Raises:
        ConfigurationError: it can't be read, is not UTF-8, or has no passage.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"learning.rehearsal_path: {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"learning.rehearsal_path: {path} is not UTF-8 text") from None
    passages = tuple(" ".join(part.split()) for part in _EMPTY_LINES.split(text) if part.strip())
    if not passages:
        raise ConfigurationError(f"learning.rehearsal_path: {path} has no passage")
    return passages


def rehearsal_pairs(tokenizer: Any, passages: Sequence[str]) -> tuple[PreferencePair, ...]:
    """Each passage as something to score: its first `GIVEN_TOKENS` tokens are given, up to `SCORED_TOKENS` follow.

    Raises:
        ConfigurationError: a passage has no token more than those that are given.
    """
    pairs = []
    for number, passage in enumerate(passages, 1):
        ids = tuple(tokenizer(passage)["input_ids"])
        if len(ids) <= GIVEN_TOKENS:
            raise ConfigurationError(
                f"learning.rehearsal_path: passage {number} has {len(ids)} tokens, needed: more than {GIVEN_TOKENS}"
            )
        pairs.append(PreferencePair(ids[:GIVEN_TOKENS], ids[GIVEN_TOKENS:][:SCORED_TOKENS], ()))
    return tuple(pairs)
