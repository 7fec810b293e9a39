"""Passages that are rehearsed: where they come from, what of them is scored, and whom they may not harm."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from corlld.adapters.layout import AdapterTensors
from corlld.errors import ConfigurationError, RejectReason
from corlld.learning.learner import CorllLearner
from corlld.learning.model.resident import ResidentModel
from corlld.learning.passages import PLAIN_ENGLISH, read_passages
from corlld.learning.rehearsal import GIVEN_TOKENS, SCORED_TOKENS, rehearsals
from corlld.learning.steps import StepRunner
from corlld.learning.user_step import StepResult, UserStep
from corlld.records import EditEvent, PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings, LearningSettings
from corlld.simulation.control_texts import CANARIES, PARAGRAPHS, PASSAGES
from tests.support.learning import EDITS, event
from tests.support.tiny_models import make_tiny_model, tiny_resident

LONG_ENOUGH = "a passage of words that is long enough to be scored"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def resident(model: Path) -> ResidentModel:
    return tiny_resident(model)


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """Settings that have these passages rehearsed."""

    def settings(*passages: str) -> LearningSettings:
        file = tmp_path / "passages.txt"
        file.write_text("\n\n".join(passages))
        return LearningSettings(rehearsal_path=file)

    return settings


def spoil(resident: ResidentModel, character: str) -> None:
    """No text with this character has a finite likelihood any more."""
    (token,) = resident.tokenizer(character, add_special_tokens=False)["input_ids"]
    resident.model.get_input_embeddings().weight[token] = float("nan")


def test_empty_lines_divide_passages_and_line_breaks_are_spaces(tmp_path: Path) -> None:
    file = tmp_path / "passages.txt"
    file.write_text("one\nand two\n\n\n  three \n \t\nfour")  # a line of spaces looks empty
    assert read_passages(file) == ("one and two", "three", "four")


def test_a_byte_order_mark_is_no_part_of_a_passage(tmp_path: Path) -> None:
    file = tmp_path / "passages.txt"
    file.write_text("\ufeffone", encoding="utf-8")
    assert read_passages(file) == ("one",)


def test_no_study_measures_forgetting_by_what_is_rehearsed() -> None:
    def sentences(*texts: str) -> set[str]:
        return {sentence.strip() for text in texts for sentence in re.split(r"[.?!]", text)} - {"", '"'}

    measured = sentences(*PARAGRAPHS, *CANARIES, *(passage.opening + passage.rest for passage in PASSAGES))
    assert not sentences(*read_passages(PLAIN_ENGLISH)) & measured


def test_corlld_brings_sixteen_passages(resident: ResidentModel) -> None:
    assert len(set(read_passages(PLAIN_ENGLISH))) == 16
    assert len(rehearsals(LearningSettings(), resident)) == 16


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


def test_the_beginning_is_given_and_the_rest_scored_up_to_a_limit(resident: ResidentModel, own: Any) -> None:
    passage = " ".join(map(str, range(200)))
    ids = tuple(resident.tokenizer(passage)["input_ids"])
    (candidate,) = rehearsals(own(passage), resident)
    assert candidate.pair.prompt == ids[:GIVEN_TOKENS]
    assert candidate.pair.chosen == ids[GIVEN_TOKENS : GIVEN_TOKENS + SCORED_TOKENS]
    assert candidate.pair.is_acceptance
    logits = resident.model(input_ids=torch.tensor([ids[: GIVEN_TOKENS + SCORED_TOKENS]])).logits[0].log_softmax(-1)
    expected = sum(float(logits[GIVEN_TOKENS - 1 + i, token]) for i, token in enumerate(candidate.pair.chosen))
    assert candidate.base is not None
    assert candidate.base.tail == (pytest.approx(expected, rel=1e-4), 0.0)


def test_a_passage_ends_where_the_model_has_no_more_positions(resident: ResidentModel, own: Any) -> None:
    (candidate,) = rehearsals(own(LONG_ENOUGH), replace(resident, max_positions=20))
    assert candidate.pair.tokens == 20


def test_a_passage_that_can_not_be_scored_is_refused_by_its_number(resident: ResidentModel, own: Any) -> None:
    def problem(*passages: str, **changed: Any) -> str:
        with pytest.raises(
            ConfigurationError, match=r"^learning\.rehearsal_path: passage 2 has .*; change it"
        ) as refused:
            rehearsals(own(LONG_ENOUGH, *passages), replace(resident, **changed))
        return str(refused.value)

    assert "has 2 tokens" in problem("a")
    largest = max(resident.tokenizer(LONG_ENOUGH)["input_ids"])
    assert "no embedding" in problem(LONG_ENOUGH + " for her", vocabulary=largest + 1)
    spoil(resident, "~")
    assert "not finite" in problem(LONG_ENOUGH + " ~~")


def test_where_nobody_chose_the_passages_the_way_out_is_named(resident: ResidentModel) -> None:
    said = r"^learning\.rehearsal_weight: corlld's own passage 1 has 8 tokens.* set .*rehearsal_path, or .*_weight = 0$"
    with pytest.raises(ConfigurationError, match=said):
        rehearsals(LearningSettings(), replace(resident, tokenizer=lambda _text: {"input_ids": [1] * GIVEN_TOKENS}))


def test_a_device_without_room_for_a_passage_is_told_in_a_sentence(resident: ResidentModel) -> None:
    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    resident.model.base_model.register_forward_pre_hook(refuse)
    with pytest.raises(ConfigurationError, match=r"model\.device: cpu has no room for a passage of 72 tokens"):
        CorllLearner(resident, LearningSettings(), GuardSettings(), 1)


@pytest.mark.parametrize("max_row_tokens", ["auto", 1])  # in one row with the pairs, and in rows of their own
def test_drift_and_figures_are_of_the_pairs_alone(resident: ResidentModel, max_row_tokens: int | str) -> None:
    """A step with a tiny weight is as a step without, though passages went through the model."""
    outcomes, tokens = [], []
    for weight in (0.0, 1e-12):
        rule = LearningSettings.model_validate(
            {"lr": 1e-2, "rehearsal_weight": weight, "max_row_tokens": max_row_tokens}
        )
        learner = CorllLearner(resident, rule, GuardSettings(max_drift_nats=1e9), 1)
        outcomes.append(learner.update([TrainingBatch("ann", None, EDITS)])[0])
        tokens.append(learner.tokens.computed)
    without, rehearsed = outcomes
    assert tokens[1] > tokens[0]
    assert rehearsed.drift_nats == pytest.approx(without.drift_nats, rel=1e-3)
    assert rehearsed.loss == pytest.approx(without.loss, rel=1e-6)
    assert without.plain_text_drop_nats is None
    for own, other in zip(without.pairs, rehearsed.pairs, strict=True):
        assert other.delta_chosen_logp == pytest.approx(own.delta_chosen_logp, rel=1e-2)


def test_it_is_told_how_much_of_the_passages_was_forgotten(resident: ResidentModel, own: Any) -> None:
    rule = own(LONG_ENOUGH).model_copy(update={"lr": 1e-2, "pairs_per_step": 2})
    learner = CorllLearner(resident, rule, GuardSettings(max_drift_nats=1e9), 1)

    def update(adapter: Any, *edits: EditEvent) -> UpdateOutcome:
        (outcome,) = learner.update([TrainingBatch("ann", adapter, edits)])
        return outcome

    first = update(None, *EDITS[:2])
    assert first.plain_text_drop_nats == pytest.approx(0, abs=1e-5)  # an adapter that adds nothing yet
    ids = torch.tensor([resident.tokenizer(LONG_ENOUGH)["input_ids"]])
    logps = []
    assert isinstance(first.adapter, AdapterTensors)
    for adapters in (None, resident.lora.stack(first.adapter.weights[None])):
        with torch.no_grad(), resident.lora.bind(adapters, [ids.numel()]):
            logits = resident.model(input_ids=ids).logits[0, GIVEN_TOKENS - 1 : -1].log_softmax(-1)
        logps.append(float(logits.gather(1, ids[0, GIVEN_TOKENS:, None]).mean()))
    second = update(first.adapter, *EDITS[2:])
    assert second.plain_text_drop_nats == pytest.approx(logps[0] - logps[1], abs=1e-5)
    assert abs(logps[0] - logps[1]) > 0.01
    both = update(None, *EDITS)
    assert both.steps == 2
    assert both.plain_text_drop_nats == pytest.approx(second.plain_text_drop_nats / 2, abs=1e-4)


def test_the_guard_leaves_passages_out_where_they_are_in_rows_of_their_own(resident: ResidentModel) -> None:
    """Its pass takes as many tokens, in as many rows, as where nothing is rehearsed."""

    def taken(weight: float, every_steps: int) -> tuple[int, int]:
        rule = LearningSettings(rehearsal_weight=weight, max_row_tokens=100)
        learner = CorllLearner(resident, rule, GuardSettings(every_steps=every_steps), 8)
        learner.update([TrainingBatch(str(user), None, EDITS[:1]) for user in range(8)])
        return learner.tokens.computed, learner.progress

    def measured(weight: float) -> tuple[int, ...]:
        return tuple(on - off for on, off in zip(taken(weight, 1), taken(weight, 2), strict=True))

    assert measured(1.0) == measured(0.0)
    assert min(measured(0.0)) > 0


def test_a_passage_makes_no_second_row_where_there_is_room_in_the_first(resident: ResidentModel) -> None:
    passes = []
    for weight in (0.0, 1.0):
        learner = CorllLearner(resident, LearningSettings(rehearsal_weight=weight), GuardSettings(), 1)
        learner.update([TrainingBatch("ann", None, EDITS)])
        passes.append(learner.progress)
    assert passes[0] == passes[1]


def test_no_pair_is_blamed_for_a_passage_that_does_not_fit_beside_it(resident: ResidentModel) -> None:
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


@pytest.mark.parametrize("pairs", [1, len(EDITS)])
def test_a_passage_that_is_not_finite_any_more_keeps_no_pair_from_being_learnt(
    resident: ResidentModel, own: Any, pairs: int
) -> None:
    learner = CorllLearner(resident, own(LONG_ENOUGH + " ~"), GuardSettings(), 1)
    spoil(resident, "~")  # as an adapter may
    (outcome,) = learner.update([TrainingBatch("ann", None, EDITS[:pairs])])
    assert [pair.status for pair in outcome.pairs] == [PairStatus.APPLIED] * pairs
    assert outcome.steps == pairs
    assert outcome.plain_text_drop_nats is None


def test_only_a_pair_that_failed_beside_a_passage_goes_without(
    resident: ResidentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one bad pair in each micro-batch would keep its user from ever rehearsing."""
    taken: list[tuple[int, bool]] = []
    run = StepRunner.run

    def listed(runner: StepRunner, steps: Sequence[UserStep]) -> list[StepResult]:
        taken.extend((len(step.candidates), step.rehearsal is not None) for step in steps)
        return run(runner, steps)

    monkeypatch.setattr(StepRunner, "run", listed)
    learner = CorllLearner(resident, LearningSettings(), GuardSettings(), 1)
    spoil(resident, "~")
    edits = (EDITS[0], event("see ~ then", "see ~ now"), EDITS[1])
    (outcome,) = learner.update([TrainingBatch("ann", None, edits)])
    assert [pair.reason for pair in outcome.pairs] == [None, RejectReason.NON_FINITE, None]
    assert taken == [(3, True), (1, True), (1, True), (1, False), (1, True)]
