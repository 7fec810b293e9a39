"""The pretrained model, its policies, and users learnt from online."""

import itertools
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from corlld.adapters.layout import AdapterTensors
from corlld.learning.learner import CorllLearner
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.resident import ResidentModel
from corlld.records import EditEvent, TrainingBatch
from corlld.settings.sections import AdapterSettings, GuardSettings, ModelSettings
from corlld.simulation.language.grammar import (
    PROMPTS,
    SENTENCES,
    text_of,
    words_in,
)
from corlld.simulation.language.online import Feedback, Scenario, run_online
from corlld.simulation.language.policies import base_policy, log_likelihoods, sample
from corlld.simulation.language.pretraining import pretrain
from corlld.simulation.language.users import seeded
from corlld.simulation.studies.language_world.methods import settings


def _accepted(prompt: str, text: str) -> EditEvent:
    return EditEvent("1", "u", datetime(2026, 1, 1, tzinfo=UTC), prompt, None, text, text)


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> ResidentModel:
    folder: Path = pretrain(tmp_path_factory.mktemp("language"), steps=120)
    return load_resident_model(ModelSettings(name=str(folder), device="cpu", dtype="float32"), AdapterSettings())


def _trained(resident: ResidentModel, feedback: Feedback = Feedback.EDITS, **learning: float) -> AdapterTensors:
    scenario = Scenario("honest", 1.0, 0.0, "scaled")
    learning = {"lr": 4e-3} | learning
    (history,) = run_online(
        resident, feedback, settings(**learning), GuardSettings(), [(scenario, 1)], rounds=4, each=8
    )
    assert history.adapter is not None
    return history.adapter


def test_likelihoods_are_those_that_the_learner_sees(resident: ResidentModel) -> None:
    adapter = _trained(resident)
    texts = [words_in(places) for places in SENTENCES[::1500]]
    prompts = list(itertools.islice(itertools.cycle(PROMPTS), len(texts)))
    ours = log_likelihoods(resident, [adapter, None], [prompts] * 2, [texts] * 2)
    learner = CorllLearner(resident, settings(), GuardSettings(), 1)
    events = tuple(_accepted(prompt.text, text_of(words)) for prompt, words in zip(prompts, texts, strict=True))
    (scores,) = learner.score([TrainingBatch("u", adapter, events)])
    # The learner's also know the words of prompts and special tokens, which are never written: a bit less is left.
    assert ours[0] == pytest.approx([score.policy[0] for score in scores if score], abs=0.2)
    assert ours[1] == pytest.approx([score.base[0] for score in scores if score], abs=0.2)
    assert abs(ours[0] - ours[1]).max() > 1


def test_drafts_are_drawn_from_the_policy(resident: ResidentModel) -> None:
    adapter, count = _trained(resident), 3000
    drafts = sample(resident, [None, adapter], [[PROMPTS[0]] * count] * 2, [seeded("a"), seeded("b")])
    for own, drawn in zip((None, adapter), drafts, strict=True):
        words = [draft.words for draft in drawn]
        common = max(set(words), key=words.count)
        (likelihood,) = np.exp(log_likelihoods(resident, [own], [[PROMPTS[0]]], [[common]])[0])
        share = words.count(common) / count
        assert share == pytest.approx(likelihood, abs=5 * (likelihood / count) ** 0.5)


def test_the_base_policy_is_nearly_all_sentences_once_it_has_learnt_the_language(resident: ResidentModel) -> None:
    total = np.exp(base_policy(resident, PROMPTS[:1])).sum()
    assert 0.3 < total <= 1


def test_a_user_does_not_depend_on_who_else_is_there(resident: ResidentModel) -> None:
    users = [(Scenario("weak", 0.3, 0.2, "scaled"), seed) for seed in (1, 2)]
    learning = settings(lr=2e-3, max_row_tokens=1)
    run = [
        run_online(resident, Feedback.EDITS, learning, GuardSettings(), some, rounds=2, each=4)[-1]
        for some in (users, users[1:])
    ]
    assert run[0].answers == run[1].answers
    assert run[0].regrets == run[1].regrets


def test_imitation_learns_from_the_edit_alone(resident: ResidentModel) -> None:
    assert _trained(resident, Feedback.EDITED_TEXTS, acceptance_weight=1.0).optimizer_step == 8  # 4 texts a step
