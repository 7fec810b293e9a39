"""The resident base model: frozen, with LoRA injected, and checked to score rows as plain texts."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch

from corlld.adapters.layout import AdapterLayout
from corlld.durable import ModelInfo, ModuleNames
from corlld.errors import ConfigurationError
from corlld.learning.model.adapted_modules import AdaptedModules, adapt_modules, sample_ids
from corlld.learning.model.attention import SegmentAttention
from corlld.learning.model.checkpointing import checkpoint_layers
from corlld.learning.model.gates import fuse_gates
from corlld.learning.model.norms import fuse_norms
from corlld.learning.model.packing import Collator, Item, Row
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.positions import ServedPositions, longest_text, served_positions
from corlld.learning.model.stacked_lora import StackedAdapters, StackedLora
from corlld.learning.model.vocabulary import VocabularyHead
from corlld.settings.sections import AdapterSettings

# Largest relative difference between a packed row and two plain ones; a wrong mask or position is off by far more.
_CHECK_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}

_CHECK_TAIL = 4  # tokens
_CHECK_LONGER = 3  # times the short prompt


@dataclass(frozen=True, eq=False)
class ResidentModel:
    """The base model and what belongs to it.

    model: in eval mode, every parameter frozen.
    adapted: which modules carry LoRA, and why others don't.
    head: the model's own output layer.
    attention: None if the model's own is used, for padded rows.
    max_positions: tokens of the longest text, see `positions`; None if the model names no limit.
    vocabulary: how many ids the model has an embedding for; some tokenizers know more.
    """

    model: Any
    tokenizer: Any
    lora: StackedLora
    adapted: AdaptedModules
    head: VocabularyHead
    attention: SegmentAttention | None
    collator: Collator
    info: ModelInfo
    device: torch.device
    max_positions: int | None
    vocabulary: int

    @property
    def layout(self) -> AdapterLayout:
        return self.lora.layout

    @property
    def stops(self) -> frozenset[int]:
        """The ids at which generation stops, by the model's `generation_config.json`, or else by its config."""
        config = self.model.generation_config  # None for a class that can't generate by itself
        named = None if config is None else config.eos_token_id
        return frozenset(named if isinstance(named, list) else () if named is None else (named,))

    @property
    def served_positions(self) -> list[ServedPositions]:
        """What the engine must do to compute the same positions."""
        return served_positions(self.model.config.get_text_config())

    @contextlib.contextmanager
    def bound(self, row: Row, adapters: StackedAdapters | None) -> Iterator[None]:
        """Run the row's passes inside, forward and backward. With `adapters` None they are the base model's alone."""
        with contextlib.ExitStack() as bound:
            if self.attention is not None:
                bound.enter_context(self.attention.bind(row.segments))
            bound.enter_context(self.lora.bind(adapters, row.users))
            yield

    def token_logps(self, row: Row) -> torch.Tensor:
        """Return log pi of each tail token in nats, shape (N,), float32 (float64 for a float64 model).

        `row` must be bound. The vocabulary is computed only where a tail token is predicted.
        """
        positions = {} if row.position_ids is None else {"position_ids": row.position_ids}
        hidden = decoder_of(self.model)(input_ids=row.input_ids, use_cache=False, **positions).last_hidden_state
        # (texts, longest, hidden) -> (U, hidden)
        return self.head.logps(hidden.flatten(0, 1)[row.states], row.predictions)

    @torch.no_grad()
    def scored(self, row: Row, adapters: StackedAdapters | None) -> torch.Tensor:
        """Return `token_logps` without a gradient. Binds the row itself."""
        with self.bound(row, adapters):
            return self.token_logps(row)


def make_resident(
    model: Any,
    tokenizer: Any,
    adapter: AdapterSettings,
    *,
    name: str,
    revision: str,
    checkpointing: bool = False,
    module_names: ModuleNames | None = None,
) -> ResidentModel:
    """Freeze a loaded model on its device, and inject LoRA.

    Args:
        model: a transformers causal language model, on its device; not to be used by anyone else from here on.
        tokenizer: its tokenizer.
        adapter: shape of every user's adapter.
        name: `base_model_name_or_path` of published adapters.
        revision: a name of the model's content.
        checkpointing: compute each layer again in the backward pass, and keep nothing of it.
        module_names: the paths of modules in published adapters; None: as the loaded model has them.

    Raises:
        ConfigurationError: model, tokenizer and settings don't fit each other, or too little can be adapted.
    """
    model.eval()
    model.requires_grad_(False)
    embeddings = model.get_input_embeddings().weight
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id >= embeddings.shape[0]:
        raise ConfigurationError("model.name: the tokenizer has no end-of-text token that the model knows")
    adapted = adapt_modules(model, sample_ids(tokenizer, embeddings.shape[0]), adapter)
    fingerprint = sha256(f"{revision}\0{adapted.layout.fingerprint}".encode()).hexdigest()[:16]
    attention = _prepare(model, checkpointing)
    return ResidentModel(
        model=model,
        tokenizer=tokenizer,
        lora=StackedLora(model, adapted.layout),
        adapted=adapted,
        head=_vocabulary_head(model),
        attention=attention,
        collator=Collator(embeddings.device, shares_prefixes=attention is not None),
        info=ModelInfo(name, revision, fingerprint, bool(tokenizer.chat_template), module_names),
        device=embeddings.device,
        max_positions=longest_text(model.config.get_text_config()),
        vocabulary=embeddings.shape[0],
    )


def _prepare(model: Any, checkpointing: bool) -> SegmentAttention | None:
    """Change the layers for training. Return the attention that they use now; None if they keep their own."""
    attention = None
    if can_share_prefixes(model):
        attention = SegmentAttention()
        model.set_attn_implementation(attention.name)
    fuse_norms(model)
    fuse_gates(model, keep_product=checkpointing)
    if checkpointing:
        checkpoint_layers(model)
    return attention


def decoder_of(model: Any) -> Any:
    """Return the part of a causal language model that computes hidden states: all but the output layer."""
    base = model.base_model
    # A wrapper's language model (Llama 4, Mllama) calls its own base model by the wrapper's word: that finds itself.
    return model.model if base is model else base


def can_share_prefixes(model: Any) -> bool:
    """Return whether two texts can go on from one prompt in the same row.

    They can't if a layer carries a state from token to token, attends in chunks, or computes its attention itself.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    return bool(model._supports_attention_backend) and kinds <= {"full_attention", "sliding_attention"}


def _vocabulary_head(model: Any) -> VocabularyHead:
    config = model.config.get_text_config()
    output = model.get_output_embeddings()
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return VocabularyHead(
        weight=output.weight,
        bias=getattr(output, "bias", None),
        softcap=getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None),
        scale=scale,
    )


@torch.no_grad()
def check_rows(resident: ResidentModel) -> None:
    """Score two users' texts in a row, and each alone by the model's own attention. Refuse a model that differs.

    Such a model ignores positions or segments, attends in a way that is not known here, or computes for a text what
    depends on the longest text in the row.

    Raises:
        ConfigurationError: it does, or a token's probability is no number or depends on the tokens after it.
        Exception: anything that a model or a tokenizer raises which can't do this.
    """
    ids = sample_ids(resident.tokenizer, resident.vocabulary)
    pairs = _check_pairs(ids, resident.max_positions)
    prompt, chosen = pairs[0].prompt, pairs[0].chosen
    other_end = (*chosen[:-1], next(token for token in ids if token != chosen[-1]))
    tolerance = _CHECK_TOLERANCE.get(resident.model.dtype, 1e-3)
    with _own_attention(resident):
        each = [_plain_logps(resident, pair.prompt, tail) for pair in pairs for tail in (pair.chosen, pair.rejected)]
        changed = _plain_logps(resident, prompt, other_end)
    if not torch.cat(each).isfinite().all():
        dtype = str(resident.model.dtype).removeprefix("torch.")
        raise ConfigurationError(
            f"model.name: this model gives no finite probabilities in {dtype}: its weights are damaged, or too large "
            "for this model.dtype"
        )
    if not torch.allclose(changed[:-1], each[0][:-1], rtol=tolerance, atol=tolerance):
        raise ConfigurationError("model.name: this model looks ahead (an encoder?), and corlld trains decoders")
    row = resident.collator.row([Item(user, pair) for user, pair in enumerate(pairs)], range(len(pairs)), len(pairs))
    packed = torch.stack(row.sums(resident.scored(row, None)), dim=1).flatten()
    alone = torch.stack([logps.sum() for logps in each])
    if not torch.allclose(packed, alone, rtol=tolerance, atol=tolerance):
        raise ConfigurationError(
            "model.name: this model can't be trained on packed rows: it scores them differently from plain texts"
        )


def _check_pairs(ids: tuple[int, ...], max_positions: int | None) -> list[PreferencePair]:
    """Return a short pair and one of another user that is several times as long, if the model has the positions."""
    prompt, tail = ids[:-_CHECK_TAIL], ids[-_CHECK_TAIL:]
    room = _CHECK_LONGER * len(prompt) if max_positions is None else max_positions - _CHECK_TAIL
    return [
        PreferencePair(prompt, tail, tail[::-1]),
        PreferencePair((prompt * _CHECK_LONGER)[: max(1, room)], tail[::-1], tail),
    ]


@contextlib.contextmanager
def _own_attention(resident: ResidentModel) -> Iterator[None]:
    if resident.attention is None:
        yield
        return
    resident.model.set_attn_implementation("eager")  # each family's own code; sdpa knows no soft cap
    try:
        yield
    finally:
        resident.model.set_attn_implementation(resident.attention.name)


def _plain_logps(resident: ResidentModel, prompt: tuple[int, ...], tail: tuple[int, ...]) -> torch.Tensor:
    """Return log pi of each token of the tail in nats, (tail,), by the model's own forward pass."""
    ids = torch.tensor([prompt + tail], device=resident.device)
    logits: torch.Tensor = resident.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
