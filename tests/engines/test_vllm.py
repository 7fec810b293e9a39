"""vLLM's real loader: a published adapter, served, gives PEFT's log-probabilities; and what a deleted version does.

`make test-engines` installs vLLM for the CPU in an environment of its own, and runs these tests.
On one machine the two differed by at most 5e-5 nats per token, with gemma3-270m and with SmolLM2.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from corlld.adapters.layout import AdapterTensors
from corlld.learning.model.files import find_model_files
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.resident import ResidentModel
from corlld.publishing.folder import FolderTarget
from corlld.publishing.publisher import AdapterPublisher
from corlld.settings.sections import AdapterSettings, ModelSettings
from tests.engines.vllm_engine import VllmEngine, vllm_engine
from tests.support.states import OTHER_UID, UID, released_state

TOLERANCE = 1e-3  # nats per token, float32
LEARNT = 0.5  # nats: what the adapter changes at one token at least, far more than the tolerance
IDS = list(range(100, 110))
TEXT = "Report.\n\nSales rose by 1,234 in March; the naïve forecast said otherwise.\n"
CHAT = [
    {"role": "user", "content": "Is the lift out of order?"},
    {"role": "assistant", "content": "Yes, until Friday."},
    {"role": "user", "content": "Write a note about it, please."},
]

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@dataclass
class Served:
    """A base model in corlld's hands. folder: where the versions are published."""

    base: str
    resident: ResidentModel
    folder: Path

    def publish(self, version: int, uid: str = UID, *, keep_seconds: float = 3600.0) -> Path:
        """Publish a version with random tensors, of which only the newest is kept by number. Returns its folder."""
        layout = self.resident.layout
        weights = 0.04 * torch.randn(layout.size, generator=torch.Generator().manual_seed(version))
        tensors = AdapterTensors(weights, torch.zeros(layout.size), torch.zeros(layout.size), 1)
        publisher = AdapterPublisher(
            FolderTarget(self.folder), layout, self.resident.info, keep_versions=1, keep_seconds=keep_seconds
        )
        state = released_state(version, uid=uid, module_names=self.resident.info.module_names)
        out = publisher.publish(replace(state, adapter=tensors))
        assert out is not None
        return Path(out.location)


@pytest.fixture(scope="module", params=["demo", "demo-chat"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve(request.param, tmp_path_factory.mktemp("adapters"))


def serve(name: str, folder: Path) -> Served:
    settings = ModelSettings(name=name, device="cpu", dtype="float32")
    return Served(find_model_files(settings).source, load_resident_model(settings, AdapterSettings()), folder)


@pytest.fixture(scope="module")
def engine(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    with vllm_engine(served.base, tmp_path_factory.mktemp("vllm") / "log", adapters=2) as engine:
        yield engine


@torch.inference_mode()
def logps(model: Any, ids: list[int]) -> torch.Tensor:
    """Return the log-probability of each id but the first."""
    rows = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1)
    return rows[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_a_served_adapter_gives_pefts_log_probabilities(
    served: Served, engine: VllmEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = AutoTokenizer.from_pretrained(served.base)(TEXT)["input_ids"]
    answers = {
        adapter: engine.ask(adapter, ids=ids) for adapter in (None, served.publish(3), served.publish(5, OTHER_UID))
    }
    base = AutoModelForCausalLM.from_pretrained(served.base, dtype=torch.float32).eval()
    plain = logps(base, ids)
    for adapter, answer in answers.items():
        model = base if adapter is None else PeftModel.from_pretrained(base, adapter).eval()
        expected = logps(model, ids)
        learnt, furthest = ((expected - other).abs().max() for other in (plain, torch.tensor(answer["logps"])))
        with capsys.disabled():
            print(f"\n{adapter or 'base model'}: {learnt:.2g} nats from the base model, {furthest:.2g} from vLLM")
        assert answer["ids"] == ids
        assert furthest <= TOLERANCE
        if adapter is not None:
            assert learnt > LEARNT
            base = model.unload()


@pytest.mark.parametrize("served", ["demo-chat"], indirect=True)
def test_a_chat_is_served_as_the_template_of_the_base_model_says(served: Served, engine: VllmEngine) -> None:
    tokenizer = AutoTokenizer.from_pretrained(served.base)
    adapter = served.publish(7)
    answer = engine.ask(adapter, messages=CHAT)
    rendered = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert answer["ids"] == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(served.base, dtype=torch.float32)
    expected = logps(PeftModel.from_pretrained(base, adapter).eval(), answer["ids"])
    torch.testing.assert_close(torch.tensor(answer["logps"]), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("served", ["demo-chat"], indirect=True)
def test_a_superseded_version_is_loaded_again_after_its_eviction_and_a_deleted_one_ends_the_engine(
    served: Served, tmp_path: Path
) -> None:
    """So versions stay for `publishing.keep_seconds`. Without that time the engine ends, for all users."""
    mine = replace(served, folder=tmp_path / "adapters")
    with vllm_engine(mine.base, tmp_path / "log", adapters=1) as engine:
        first = mine.publish(1)
        before = engine.ask(first, ids=IDS)["logps"]
        second = mine.publish(2)
        assert engine.ask(second, ids=IDS)["logps"] != before  # it has evicted the first
        assert engine.ask(first, ids=IDS)["logps"] == before
        engine.ask(second, ids=IDS)
        mine.publish(3, keep_seconds=0.0)
        assert not first.exists()
        assert engine.ask(first, ids=IDS) == {"error": "EngineDeadError"}


@pytest.mark.parametrize("served", ["demo-chat"], indirect=True)
def test_an_engine_that_has_unloaded_a_version_goes_on_after_its_erasure(
    served: Served, engine: VllmEngine, tmp_path: Path
) -> None:
    mine = replace(served, folder=tmp_path / "adapters")
    erased, others = mine.publish(1), mine.publish(2, OTHER_UID)
    engine.ask(erased, ids=IDS)
    before = engine.ask(others, ids=IDS)["logps"]
    assert engine.unload(erased)
    FolderTarget(mine.folder).withdraw(UID, 1)
    assert engine.ask(others, ids=IDS)["logps"] == before
