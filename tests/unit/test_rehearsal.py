"""Passages that are rehearsed: where they come from, and what of them is scored."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from corlld.errors import ConfigurationError
from corlld.learning.learner import CorllLearner
from corlld.learning.rehearsal import (
    GIVEN_TOKENS,
    PLAIN_ENGLISH,
    SCORED_TOKENS,
    read_passages,
    rehearsal_pairs,
)
from corlld.records import PairStatus, TrainingBatch
from corlld.settings import GuardSettings, LearningSettings
from corlld.simulation.plain_text import PARAGRAPHS
from corlld.simulation.studies.plain_texts import CANARIES, PASSAGES
from tests.tiny_models import make_tiny_model, tiny_resident
from tests.unit.test_learner import EDITS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return AutoTokenizer.from_pretrained(model)


def test_empty_lines_divide_passages_and_line_breaks_are_spaces(tmp_path: Path) -> None:
    file = tmp_path / "passages.txt"
    file.write_text("one\nand two\n\n\n  three \n \t\nfour")  # a line of spaces looks empty
    assert read_passages(file) == ("one and two", "three", "four")


def test_no_study_measures_forgetting_by_what_is_rehearsed() -> None:
    def sentences(*texts: str) -> set[str]:
        return {sentence.strip() for text in texts for sentence in re.split(r"[.?!]", text)} - {"", '"'}

    measured = sentences(*PARAGRAPHS, *CANARIES, *(passage.opening + passage.rest for passage in PASSAGES))
    assert not sentences(*read_passages(PLAIN_ENGLISH)) & measured


def test_corlld_brings_sixteen_passages(tokenizer: Any) -> None:
    passages = read_passages(PLAIN_ENGLISH)
    assert len(set(passages)) == 16
    assert len(rehearsal_pairs(tokenizer, passages)) == 16


@pytest.mark.parametrize(
    ("content", "said"), [(None, "can't be read"), (b"\xff\xfe", "is not UTF-8"), (b" \n\n ", "has no passage")]
)
def test_a_file_without_passages_is_refused_by_the_setting_that_names_it(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "passages.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"learning\.rehearsal_path: .*{said}"):
        read_passages(file)


def test_the_beginning_is_given_and_the_rest_scored_up_to_a_limit(tokenizer: Any) -> None:
    passage = " ".join(map(str, range(200)))
    ids = tuple(tokenizer(passage)["input_ids"])
    (pair,) = rehearsal_pairs(tokenizer, [passage])
    assert pair.prompt == ids[:GIVEN_TOKENS]
    assert pair.chosen == ids[GIVEN_TOKENS : GIVEN_TOKENS + SCORED_TOKENS]
    assert pair.is_acceptance


def test_a_passage_that_is_too_short_is_refused_by_its_number(tokenizer: Any) -> None:
    with pytest.raises(ConfigurationError, match="passage 2 has 2 tokens"):
        rehearsal_pairs(tokenizer, ["a passage of words that is long enough to be scored", "a"])


def test_drift_and_figures_are_of_the_pairs_alone(model: Path) -> None:
    """With a weight of almost nothing a step is as without, though passages went through the model."""
    resident = tiny_resident(model)
    outcomes, tokens = [], []
    for weight in (0.0, 1e-12):
        rule = LearningSettings(lr=1e-2, rehearsal_weight=weight)
        learner = CorllLearner(resident, rule, GuardSettings(max_drift_nats=1e9), 1)
        before = learner.tokens[0]  # passages were scored by the base model already
        outcomes.append(learner.update([TrainingBatch("ann", None, EDITS)])[0])
        tokens.append(learner.tokens[0] - before)
    without, rehearsed = outcomes
    assert tokens[1] > tokens[0]
    assert rehearsed.drift_nats == pytest.approx(without.drift_nats, rel=1e-3)
    assert rehearsed.loss == pytest.approx(without.loss, rel=1e-6)
    for own, other in zip(without.pairs, rehearsed.pairs, strict=True):
        assert other.delta_chosen_logp == pytest.approx(own.delta_chosen_logp, rel=1e-2)


def test_no_pair_is_blamed_for_a_passage_that_does_not_fit_beside_it(model: Path) -> None:
    resident = tiny_resident(model)
    learner = CorllLearner(resident, LearningSettings(rehearsal_weight=1.0), GuardSettings(), 1)
    room, refused = GIVEN_TOKENS + SCORED_TOKENS, 0

    def refuse(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal refused
        if kwargs["input_ids"].numel() > room:
            refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = resident.model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        (outcome,) = learner.update([TrainingBatch("ann", None, EDITS)])
    finally:
        handle.remove()
    assert refused
    assert [pair.status for pair in outcome.pairs] == [PairStatus.APPLIED] * len(EDITS)
    assert outcome.steps == 1  # and the step was not parted
