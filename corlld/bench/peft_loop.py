"""The loop that a competent engineer writes with PEFT.

One model has an adapter per user. Users take turns, and a pair is two padded rows.
"""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from peft import LoraConfig, get_peft_model

from corlld.adapters.layout import AdapterLayout, AdapterTensors
from corlld.bench.ways import RULE, Took, settle
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.optimizer import scaled_lr


def lora_config(layout: AdapterLayout) -> LoraConfig:
    """Return the layout as PEFT's configuration, without dropout."""
    return LoraConfig(
        r=layout.r,
        lora_alpha=layout.lora_alpha,
        lora_dropout=0.0,
        target_modules=[module.name for module in layout.modules],
        fan_in_fan_out=any(module.transposed for module in layout.modules),
        task_type="CAUSAL_LM",
    )


def parameters(base: Any, layout: AdapterLayout, adapter: str) -> list[torch.nn.Parameter]:
    """Return A and B of each module, in the layout's order. base: the model that PEFT has changed."""
    found = []
    for module in layout.modules:
        layer = base.get_submodule(module.name)
        found += [layer.lora_A[adapter].weight, layer.lora_B[adapter].weight]
    return found


@torch.no_grad()
def load_adapter(
    start: AdapterTensors, layout: AdapterLayout, into: Sequence[torch.nn.Parameter], optimizer: torch.optim.AdamW
) -> None:
    """Put weights and moments of `start` into parameters and optimizer."""
    sizes = [parameter.numel() for parameter in into]
    split = [torch.split(flat, sizes) for flat in (start.weights, start.exp_avg, start.exp_avg_sq)]
    for parameter, weights, exp_avg, exp_avg_sq in zip(into, *split, strict=True):
        parameter.copy_(weights.view_as(parameter))
        optimizer.state[parameter] = {
            "step": torch.tensor(float(start.optimizer_step)),
            "exp_avg": exp_avg.view_as(parameter).to(parameter.device, copy=True),
            "exp_avg_sq": exp_avg_sq.view_as(parameter).to(parameter.device, copy=True),
        }


def adamw(parameters: Sequence[torch.nn.Parameter], lr: float) -> torch.optim.AdamW:
    """Return the rule's optimizer in torch's implementation."""
    betas = (RULE.beta1, RULE.beta2)
    return torch.optim.AdamW(parameters, lr=lr, betas=betas, eps=RULE.adam_eps, weight_decay=0.0)


def flat(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """Return all parameters in one tensor, shape (size,), in host memory."""
    return torch.cat([parameter.detach().flatten() for parameter in parameters]).cpu()


def padding_id(tokenizer: Any) -> int:
    """Return the tokenizer's padding id, or else its end of text, which every tokenizer has. It is masked out."""
    own: int | None = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id) if own is None else own


class PeftLoop:
    """The `Way` of PEFT. The pairs are tokenised beforehand, which is to its advantage.

    Args:
        base: a transformers model of its own; LoRA is injected into it.
        pad: id of the padding token.
        users: each user's pairs.
        starts: each user's adapter.
    """

    def __init__(
        self,
        base: Any,
        layout: AdapterLayout,
        pad: int,
        users: Sequence[Sequence[PreferencePair]],
        starts: Sequence[AdapterTensors],
    ) -> None:
        config = lora_config(layout)
        names = [f"user-{number}" for number in range(len(users))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers under an old name
            self._model: Any = get_peft_model(base, config, adapter_name=names[0]).eval()
            for name in names[1:]:
                self._model.add_adapter(name, config)
        self._device = base.device
        self._pad = pad
        self._users = list(zip(names, users, strict=True))
        self._parameters = {name: parameters(base, layout, name) for name in names}
        self._optimizers = {name: adamw(self._parameters[name], RULE.lr) for name in names}
        for name, start in zip(names, starts, strict=True):
            load_adapter(start, layout, self._parameters[name], self._optimizers[name])

    def round(self) -> Took:
        started = time.perf_counter()
        for name, pairs in self._users:
            self._model.set_adapter(name)
            for first in range(0, len(pairs), RULE.pairs_per_step):
                self._step(name, pairs[first : first + RULE.pairs_per_step])
        settle(self._device)
        return Took(time.perf_counter() - started)

    def weights(self) -> list[torch.Tensor]:
        return [flat(self._parameters[name]) for name, _ in self._users]

    def _step(self, name: str, pairs: Sequence[PreferencePair]) -> None:
        optimizer = self._optimizers[name]
        for pair in pairs:
            rows = self._rows(pair)
            with torch.no_grad(), self._model.disable_adapter():
                reference = self._margin(*rows)
            loss = -F.logsigmoid(RULE.beta * (self._margin(*rows) - reference))
            torch.autograd.backward(loss / len(pairs))
        torch.nn.utils.clip_grad_norm_(self._parameters[name], RULE.max_gradient_norm)
        optimizer.param_groups[0]["lr"] = scaled_lr(RULE.lr, len(pairs), RULE.pairs_per_step)
        optimizer.step()
        optimizer.zero_grad()

    def _rows(self, pair: PreferencePair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ids, attention mask and mask of the tails, each (2, length): chosen, rejected, padded on the right."""
        texts = [pair.prompt + pair.chosen, pair.prompt + pair.rejected]
        length = max(len(text) for text in texts)
        ids = torch.tensor([text + (self._pad,) * (length - len(text)) for text in texts], device=self._device)
        place = torch.arange(length, device=self._device)
        ends = torch.tensor([[len(text)] for text in texts], device=self._device)
        seen = place < ends
        return ids, seen.long(), seen & (place >= len(pair.prompt))

    def _margin(self, ids: torch.Tensor, seen: torch.Tensor, tails: torch.Tensor) -> torch.Tensor:
        """Return log pi(chosen tail) - log pi(rejected tail), a scalar."""
        logits = self._model(input_ids=ids, attention_mask=seen, use_cache=False).logits[:, :-1]
        logps = logits.float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        sums: torch.Tensor = (logps * tails[:, 1:]).sum(1)
        return sums[0] - sums[1]
