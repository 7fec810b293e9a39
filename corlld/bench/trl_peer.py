"""TRL's `DPOTrainer`, made again for each user: it can only train one adapter on one dataset."""

import contextlib
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from datasets import Dataset
from datasets import disable_progress_bars as disable_datasets_progress_bars
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

from corlld.adapters.layout import AdapterLayout, AdapterTensors
from corlld.bench.peft_loop import adamw, flat, load_adapter, lora_config, parameters
from corlld.bench.ways import RULE, Took, settle
from corlld.bench.workloads import Edit
from corlld.learning.optimizer import scaled_lr


class TrlTrainer:
    """The `Way` of TRL.

    Training is `train()`. Construction is the trainer with its dataset, and the adapter put in and taken out. The
    options are chosen for speed: no gradient checkpoints (the default costs a forward pass), no log, no file.

    The trainer tokenises the texts in its own way. The ids are then replaced by those that all other ways train on,
    because the trainer tokenises prompt and response together, which can give other tokens where they meet.

    Args:
        base: a transformers model of its own; LoRA is injected into it and taken out again for each user.
        tokenizer: its tokenizer.
        users: each user's edits, at most one step of them.
        starts: each user's adapter.
    """

    def __init__(
        self,
        base: Any,
        tokenizer: Any,
        layout: AdapterLayout,
        users: Sequence[Sequence[Edit]],
        starts: Sequence[AdapterTensors],
    ) -> None:
        if any(len(edits) > RULE.pairs_per_step for edits in users):
            raise ValueError("a user has more pairs than a step")
        self._base = base
        self._forward = base.forward  # the trainer wraps it again each time
        self._tokenizer = tokenizer
        self._layout = layout
        self._users = list(users)
        self._adapters = list(starts)

    def round(self) -> Took:
        constructing = training = 0.0
        for number, edits in enumerate(self._users):
            started = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix="corlld-bench-") as folder, _quiet():
                trainer = self._trainer(edits, self._adapters[number], folder)
                begun = time.perf_counter()
                trainer.train()
                settle(self._base.device)
                ended = time.perf_counter()
                self._adapters[number] = self._take_out(trainer)
            training += ended - begun
            constructing += time.perf_counter() - started - (ended - begun)
        return Took(training, constructing)

    def weights(self) -> list[torch.Tensor]:
        return [adapter.weights for adapter in self._adapters]

    def _trainer(self, edits: Sequence[Edit], start: AdapterTensors, folder: str) -> Any:
        options = DPOConfig(
            output_dir=folder,
            beta=RULE.beta,
            learning_rate=scaled_lr(RULE.lr, len(edits), RULE.pairs_per_step),
            lr_scheduler_type="constant",
            max_grad_norm=RULE.max_gradient_norm,
            per_device_train_batch_size=len(edits),
            max_steps=1,
            max_length=None,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=self._base.device.type == "cpu",
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        texts = [{"prompt": e.event.prompt, "chosen": e.event.edited, "rejected": e.event.proposed} for e in edits]
        trainer = DPOTrainer(
            self._base,
            args=options,
            train_dataset=Dataset.from_list(texts),
            processing_class=self._tokenizer,
            peft_config=lora_config(self._layout),
        )
        ids = [
            {"prompt_ids": e.pair.prompt, "chosen_ids": e.pair.chosen, "rejected_ids": e.pair.rejected} for e in edits
        ]
        trainer.train_dataset = Dataset.from_list(ids)
        trainer.remove_callback(PrinterCallback)
        own = parameters(self._base, self._layout, "default")
        trainer.optimizer = adamw(own, options.learning_rate)
        load_adapter(start, self._layout, own, trainer.optimizer)
        return trainer

    def _take_out(self, trainer: Any) -> AdapterTensors:
        """Return the trained adapter, and leave the base model as it was before."""
        own = parameters(self._base, self._layout, "default")
        states = [trainer.optimizer.state[parameter] for parameter in own]
        adapter = AdapterTensors(
            weights=flat(own),
            exp_avg=flat([state["exp_avg"] for state in states]),
            exp_avg_sq=flat([state["exp_avg_sq"] for state in states]),
            optimizer_step=int(states[0]["step"]),
        )
        trainer.model.unload()
        self._base.forward = self._forward
        return adapter


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what a trainer per user prints and warns of."""
    disable_datasets_progress_bars()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
