"""A published adapter is what the daemon learnt: PEFT loads it, and gives the resident model's own logits."""

import random
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from corlld.learning.model.loading import load_resident_model
from corlld.settings.load import load_settings
from tests.support import oracle, traffic
from tests.support.daemon_process import ENVIRON, Launcher, Site
from tests.support.kafka.broker import KafkaCluster
from tests.support.tiny_models import make_tiny_model

# PEFT reads an attribute that transformers renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOLERANCE = 1e-4  # of fp32 logits
FAMILIES = ("llama", "qwen3", "gemma3", "gpt2")


@pytest.fixture(params=FAMILIES)
def learnt(
    request: pytest.FixtureRequest, tmp_path: Path, kafka_broker: KafkaCluster, launcher: Launcher
) -> tuple[Site, Path]:
    """A site whose daemon has learnt from some edits of three users, with its settings file."""
    model = make_tiny_model(tmp_path / "model", request.param)
    # A rate that moves a few dozen edits far: the logits must differ from the base model's by far more than tolerance.
    learning = {"lr": 1e-2, "pairs_per_step": 4}
    site = Site.make(
        tmp_path, kafka_broker, model, 2, learning=learning, guard={"max_drift_nats": 100.0}, batching={"max_events": 8}
    )
    config = site.write_settings()
    producer = traffic.Producer(site.bootstrap, site.topic)
    producer.send(traffic.edits(60, traffic.users(3), 2, seed=3))
    producer.close()
    life = launcher.start(config, site.log())
    site.wait_for_end(life)
    assert life.stop() == 0
    return site, config


@torch.no_grad()
def test_an_adapter_loaded_by_peft_gives_the_resident_models_logits(learnt: tuple[Site, Path]) -> None:
    site, config = learnt
    settings = load_settings(config, ENVIRON)
    resident = load_resident_model(settings.model, settings.adapter)
    tokenizer = AutoTokenizer.from_pretrained(site.model)
    draw = random.Random(4)
    texts = [" ".join(draw.choices(traffic.WORDS, k=count)) for count in (3, 12, 30)]
    releases = [
        max(folder.glob("v*")) for folder in site.adapters.iterdir() if folder.is_dir() and any(folder.glob("v*"))
    ]
    assert len(releases) == 3

    for release in releases:
        weights = load_file(oracle.newest_state_file(site.states / "users" / release.parent.name))["weights"]
        base = AutoModelForCausalLM.from_pretrained(site.model, dtype=torch.float32).eval()
        expected_base = [base(**tokenizer(text, return_tensors="pt")).logits for text in texts]
        published = PeftModel.from_pretrained(base, release).eval()
        furthest = 0.0
        for text, plain in zip(texts, expected_base, strict=True):
            inputs = tokenizer(text, return_tensors="pt")
            ids = inputs["input_ids"]
            with resident.lora.bind(resident.lora.stack(weights[None]), [ids.numel()]):
                resident_logits = resident.model(input_ids=ids).logits
            logits = published(**inputs).logits
            torch.testing.assert_close(logits, resident_logits, atol=TOLERANCE, rtol=0)
            furthest = max(furthest, float((logits - plain).abs().max()))
        assert furthest > 100 * TOLERANCE, f"{release.name} hardly differs from the base model: {furthest:.2g}"
