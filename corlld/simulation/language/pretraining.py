"""Training of the small transformer that speaks the language. It takes half a minute, before there is any user."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from corlld.simulation.language.grammar import ADDRESSEES, COLON, PROMPTS, WORDS, Corpus
from corlld.simulation.language.users import seeded

PAD, BOS, EOS, UNKNOWN = SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
TOKENS = (*SPECIALS, COLON, *ADDRESSEES, *WORDS)
FIRST_WORD = len(TOKENS) - len(WORDS)  # id of the word whose number is 0
END = TOKENS.index(EOS)
PROMPT_TOKENS = 4  # bos, addressee, noun, colon

_BATCH = 128
_LR = 3e-3


def pretrain(folder: Path, *, steps: int, seed: int = 0) -> Path:
    """Train a Llama of two layers on the language, and save it with its tokenizer for `load_resident_model`.

    Args:
        folder: made if it is missing.
        steps: of AdamW, with 128 texts each.
        seed: of the manners of the language, the texts and the weights.

    Returns:
        The folder.
    """
    rng = seeded("corpus", seed)
    corpus = Corpus(rng)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=steps)
    for _ in range(steps):
        ids = _texts(corpus, rng)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits[:, PROMPT_TOKENS - 1 :]
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, PROMPT_TOKENS:].flatten(), ignore_index=0)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    transformers.utils.logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _texts(corpus: Corpus, rng: np.random.Generator) -> torch.Tensor:
    """Return prompts and sentences with their end, padded on the right, (texts, tokens)."""
    rows = []
    for number in rng.integers(len(PROMPTS), size=_BATCH):
        prompt = PROMPTS[number]
        rows.append([*prompt_ids(prompt.text), *(FIRST_WORD + word for word in corpus.text(prompt, rng)), END])
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


def prompt_ids(text: str) -> list[int]:
    """Return the prompt's ids, as the tokenizer makes them."""
    return [TOKENS.index(BOS), *map(TOKENS.index, text.split())]


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(TOKENS),
        pad_token_id=TOKENS.index(PAD),
        bos_token_id=TOKENS.index(BOS),
        eos_token_id=END,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary: dict[str, int] = {token: number for number, token in enumerate(TOKENS)}
    raw: Any = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN)
