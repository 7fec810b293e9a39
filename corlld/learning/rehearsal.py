"""Rehearsal: at each step a passage of plain text, so that an adapter that learns its user's edits forgets little else.

This is experience replay as in continual learning, of text that is nobody's. The loss is a hinge on the base model's
own likelihood: it is 0 if nothing was forgotten, and never teaches the passages themselves.
"""

import math

from corlld.errors import ConfigurationError
from corlld.learning.model.packing import Item
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.learning.objective import PairSums, Sums
from corlld.learning.passages import passages
from corlld.learning.slots import is_out_of_memory
from corlld.learning.user_step import Candidate
from corlld.settings.sections import LearningSettings

GIVEN_TOKENS = 8  # at the beginning of a passage: its prompt, not scored
SCORED_TOKENS = 64  # at most. The rest is left out, so that a step costs about the same with any passages.


def rehearsals(learning: LearningSettings, resident: ResidentModel) -> tuple[Candidate, ...]:
    """Return the settings' passages as candidates whose `base` is known.

    The first `GIVEN_TOKENS` tokens of each are given, and up to `SCORED_TOKENS` are scored.

    Raises:
        ConfigurationError: the passages can't be read, or one can't be scored, or the device has no room for it.
    """
    return tuple(
        _rehearsal(learning, resident, number, text) for number, text in enumerate(passages(learning), start=1)
    )


def _rehearsal(learning: LearningSettings, resident: ResidentModel, number: int, text: str) -> Candidate:
    ids = tuple(resident.tokenizer(text)["input_ids"])[: resident.max_positions][: GIVEN_TOKENS + SCORED_TOKENS]
    if len(ids) <= GIVEN_TOKENS:
        raise _refused(learning, f"passage {number} has {len(ids)} tokens, needed: more than {GIVEN_TOKENS}")
    if max(ids) >= resident.vocabulary:
        raise _refused(learning, f"passage {number} has a token that the model has no embedding for")
    pair = PreferencePair(ids[:GIVEN_TOKENS], ids[GIVEN_TOKENS:], ())
    base = _base_sums(resident, pair)
    if not math.isfinite(base.chosen):
        # No step beside it would be finite, and its turn would never pass.
        raise _refused(learning, f"passage {number} has a log-probability under the base model that is not finite")
    return Candidate(pair, base=PairSums(base, base), rehearsed=True)


def _base_sums(resident: ResidentModel, pair: PreferencePair) -> Sums:
    """Score the passage in a row of its own: then the sums are the same to the bit at every start."""
    row = resident.collator.row([Item(0, pair)], [0], users=1)
    try:
        chosen, rejected = row.sums(resident.scored(row, None))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigurationError(
            f"model.device: {resident.device} has no room for a passage of {pair.tokens} tokens beside the model; a "
            "smaller adapter.device_slots leaves more"
        ) from error
    return Sums(float(chosen), float(rejected))


def _refused(learning: LearningSettings, problem: str) -> ConfigurationError:
    if learning.rehearsal_path is None:
        return ConfigurationError(
            f"learning.rehearsal_weight: corlld's own {problem}; set learning.rehearsal_path, or "
            "learning.rehearsal_weight = 0"
        )
    return ConfigurationError(f"learning.rehearsal_path: {problem}; change it, or leave it out")
