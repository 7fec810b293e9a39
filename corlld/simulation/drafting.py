"""Drafts from the base model with each user's newest published adapter, as an engine would serve them.

The engine reads by PEFT what the daemon published, and knows nothing else of the daemon.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter
from transformers import AutoTokenizer

from corlld.learning.model.loading import choose_device, choose_dtype
from corlld.learning.model.served_names import served_class
from corlld.learning.model.unsupported import refusing
from corlld.settings.sections import ModelSettings

DRAFTS_EACH = 4  # per user and round: one batch for the engine, one micro-batch and one step for the learner
MAX_NEW_TOKENS = 32  # the longest text that a user has in mind has 26
BASE = "__base__"  # PEFT's name for rows without an adapter


@dataclass(frozen=True, slots=True)
class Draft:
    """One continuation of a prompt. truncated: it stopped at the length limit, and not at the end of a line."""

    text: str
    truncated: bool


class PeftEngine:
    """Implements `Engine` of the closed loop: one model, and the adapters that PEFT has loaded on it.

    Args:
        folder: the base model.
        settings: its device and dtype.
        max_new_tokens: length limit of a draft.
    """

    def __init__(self, folder: str | Path, settings: ModelSettings, max_new_tokens: int) -> None:
        self._device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, self._device)
        with refusing(f"model.name: {folder} can't be served"):
            self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
            model = served_class(folder).from_pretrained(folder, dtype=dtype, trust_remote_code=False)
            self._model: Any = model.to(self._device).eval()
        self._max_new_tokens = max_new_tokens
        self._ends = _line_ends(self._tokenizer)

    def load(self, user: str, adapter: Path) -> None:
        """Serve the user with this adapter version from now on."""
        if not isinstance(self._model, PeftModel):
            with warnings.catch_warnings():
                # peft 0.21 asks for a name that transformers 5 deprecates.
                warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
                self._model = PeftModel.from_pretrained(self._model, adapter, user, autocast_adapter_dtype=False)
        elif user in self._model.peft_config:
            hotswap_adapter(self._model, str(adapter), user)
        else:
            self._model.load_adapter(adapter, user, autocast_adapter_dtype=False)
        self._model.eval()

    @torch.inference_mode()
    def draft(self, requests: Sequence[tuple[str | None, str]], *, seed: int | None = None) -> list[Draft]:
        """Return the most likely continuations of prompts, up to the end of a line, in one batch.

        Args:
            requests: the owner of the adapter (None: the base model drafts), and the prompt.
            seed: sample the continuations instead.
        """
        inputs = self._tokenizer([prompt for _, prompt in requests], return_tensors="pt", padding=True).to(self._device)
        adapters: Mapping[str, Any] = {}
        if isinstance(self._model, PeftModel):
            known = self._model.peft_config
            adapters = {"adapter_names": [user if user in known else BASE for user, _ in requests]}
        sampling: Mapping[str, Any] = {"do_sample": False}
        if seed is not None:
            sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
            torch.manual_seed(seed)
        out = self._model.generate(
            **inputs,
            **adapters,
            **sampling,
            max_new_tokens=self._max_new_tokens,
            eos_token_id=self._ends,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return [self._draft(row) for row in out[:, inputs["input_ids"].shape[1] :].tolist()]

    def _draft(self, ids: list[int]) -> Draft:
        ends = set(self._ends)
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        return Draft(self._tokenizer.decode(ids[:end], skip_special_tokens=True).strip(), truncated=end is None)


def _line_ends(tokenizer: Any) -> list[int]:
    """Return the end token, and every token that begins another line."""
    breaks = [
        index for text, index in tokenizer.get_vocab().items() if "\n" in tokenizer.convert_tokens_to_string([text])
    ]
    return [tokenizer.eos_token_id, *breaks]
