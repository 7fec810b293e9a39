"""The analytic minimum against torch's own counter, and against counting one by one."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from corlld.adapters.layout import AdapterLayout
from corlld.bench import minimum
from corlld.bench.peft_loop import lora_config
from corlld.learning.model.linear_modules import choose_modules
from corlld.learning.model.pairs import PreferencePair
from tests.support.tiny_models import SLIDING_WINDOW, make_tiny_model

TOKENS, SCORED = 7, 3  # fewer than a sliding window: every earlier token is seen


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_linear_layers_lora_and_head_are_what_torch_counts_for_one_text(family: str, tmp_path: Path) -> None:
    assert TOKENS <= SLIDING_WINDOW
    base = AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path, family), attn_implementation="eager").eval()
    layout = AdapterLayout(4, 8, choose_modules(base, "all-linear"))
    shape = minimum.shape_of(base, layout)
    model = get_peft_model(base, lora_config(layout))
    ids = torch.arange(TOKENS)[None] + 10

    def scored() -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=ids, logits_to_keep=SCORED, use_cache=False).logits
        return logits.log_softmax(-1)[..., 0].sum()

    with FlopCounterMode(display=False) as counter:
        with torch.no_grad(), model.disable_adapter():
            reference = scored()
        torch.autograd.backward(scored() - reference)

    own = minimum.step(shape, prompt=TOKENS - SCORED, tails=[SCORED])
    # Eager attention computes what is masked, too: every token with every token.
    everything = 4 * sum(4 * width * TOKENS * TOKENS for width, _ in shape.attention)
    assert counter.get_total_flops() - everything == own.linear + own.lora + own.head


@pytest.mark.parametrize("window", [None, 1, 3, 6, 50])
@pytest.mark.parametrize("prompt", [1, 4, 9])
def test_attention_counts_each_token_that_is_seen_once(prompt: int, window: int | None) -> None:
    tails = (5, 2)
    seen = 0
    texts = [range(prompt), *(range(prompt, prompt + tail) for tail in tails)]
    for text in texts:
        for position in text:
            seen += sum(window is None or position - earlier < window for earlier in range(position + 1))
    shape = minimum.ModelShape(0, 0, 0, 0, 0, attention=((6, window),))
    # Forward, reference, and twice backward: each a product for the scores and one for their sum.
    assert minimum.step(shape, prompt, tails).attention == 4 * (2 * 2 * 6 * seen)


def test_a_prompt_is_counted_once_for_both_tails_and_only_tails_reach_the_head() -> None:
    shape = minimum.ModelShape(linear=1, linear_first=0, lora=0, lora_first=0, head=1, attention=())
    pair = PreferencePair(tuple(range(10)), (1, 2, 3), (4, 5))
    counted = minimum.minimum(shape, [pair, pair])
    assert counted.linear == 2 * 3 * 2 * (10 + 3 + 2)
    # The prompt's last token predicts the first one of both.
    assert counted.head == 2 * 3 * 2 * (3 + 2 - 1)
    assert minimum.forward_only(shape, [pair]) == 2 * 15 + 2 * 4
