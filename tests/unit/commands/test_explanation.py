"""The story of a user: bands that hold, and sentences that say no more than they may."""

import math
import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from corlld.commands.explanation import REJECTED, Mean, explain, mean_of, meaning
from corlld.durable import BaseDraftPairs, DraftFigures, EditedRise, Participation, Statistics, UserState
from corlld.errors import RejectReason
from corlld.experiment.arms import Arms
from corlld.settings.learning_rule import Arm
from corlld.settings.sections import ExperimentSettings, GuardSettings, LearningSettings
from tests.support.states import UID, adapter, tombstone

NO_ARMS = Arms(ExperimentSettings(), LearningSettings(), GuardSettings())
ARMS = Arms(
    ExperimentSettings(
        arms=(Arm(name="off", share=0.1, holdout=True), Arm(name="slow", share=0.1, learning={"lr": 1e-4}))
    ),
    LearningSettings(),
    GuardSettings(),
)


def figures(drafts: int, ratio: float, accepted: int = 0) -> DraftFigures:
    return DraftFigures(drafts, accepted, drafts * ratio, 0.0)


def state(**statistics: object) -> UserState:
    return UserState(UID, 3, statistics=replace(Statistics(events=40, updates=5), **statistics))


def first_sentence(**statistics: object) -> str:
    return explain(state(**statistics), NO_ARMS).sentences[0]


# --- bands ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 8, 500])
def test_a_band_around_nothing_or_everything_is_what_the_bound_gives_by_hand(count: int) -> None:
    # n ln(1 / (1 - q)) = ln(2 / .05)
    edge = 1 - 40 ** (-1 / count)
    none, everything = mean_of(0.0, count), mean_of(float(count), count)
    assert none == Mean(0.0, 0.0, pytest.approx(edge, abs=1e-9), count)
    assert everything == Mean(1.0, pytest.approx(1 - edge, abs=1e-9), 1.0, count)


@pytest.mark.parametrize(("mean", "count"), [(0.5, 10), (0.1, 40), (0.93, 7)])
def test_at_the_edges_of_a_band_the_bound_is_met_and_hoeffdings_simpler_one_is_wider(mean: float, count: int) -> None:
    found = mean_of(mean * count, count)
    assert found is not None
    for edge in (found.low, found.high):
        divergence = mean * math.log(mean / edge) + (1 - mean) * math.log((1 - mean) / (1 - edge))
        assert count * divergence == pytest.approx(math.log(40), rel=1e-6)
        assert abs(edge - mean) < math.sqrt(math.log(40) / (2 * count))
    assert found.low < mean < found.high


@pytest.mark.parametrize("accepted", [0.0, 0.4, 0.9])
def test_a_band_holds_the_true_mean_in_95_of_100_cases_at_least(accepted: float) -> None:
    """Of drafts that are accepted, or else changed by a share that is drawn at random."""
    random = np.random.default_rng(0)
    shares = random.beta(0.5, 1.0, (2000, 12)) * (random.random((2000, 12)) >= accepted)
    truth = (1 - accepted) / 3
    bands = [mean_of(float(total), 12) for total in shares.sum(axis=1)]
    assert sum(band is not None and band.low <= truth <= band.high for band in bands) >= 0.95 * 2000


def test_no_value_has_no_mean() -> None:
    assert mean_of(0.0, 0) is None


# --- what is said -----------------------------------------------------------------------------------------------------


def test_drafts_that_need_less_editing_help_and_those_that_need_more_do_harm() -> None:
    good = first_sentence(drafts={"0": figures(60, 0.6), "1": figures(30, 0.2), "2": figures(30, 0.1)})
    assert good.startswith("It helps: the own versions' drafts need less editing.")
    assert re.search(r"an edit ratio of 0\.15 \(0\.\d\d to 0\.\d\d, 60 drafts\), and the base model's drafts", good)
    assert "the base model's drafts of 0.60 (" in good
    bad = first_sentence(drafts={"0": figures(60, 0.1), "older": figures(30, 0.6), "2": figures(30, 0.6)})
    assert bad.startswith("It does harm: the own versions' drafts need more editing.")


def test_bands_that_meet_decide_nothing() -> None:
    early = first_sentence(drafts={"0": figures(6, 0.6), "1": figures(6, 0.2)})
    assert early.startswith("Too few drafts to tell: the bands meet.")


def test_without_drafts_of_the_base_model_the_first_drafts_are_compared_with() -> None:
    found = first_sentence(drafts={"1": figures(90, 0.1)}, first_drafts=figures(8, 0.9))
    assert found.startswith("It helps")
    assert "the first drafts of 0.90 (" in found


def test_drafts_of_unknown_versions_prove_nothing() -> None:
    found = first_sentence(drafts={"0": figures(60, 0.6), "unknown": figures(60, 0.1)})
    assert found == "No draft is known to be of an own version, so that edits can't tell whether drafts got better."


@pytest.mark.parametrize(
    ("total", "start", "words"),
    [
        (8.0, None, "made it more likely than the base model does, as it should: +0.100 nats per token over 80 edits."),
        (-4.0, "digest", "made it less likely than the start adapter does, which a user's own texts must not become"),
    ],
)
def test_the_rise_of_edited_texts_is_told_by_its_sign_and_by_what_it_is_compared_with(
    total: float, start: str | None, words: str
) -> None:
    began = replace(state(edited_rise=EditedRise(80, total)), adapter=replace(adapter(), start=start))
    told = explain(began, NO_ARMS, start)
    assert told.edited_rise_nats == total / 80
    assert words in told.sentences[1]
    none = explain(state(), NO_ARMS)
    assert none.edited_rise_nats is None
    assert not any("nats per token" in sentence for sentence in none.sentences)


@pytest.mark.parametrize(
    ("began", "now", "words"),
    [
        ("old", "new", "began from another start adapter, and new users begin elsewhere (adapter.start_path)"),
        ("old", None, "it is compared with the base model since then."),
        (None, "new", "began from the base model, and new users begin elsewhere"),
        ("new", "new", None),
        (None, None, None),
    ],
)
def test_who_began_from_another_adapter_than_new_users_do_is_told(
    began: str | None, now: str | None, words: str | None
) -> None:
    of_before = replace(state(edited_rise=EditedRise(80, 8.0)), adapter=replace(adapter(), start=began))
    in_an_arm = replace(of_before, participation=Participation("slow", ARMS.by_name["slow"].digest))
    without, within = explain(of_before, ARMS, now).sentences, explain(in_an_arm, ARMS, now).sentences
    told = [sentence for sentence in without if "began from" in sentence]
    assert [words in sentence for sentence in told if words] == ([True] if words else [])
    assert len(told) == (words is not None)
    assert not any("arm" in sentence for sentence in without)
    assert any("not compared with those of other arms" in sentence for sentence in within) == (words is not None)
    since = "than its start adapter (since that changed: the base model) does"
    assert any(since in sentence for sentence in without) == (began == "old")
    assert not any("began from" in sentence for sentence in explain(tombstone(), ARMS, now).sentences)


def on_accuracy(**statistics: object) -> str:
    found = explain(state(**statistics), NO_ARMS).sentences
    (sentence,) = [each for each in found if "pair" in each]
    return sentence


def test_accuracy_counts_only_where_no_draft_is_the_adapters_own() -> None:
    pairs = {"prequential_pairs": 100, "prequential_correct": 80.0}
    mixed = {"0": figures(25, 0.5), "1": figures(75, 0.5)}
    assert "in 0.80 (0." in on_accuracy(**pairs, drafts={"0": figures(100, 0.5)})
    assert on_accuracy(**pairs, drafts={"0": figures(100, 0.5)}).endswith("so that it knows the user's taste.")
    assert "That says little: 75% of the drafts were its own" in on_accuracy(**pairs, drafts=mixed)
    known = on_accuracy(**pairs, drafts=mixed, base_draft_pairs=BaseDraftPairs(25, 15.0))
    assert known.startswith(
        "Of the pairs with a draft of the base model, the adapter preferred the edited text in 0.60"
    )
    assert known.endswith("too few to tell whether that is better than a coin.")
    assert "the events name no version" in on_accuracy(**pairs, drafts={"unknown": figures(100, 0.5)})
    assert on_accuracy() == "No pair was scored by an adapter that had taken a step."


@pytest.mark.parametrize(
    ("pairs", "correct", "figure", "verdict"),
    [
        (1, 1.0, "1.00 (0.02 to 1.00, 1 pair)", "too few to tell whether that is better than a coin."),
        (4, 4.0, "1.00 (0.40 to 1.00, 4 pairs)", "too few to tell whether that is better than a coin."),
        (6, 6.0, "1.00 (0.54 to 1.00, 6 pairs)", "better than a coin, so that it knows the user's taste."),
        (9, 0.0, "0.00 (0.00 to 0.34, 9 pairs)", "no better than a coin, or hardly."),
        (1000, 520.0, "0.52 (0.48 to 0.56, 1,000 pairs)", "no better than a coin, or hardly."),
    ],
)
def test_an_accuracy_says_how_many_pairs_it_rests_on_and_when_they_are_too_few(
    pairs: int, correct: float, figure: str, verdict: str
) -> None:
    """For none or all of n right, the band's other edge is 40^(-1/n) from it; 520 of 1,000: at most sqrt(ln 40/2n)."""
    drafts = {"0": figures(pairs, 0.5)}
    found = on_accuracy(prequential_pairs=pairs, prequential_correct=correct, drafts=drafts)
    told = f"the adapter preferred the edited text in {figure}, before it learnt from them: {verdict}"
    assert found == f"Of the pairs, {told}"


def test_what_the_guard_kept_out_is_counted_and_what_is_no_work_of_its_is_not() -> None:
    told = explain(state(rejected={"drift": 3, "repetitive": 1, "too_long": 9}), NO_ARMS)
    assert "The guard kept 4 edits out, 10% of all." in " ".join(told.sentences)
    assert "The guard had nothing to do" in " ".join(explain(state(rejected={"too_long": 9}), NO_ARMS).sentences)


def test_an_erased_user_has_no_story() -> None:
    told = explain(tombstone(), NO_ARMS)
    assert len(told.sentences) == 1
    assert told.sentences[0].startswith("The user was erased")
    assert told.drafts == ()


def test_a_user_without_a_step_is_told_so_first() -> None:
    assert first_sentence(updates=0).startswith("No step was taken yet")


def of_arm(name: str, terms: str, **statistics: object) -> tuple[str, ...]:
    return explain(replace(state(**statistics), participation=Participation(name, terms)), ARMS).sentences


def test_a_holdout_is_told_that_edits_are_only_counted_and_not_that_a_step_is_missing() -> None:
    drafts = {"0": figures(40, 0.5)}
    assert of_arm("off", ARMS.by_name["off"].digest, updates=0, drafts=drafts) == (
        "The user joined as a holdout: edits are only counted.",
    )
    taught_since = of_arm("off", ARMS.by_name["off"].digest, drafts={**drafts, "3": figures(40, 0.1)})
    assert any(sentence.startswith("It helps") for sentence in taught_since)


def test_an_arm_that_is_retired_or_changed_has_a_sentence_and_its_users_learn() -> None:
    retired = of_arm("gone", "holdout", updates=0)
    assert retired[0].startswith("No step was taken yet")
    assert retired[-1] == "The arm gone is retired: the user learns by [learning], and is not compared any more."
    changed = of_arm("slow", "0" * 16)
    assert changed[-1] == "The rule of the arm slow changed after the user joined: the user is not compared any more."
    assert not any("arm" in sentence for sentence in of_arm("slow", ARMS.by_name["slow"].digest))


def test_each_reason_of_a_rejection_has_its_meaning_and_an_unknown_one_as_well() -> None:
    assert set(REJECTED) == set(RejectReason)
    assert len(set(REJECTED.values())) == len(RejectReason)
    assert meaning("drift") == REJECTED[RejectReason.DRIFT]
    assert meaning("of_later") == "a reason of another version of corlld"


# --- rows -------------------------------------------------------------------------------------------------------------


def test_drafts_stand_by_version_and_many_versions_share_rows_in_which_none_is_lost() -> None:
    drafts = {str(version): figures(version + 1, 0.5, accepted=1) for version in range(31)}
    drafts |= {"unknown": figures(2, 0.25), "older": figures(3, 0.75)}
    told = explain(state(drafts=drafts), NO_ARMS)
    names = [row.versions for row in told.drafts]
    assert names[:3] == ["base model", "older", "1 to 4"]
    assert names[-2:] == ["29 to 30", "not named"]
    assert len(names) <= 11
    assert sum(row.edit_ratio.count for row in told.drafts) == sum(each.events for each in drafts.values())
    assert sum(row.accepted for row in told.drafts) == 31
    assert told.own is not None
    assert told.own.count == sum(range(2, 32)) + 3
    few = explain(state(drafts={"0": figures(1, 0.5), "7": figures(2, 0.5), "11": figures(2, 0.5)}), NO_ARMS)
    assert [row.versions for row in few.drafts] == ["base model", "7", "11"]


def test_a_story_is_plain_values() -> None:
    assert asdict(explain(state(drafts={"0": figures(2, 0.5)}), NO_ARMS))["drafts"][0]["edit_ratio"]["value"] == 0.5
