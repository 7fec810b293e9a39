"""The longest text of a model: up to it, what is computed for a text does not depend on its neighbours."""

from pathlib import Path
from typing import Any

import pytest
import structlog
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MptConfig, Phi3Config

from corlld.errors import RejectReason
from corlld.learning.learner import CorllLearner
from corlld.learning.loaded_learner import load_learner
from corlld.learning.model.positions import longest_text, served_positions
from corlld.learning.model.resident import make_resident
from corlld.records import EditEvent, TrainingBatch
from corlld.settings.sections import AdapterSettings, GuardSettings, LearningSettings, ModelSettings, Settings
from tests.support.learning import event
from tests.support.tiny_models import make_tokenizer, seeded

TRAINED = 48  # positions; the models below have 256
SIZES = {"vocab_size": 268, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
LONGROPE |= {"original_max_position_embeddings": TRAINED}

SHORT = event("a fine day", "a fine morning")
LONG = event("tea for two", "tea for three", prompt="the other room is full of things " * 8)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (LlamaConfig(**SIZES), 256),
        (LlamaConfig(**SIZES, rope_parameters=LONGROPE), TRAINED),
        (LlamaConfig(**SIZES, rope_parameters=DYNAMIC), 256),
        (LlamaConfig(**SIZES, rope_parameters=LONGROPE | {"rope_type": "yarn", "factor": 4.0}), 256),
        (Phi3Config(**SIZES, pad_token_id=0, rope_parameters=LONGROPE, original_max_position_embeddings=TRAINED), 48),
        (MptConfig(max_seq_len=77), 77),
    ],
    ids=["plain", "longrope", "dynamic", "yarn", "phi3", "another-name"],
)
def test_a_text_may_be_as_long_as_its_frequencies_are_those_of_all_texts(config: Any, longest: int) -> None:
    assert longest_text(config) == longest


def test_a_kind_of_layers_may_have_the_limit() -> None:
    class Config:
        max_position_embeddings = 256
        rope_parameters = {"sliding_attention": {"rope_type": "default"}, "full_attention": LONGROPE}

    assert longest_text(Config()) == TRAINED


def test_a_model_without_a_limit_has_none() -> None:
    assert longest_text(object()) is None


@pytest.mark.parametrize(
    ("rope", "sentences"),
    [
        ({"rope_type": "default"}, []),
        ({"rope_type": "yarn", "factor": 4.0}, []),
        (LONGROPE, ["longrope: texts have at most 48 tokens here, and the engine must be limited to as many"]),
        ({"rope_type": "dynamic", "factor": 4.0}, ["dynamic, and computed as transformers does"]),
        ({"rope_type": "dynamic", "factor": 1.0, "alpha": 1000.0}, []),  # HunYuan: the same for all texts everywhere
    ],
    ids=["default", "yarn", "longrope", "dynamic", "alpha"],
)
def test_what_the_engine_must_do_is_said(rope: dict[str, Any], sentences: list[str]) -> None:
    class Config:
        max_position_embeddings = 256
        rope_parameters = rope

    found = served_positions(Config())
    assert len(found) == len(sentences)
    assert all(part in str(sentence) for part, sentence in zip(sentences, found, strict=True))


@pytest.mark.parametrize(("rope", "level"), [(LONGROPE, "info"), (DYNAMIC, "warning")], ids=["longrope", "dynamic"])
def test_a_start_warns_only_of_what_an_engine_does_not_do_by_default(
    tmp_path: Path, rope: dict[str, Any], level: str
) -> None:
    tokenizer = make_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with seeded(0):
        config = LlamaConfig(**SIZES, rope_parameters=rope, **ends, pad_token_id=tokenizer.pad_token_id)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = Settings(model=ModelSettings(name=str(tmp_path), device="cpu"), adapter=AdapterSettings(r=4))
    with structlog.testing.capture_logs() as logs:
        load_learner(settings, lambda *_: None)
    assert [log["log_level"] for log in logs if log["event"] == "engine_must_agree"] == [level]


def learner(rope: dict[str, Any]) -> CorllLearner:
    tokenizer = make_tokenizer()
    with seeded(0):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, rope_parameters=rope), dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.25)
    resident = make_resident(model, tokenizer, AdapterSettings(r=4), name="tiny", revision="1")
    return CorllLearner(resident, LearningSettings(rehearsal_weight=0.0), GuardSettings(), 2)


@pytest.mark.parametrize("rope", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
def test_another_users_long_text_changes_nothing_of_a_short_one(rope: dict[str, Any]) -> None:
    def batch(uid: str, edit: EditEvent) -> TrainingBatch:
        return TrainingBatch(uid, None, (edit,))

    ((alone,),) = learner(rope).score([batch("ann", SHORT)])
    one = learner(rope)
    before, _ = one.score([batch("ann", SHORT), batch("bob", LONG)])
    after, _ = one.score([batch("ann", SHORT), batch("bob", LONG)])  # dynamic frequencies stay as a long text left them
    assert alone is not None
    assert alone.policy.chosen == pytest.approx(before[0].policy.chosen, rel=1e-6)
    assert alone.policy.chosen == pytest.approx(after[0].policy.chosen, rel=1e-6)


def test_a_response_that_needs_the_long_factors_is_too_long() -> None:
    long = event("so " * TRAINED, "no")
    (outcome,) = learner(LONGROPE).update([TrainingBatch("ann", None, (long,))])
    assert outcome.pairs[0].reason == RejectReason.TOO_LONG
