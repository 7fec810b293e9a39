"""The ways that are compared do the same: otherwise their seconds would say nothing."""

from dataclasses import replace

import pytest
import torch

from corlld.bench import ours
from corlld.bench.comparison import FP32, RATIOS, Comparison, Series, check_same
from corlld.bench.ways import GUARDED, UNGUARDED, Took
from corlld.bench.workloads import Edit, Workload, choose, made_up_edits
from corlld.errors import FatalError
from corlld.learning.model.pairs import PreferencePair
from corlld.learning.model.resident import ResidentModel
from corlld.learning.rehearsal import GIVEN_TOKENS, SCORED_TOKENS
from corlld.settings.sections import GuardSettings
from tests.support.tiny_models import make_tiny_model

SAME = ("trl", "peft", "single", "packed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("model"), "gemma3"))


@pytest.fixture(scope="module")
def resident(folder: str) -> ResidentModel:
    return ours.load(folder, FP32)


@pytest.fixture(scope="module")
def comparison(folder: str, resident: ResidentModel) -> Comparison:
    return Comparison(folder, resident, choose(made_up_edits(), ours.make_encoder(resident.tokenizer)))


class _Moved:
    def __init__(self, weights: torch.Tensor) -> None:
        self._weights = weights

    def round(self) -> Took:
        raise AssertionError

    def weights(self) -> list[torch.Tensor]:
        return [self._weights]


def test_trl_the_peft_loop_and_both_of_ours_end_with_the_same_tensors(comparison: Comparison) -> None:
    series = [Series("16x1", FP32, way) for way in SAME]
    seconds = comparison.measure(series, 1, lambda _: None)  # raises where they do not
    assert set(seconds) == {*series, Series("16x1", FP32, "trl, constructed")}
    assert all(len(rounds) == 1 and rounds[0] > 0 for rounds in seconds.values())
    assert seconds[Series("16x1", FP32, "trl, constructed")] > seconds[Series("16x1", FP32, "trl")]


@pytest.mark.parametrize(("workload", "ways"), [("4x4", SAME), ("1x16", SAME[1:])])
def test_steps_of_several_pairs_are_the_same_too(comparison: Comparison, workload: str, ways: tuple[str, ...]) -> None:
    """A pair alone has its gradient clipped: how strong it is shows in the company of others."""
    comparison.measure([Series(workload, FP32, way) for way in ways], 1, lambda _: None)


@pytest.mark.parametrize("guard", [UNGUARDED, GUARDED])
def test_an_edit_that_the_daemon_would_refuse_is_trained_on(resident: ResidentModel, guard: GuardSettings) -> None:
    """The peers know no guard: without it the bench would end on such a file of edits."""
    pasted = replace(made_up_edits()[0], edited="buy now " * 10)
    encoder = ours.make_encoder(resident.tokenizer)
    pair = encoder.encode(pasted)
    assert isinstance(pair, PreferencePair)
    ours.trained_starts(ours.make_learner(resident, guard, 1), Workload("pasted", ((Edit(pasted, pair),),)))


def test_rehearsing_adds_a_passage_of_each_user_to_the_guarded_step(comparison: Comparison) -> None:
    """So that the ratio of the two is what the passages cost in a step as the daemon takes it by default."""
    workload = comparison._workloads["16x1"]
    starts = ours.trained_starts(comparison._learner(FP32, "packed"), workload)
    computed = []
    for series in (Series("16x1", FP32, "packed"), *RATIOS["rehearsal_cost"]):
        learner = comparison._learner(FP32, series.way)
        before = learner.tokens.computed
        comparison._make(workload, series, starts).round()
        computed.append(learner.tokens.computed - before)
    packed, guarded, rehearsing = computed
    assert packed < guarded
    assert rehearsing == guarded + len(workload.users) * (GIVEN_TOKENS + SCORED_TOKENS)


def test_a_way_that_ends_elsewhere_stops_the_bench() -> None:
    start = torch.tensor([1.0, 0.0, 0.0])
    small, large = torch.tensor([0.0, 1e-3, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    aside = torch.tensor([0.0, 0.0, 1.0])
    check_same([start], {"one": _Moved(start + small), "the same": _Moved(start + small + 1e-6 * aside)})
    # A tenth of a small step is little of the weights, and 1e-3 of the weights is little of a large step.
    for step, apart in ((small, 1e-4 * aside), (large, 1e-3 * aside)):
        with pytest.raises(FatalError, match="other ends with other tensors than one"):
            check_same([start], {"one": _Moved(start + step), "other": _Moved(start + step + apart)})
