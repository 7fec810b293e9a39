"""The course of one family: start, two updates of two users, publication, PEFT; and the findings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM

from corlld.adapters.layout import AdapterTensors
from corlld.durable import Release, Statistics, UserState
from corlld.learning.learner import CorllLearner
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.pairs import PairEncoder, PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.learning.user_step import PairScore
from corlld.publishing.folder import FolderTarget
from corlld.publishing.peft_format import adapter_files
from corlld.records import EditEvent, TrainingBatch, UpdateOutcome
from corlld.settings.sections import (
    AdapterSettings,
    GuardSettings,
    LearningSettings,
    ModelSettings,
    PublishingSettings,
)
from tests.support.learning import EDITS, event

# Far longer than the other edits, and than windows, chunks and convolutions of the tiny models.
LONG = event("the long tale of it " * 4, "and the winding thing " * 5, prompt="in the other room there is " * 4)
USERS = {"ann": EDITS[:2], "bob": (EDITS[2], LONG)}

RULE = LearningSettings(lr=1e-2, rehearsal_weight=0.0)
NOT_GUARDED = GuardSettings(max_drift_nats=1e9)


@dataclass(frozen=True)
class Start:
    """A family's resident model, by the real start, and a learner on it."""

    folder: Path
    resident: ResidentModel

    @classmethod
    def of(cls, folder: Path, dtype: Literal["float32", "bfloat16"] = "float32") -> "Start":
        settings = ModelSettings(name=str(folder), device="cpu", dtype=dtype)
        return cls(folder, load_resident_model(settings, AdapterSettings(r=4, lora_alpha=8), PublishingSettings()))

    def learner(self) -> CorllLearner:
        return CorllLearner(self.resident, RULE, NOT_GUARDED, device_slots=2)

    def learnt(self) -> dict[str, AdapterTensors]:
        """Return the adapters after two updates of two users."""
        learner, adapters = self.learner(), dict[str, AdapterTensors]()
        for _ in range(2):
            outcomes = learner.update([TrainingBatch(uid, adapters.get(uid), own) for uid, own in USERS.items()])
            for outcome in outcomes:
                assert isinstance(outcome.adapter, AdapterTensors), outcome.pairs
                adapters[outcome.uid] = outcome.adapter
        return adapters

    def scores(self, adapters: dict[str, AdapterTensors]) -> list[PairScore]:
        """Score the edits of these users, all in one call."""
        batches = [TrainingBatch(uid, adapter, USERS[uid]) for uid, adapter in adapters.items()]
        found = [score for own in self.learner().score(batches) for score in own]
        assert all(found)
        return [score for score in found if score is not None]

    def step(self, uids: Sequence[str], adapters: dict[str, AdapterTensors]) -> list[UpdateOutcome]:
        return self.learner().update([TrainingBatch(uid, adapters[uid], USERS[uid]) for uid in uids])

    def pairs(self, edits: Sequence[EditEvent]) -> list[PreferencePair]:
        encoder = PairEncoder(
            self.resident.tokenizer,
            max_context_tokens=RULE.max_context_tokens,
            max_response_tokens=RULE.max_response_tokens,
            max_positions=self.resident.max_positions,
        )
        found = [encoder.encode(edit) for edit in edits]
        return [pair for pair in found if isinstance(pair, PreferencePair)]


def publish(start: Start, uid: str, adapter: AdapterTensors, folder: Path) -> Path:
    """Publish the adapter by the daemon's own writer. Return the version's folder."""
    release = Release(1, None, {}, Statistics(), start.resident.info.module_names)
    state = UserState(uid, 1, adapter, statistics=Statistics(), release=release)
    target = FolderTarget(folder)
    target.open()
    return Path(target.put(uid, 1, adapter_files(state, start.resident.layout, start.resident.info)))


@torch.no_grad()
def peft_sums(folder: Path, served: str, version: Path, pairs: Sequence[PreferencePair]) -> torch.Tensor:
    """Return log pi of the pairs' tails, (pairs, 2), by PEFT on a freshly loaded model, each text by itself.

    served: see `Family`.
    """
    kind = getattr(transformers, served) if served else AutoModelForCausalLM
    base = kind.from_pretrained(folder, dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(base, version).eval()
    return torch.stack(
        [torch.stack([_plain_sum(model, pair.prompt, tail) for tail in (pair.chosen, pair.rejected)]) for pair in pairs]
    )


def _plain_sum(model: PeftModel, prompt: tuple[int, ...], tail: tuple[int, ...]) -> torch.Tensor:
    ids = torch.tensor([prompt + tail])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    sums: torch.Tensor = logits.float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).sum()
    return sums


def sums(scores: Sequence[PairScore]) -> torch.Tensor:
    """Return the scores' log pi under the adapter, (pairs, 2)."""
    return torch.tensor([[score.policy.chosen, score.policy.rejected] for score in scores])


def base_sums(scores: Sequence[PairScore]) -> torch.Tensor:
    return torch.tensor([[score.base.chosen, score.base.rejected] for score in scores])


def kinds(modules: Iterable[str]) -> str:
    """Return the last names of modules."""
    return ", ".join(sorted({module.rpartition(".")[2] for module in modules}))


def left_out(resident: ResidentModel) -> str:
    """Return what carries no LoRA, and why."""
    found = [f"{kinds(part.modules)} ({part.reason})" for part in resident.adapted.left_out]
    return "; ".join(found + ["routed experts"] * bool(resident.adapted.expert_parameters))


def in_bfloat16(start: Start) -> str:
    """Start the family in bfloat16, whose start compares with PEFT too, and learn. Return how its modules differ."""
    half = Start.of(start.folder, "bfloat16")
    half.learnt()
    names, others = (tuple(m.name for m in each.resident.layout.modules) for each in (start, half))
    assert set(others) <= set(names)
    less = set(names) - set(others)
    return f"without {kinds(less)}" if less else "the same"
