"""Drafts of many users' adapters in one batch, and likelihoods of texts under them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from corlld.adapters.layout import AdapterTensors
from corlld.learning.model.resident import ResidentModel
from corlld.learning.model.stacked_lora import StackedAdapters
from corlld.simulation.language.grammar import SENTENCES, Prompt, Words, words_in
from corlld.simulation.language.pretraining import END, FIRST_WORD, PROMPT_TOKENS, TOKENS, prompt_ids

MOST_WORDS = 8  # of a draft: three more words than a sentence has places


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafted text. truncated: it had not ended after `MOST_WORDS`."""

    words: Words
    truncated: bool


@torch.inference_mode()
def sample(
    resident: ResidentModel,
    adapters: Sequence[AdapterTensors | None],
    prompts: Sequence[Sequence[Prompt]],
    rngs: Sequence[np.random.Generator],
) -> list[list[Draft]]:
    """Draw one draft per user and prompt, at temperature 1.

    Args:
        resident: with its injected LoRA.
        adapters: one per user; None: the base model.
        prompts: of each user, equally many.
        rngs: one per user, so that a user's draws do not depend on the other users.
    """
    each = len(prompts[0])
    ids = torch.tensor([prompt_ids(prompt.text) for own in prompts for prompt in own])  # (drafts, tokens)
    draws = torch.from_numpy(np.concatenate([rng.random((each, MOST_WORDS)) for rng in rngs]))
    done = torch.zeros(len(ids), dtype=torch.bool)
    stacked = _stacked(resident, adapters)
    for place in range(MOST_WORDS):
        with resident.lora.bind(stacked, [each * ids.shape[1]] * len(prompts)):
            logits = resident.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, 0]
        bounds = _log_policy(logits).exp().cumsum(-1)
        drawn = torch.searchsorted(bounds, draws[:, place, None] * bounds[:, -1:], right=True)
        ids = torch.cat([ids, drawn], dim=1)
        done |= drawn[:, 0] == END
        if done.all():
            break
    drafts = [_draft(row) for row in ids[:, PROMPT_TOKENS:].tolist()]
    return [drafts[start : start + each] for start in range(0, len(drafts), each)]


@torch.inference_mode()
def log_likelihoods(
    resident: ResidentModel,
    adapters: Sequence[AdapterTensors | None],
    prompts: Sequence[Sequence[Prompt]],
    texts: Sequence[Sequence[Words]],
) -> npt.NDArray[np.float64]:
    """Return log pi of whole texts in nats, (users, texts). The end counts, except after `MOST_WORDS`."""
    each = len(prompts[0])
    pairs = [pair for own in zip(prompts, texts, strict=True) for pair in zip(*own, strict=True)]
    rows = [[*prompt_ids(prompt.text), *_ids(words)] for prompt, words in pairs]
    longest = max(map(len, rows))
    ids = torch.tensor(
        [row + [0] * (longest - len(row)) for row in rows]
    )  # the padding comes last: no token attends to it
    with resident.lora.bind(_stacked(resident, adapters), [each * longest] * len(prompts)):
        logits = resident.model(input_ids=ids, use_cache=False).logits[:, PROMPT_TOKENS - 1 : -1]
    targets = ids[:, PROMPT_TOKENS:]
    logps = _log_policy(logits).gather(-1, targets[..., None])[..., 0]
    sums = torch.where(targets > 0, logps, 0.0).sum(1)
    return sums.view(len(prompts), each).numpy()


def base_policy(resident: ResidentModel, prompts: Sequence[Prompt]) -> npt.NDArray[np.float64]:
    """Return log pi_0 of every sentence in the order of the grammar, (prompts, sentences)."""
    texts = [words_in(places) for places in SENTENCES]
    found = np.empty((len(prompts), len(texts)))
    for number, prompt in enumerate(prompts):
        found[number] = log_likelihoods(resident, [None], [[prompt] * len(texts)], [texts])[0]
    return found


def _stacked(resident: ResidentModel, adapters: Sequence[AdapterTensors | None]) -> StackedAdapters | None:
    if all(own is None for own in adapters):
        return None
    nothing = torch.zeros(resident.layout.size)
    return resident.lora.stack(torch.stack([nothing if own is None else own.weights for own in adapters]))


_WRITTEN = torch.tensor([number == END or number >= FIRST_WORD for number in range(len(TOKENS))])


def _log_policy(logits: torch.Tensor) -> torch.Tensor:
    """Return log pi of the next token, where only words and the end are possible."""
    return logits.double().masked_fill(~_WRITTEN, float("-inf")).log_softmax(-1)


def _ids(words: Words) -> list[int]:
    return [FIRST_WORD + word for word in words] + ([END] if len(words) < MOST_WORDS else [])


def _draft(ids: list[int]) -> Draft:
    end = ids.index(END) if END in ids else len(ids)
    return Draft(tuple(number - FIRST_WORD for number in ids[:end]), truncated=end == len(ids))
