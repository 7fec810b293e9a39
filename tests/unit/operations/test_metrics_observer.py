"""Each metric moves when the observer is called for what it counts, by as much, and nothing else moves with it."""

from typing import Any

import pytest

from corlld.durable import AdapterHeader, DraftFigures, ModelInfo, Participation, Statistics, UserState
from corlld.errors import InvalidEvent, InvalidReason, RejectReason
from corlld.experiment.arms import Arms
from corlld.observer import Observers
from corlld.operations.health import Health
from corlld.operations.liveness import Liveness
from corlld.operations.metrics_observer import MetricsObserver
from corlld.operations.prometheus import Metrics
from corlld.records import (
    DeadLetter,
    EraseEvent,
    PairOutcome,
    PairStatus,
    PartitionStatus,
    Stage,
    Unannounced,
    UpdateOutcome,
)
from corlld.settings.sections import ExperimentSettings, GuardSettings, LearningSettings
from tests.support.fakes import NOON, arrival, edit_event, loop_status, record
from tests.support.metric_series import STARTED_AT, Watched, figures


def test_readiness_goes_with_the_start_the_loop_and_the_stop(watched: Watched) -> None:
    def waits() -> set[str]:
        return {stage for stage in Stage if watched[f"corlld_waiting_for{{stage={stage}}}"]}

    for stage in (Stage.INPUT, Stage.MODEL, Stage.STATE):
        watched.observer.starting(stage)
        assert (watched["corlld_ready"], waits()) == (0, {stage})
    watched.observer.turned(loop_status(now=50.0))
    assert (watched["corlld_ready"], waits()) == (1, set())
    watched.observer.turned(loop_status(now=50.0, waiting_for=(Stage.STATE, Stage.DEAD_LETTERS)))
    assert (watched["corlld_ready"], waits()) == (0, {"state", "dead_letters"})
    watched.observer.turned(loop_status(now=50.0))
    watched.now = 351.0
    assert watched["corlld_ready"] == 0, "a loop that is stuck learns nothing"
    watched.observer.turned(loop_status(now=351.0, stopping=True))
    assert (watched["corlld_ready"], waits()) == (0, set())


def test_tokens_are_counted_by_what_was_computed_since_the_last_turn(watched: Watched) -> None:
    watched.observer.turned(loop_status(now=1.0, computed_tokens=100, padding_tokens=20))
    watched.observer.turned(loop_status(now=2.0, computed_tokens=150, padding_tokens=20))
    assert watched["corlld_tokens_total{kind=needed}"] == 130
    assert watched["corlld_tokens_total{kind=padding}"] == 20


def test_the_model_is_shown_once_it_is_resident(watched: Watched) -> None:
    watched.observer.model_loaded(ModelInfo("served", "r1", "f1", supports_messages=True), "cpu", "float32")
    name = "corlld_model_info{model=served}{revision=r1}{device=cpu}{dtype=float32}{adapter=f1}"
    assert watched.moved() == {name: 1}


def test_gauges_follow_the_loops_status_and_a_revoked_partition_leaves(watched: Watched) -> None:
    watched.observer.turned(
        loop_status(
            now=50.0,
            buffered_events=3,
            buffered_chars=400,
            reading_paused=True,
            partitions={0: PartitionStatus(7, 1.5), 4: PartitionStatus(0, 2.5), 5: PartitionStatus(None, 0.0)},
            host_memory_users=2,
            host_memory_bytes=9_000,
            unsaved_users=1,
            unsaved_age_seconds=12.5,
            unannounced=Unannounced(4, 90.0),
            paused_partitions={Stage.STATE: 3, Stage.VALID_RECORDS: 2, Stage.LOW_WATERMARK: 1},
            users_aside=4,
        )
    )
    seen = figures(watched.metrics.registry)
    assert {name: figure for name, figure in seen.items() if "lag" in name} == {
        "corlld_consumer_lag{partition=0}": 7,
        "corlld_consumer_lag{partition=4}": 0,
    }, "what is not known is left out"
    assert {
        "corlld_buffered_events": 3.0,
        "corlld_buffered_chars": 400.0,
        "corlld_reading_paused": 1.0,
        "corlld_partitions": 3.0,
        "corlld_low_watermark_age_seconds": 2.5,
        "corlld_host_memory_users": 2.0,
        "corlld_host_memory_bytes": 9_000.0,
        "corlld_unsaved_users": 1.0,
        "corlld_unsaved_age_seconds": 12.5,
        "corlld_unannounced_users": 4.0,
        "corlld_unannounced_age_seconds": 90.0,
        "corlld_paused_partitions{stage=state}": 3.0,
        "corlld_paused_partitions{stage=valid_records}": 2.0,
        "corlld_paused_partitions{stage=low_watermark}": 1.0,
        "corlld_users_aside": 4.0,
    }.items() <= seen.items()
    watched.observer.turned(loop_status(now=51.0, partitions={4: PartitionStatus(1, 0.0)}))
    seen = figures(watched.metrics.registry)
    assert {name: figure for name, figure in seen.items() if "lag" in name} == {"corlld_consumer_lag{partition=4}": 1}
    assert (seen["corlld_low_watermark_age_seconds"], seen["corlld_reading_paused"]) == (0, 0)


def test_ages_grow_on_while_the_loop_stands_still(watched: Watched) -> None:
    watched.observer.turned(
        loop_status(
            now=50.0,
            partitions={0: PartitionStatus(7, 1.5)},
            unsaved_users=1,
            unsaved_age_seconds=12.5,
            unannounced=Unannounced(1, 30.0),
        )
    )
    watched.now = 2_050.0
    assert watched["corlld_low_watermark_age_seconds"] == 2_001.5, "the alert of a stuck daemon looks at it"
    assert watched["corlld_unsaved_age_seconds"] == 2_012.5
    assert watched["corlld_unannounced_age_seconds"] == 2_030.0
    watched.observer.turned(loop_status(now=2_050.0, partitions={0: PartitionStatus(7, 0.0)}))
    watched.now = 2_060.0
    assert (watched["corlld_low_watermark_age_seconds"], watched["corlld_unsaved_age_seconds"]) == (0, 0)
    assert watched["corlld_unannounced_age_seconds"] == 0


def test_an_update_moves_exactly_what_it_says(watched: Watched) -> None:
    """Four events of a user at version 3, by all three origins; 1 of the 3 scored pairs is saturated."""
    events = [
        edit_event("a", version=0),
        edit_event("b", version=3),
        edit_event("c", version=9),
        edit_event("d", version=3, accepted=True),
    ]
    pairs = (
        PairOutcome(PairStatus.APPLIED, margin=30.0, edited_rise=0.5, scored_by_trained=True, delta_chosen_logp=0.5),
        PairOutcome(
            PairStatus.APPLIED, margin=-1.0, edited_rise=-0.75, scored_by_trained=True, delta_chosen_logp=-0.25
        ),
        PairOutcome(PairStatus.REJECTED, RejectReason.DRIFT, margin=0.0, edited_rise=0.125, scored_by_trained=True),
        PairOutcome(PairStatus.ACCEPTANCE),
    )
    outcome = UpdateOutcome(
        "u1", None, trained=True, pairs=pairs, drift_nats=0.03, plain_text_drop_nats=0.3, saturated_share=1 / 3
    )
    watched.observer.update(Statistics(), UserState("u1", version=3), events, outcome)
    ratio = 4 / 5  # of "draft" to "text", see test_statistics
    assert watched.moved() == {
        "corlld_updates_total": 1,
        "corlld_pairs_total{status=applied}": 2,
        "corlld_pairs_total{status=rejected}": 1,
        "corlld_pairs_total{status=acceptance}": 1,
        "corlld_rejected_total{reason=drift}": 1,
        "corlld_scored_pairs_total": 3,
        "corlld_saturated_pairs_total": 1,
        "corlld_prequential_pairs_total{draft=base}": 1,
        "corlld_prequential_correct_total{draft=base}": 1,
        "corlld_prequential_margin_nats_count{draft=base}": 1,
        "corlld_prequential_pairs_total{draft=own}": 1,
        "corlld_prequential_margin_nats_count{draft=own}": 1,
        "corlld_prequential_pairs_total{draft=unknown}": 1,
        "corlld_prequential_correct_total{draft=unknown}": 0.5,  # a tie
        "corlld_prequential_margin_nats_count{draft=unknown}": 1,
        "corlld_edited_logp_rise_nats_count": 3,
        "corlld_edited_logp_moved_nats_total{direction=up}": 0.625,
        "corlld_edited_logp_moved_nats_total{direction=down}": 0.75,
        "corlld_chosen_logp_change_nats_count": 2,
        "corlld_drift_nats_count": 1,
        "corlld_drift_nats_sum": 0.03,
        "corlld_plain_text_drop_nats_count": 1,
        "corlld_draft_edit_ratio_count{draft=base}": 1,
        "corlld_draft_edit_ratio_sum{draft=base}": ratio,
        "corlld_draft_edit_ratio_count{draft=own}": 2,
        "corlld_draft_edit_ratio_sum{draft=own}": ratio,
        "corlld_draft_edit_ratio_count{draft=unknown}": 1,
        "corlld_draft_edit_ratio_sum{draft=unknown}": ratio,
        "corlld_drafts_accepted_total{draft=own}": 1,
        "corlld_draft_repetition_ratio_count{draft=base}": 1,
        "corlld_draft_repetition_ratio_count{draft=own}": 2,
        "corlld_draft_repetition_ratio_count{draft=unknown}": 1,
    }


def test_a_version_made_by_the_very_update_is_not_yet_the_users_own(watched: Watched) -> None:
    outcome = UpdateOutcome("u1", None, trained=True, pairs=(PairOutcome(PairStatus.APPLIED),))
    watched.observer.update(Statistics(), UserState("u1", version=3), [edit_event("a", version=4)], outcome)
    assert watched.moved()["corlld_draft_edit_ratio_count{draft=unknown}"] == 1


def test_pairs_that_an_untrained_adapter_scored_are_not_judged(watched: Watched) -> None:
    outcome = UpdateOutcome(
        "u1",
        None,
        trained=True,
        pairs=(PairOutcome(PairStatus.APPLIED, margin=0.0, edited_rise=0.0),),
        saturated_share=0.0,
    )
    watched.observer.update(Statistics(), UserState("u1", version=1), [edit_event("a")], outcome)
    moved = watched.moved()
    assert moved["corlld_scored_pairs_total"] == 1
    assert not any("prequential" in name or "edited_logp" in name for name in moved)


def test_repetition_is_compared_with_the_users_own_first_drafts(watched: Watched) -> None:
    before = Statistics(first_drafts=DraftFigures(events=8, repetition_sum=0.8))
    event = edit_event("a", version=1)
    looping = type(event)(**{f: getattr(event, f) for f in event.__slots__} | {"proposed": "so so so so"})
    outcome = UpdateOutcome("u1", None, trained=False, pairs=(PairOutcome(PairStatus.NO_DIFFERENCE),) * 2)
    watched.observer.update(before, UserState("u1", version=1), [looping, event], outcome)
    moved = watched.moved()
    assert moved["corlld_draft_repetition_ratio_sum{draft=own}"] == pytest.approx(0.75)
    assert moved["corlld_draft_repetition_rise_ratio_count{draft=own}"] == 2
    assert moved["corlld_draft_repetition_rise_ratio_sum{draft=own}"] == pytest.approx(0.75 - 0.1), "0 for the other"
    assert "corlld_updates_total" not in moved


def test_a_call_of_the_learner_is_timed_with_its_users(watched: Watched) -> None:
    watched.observer.step(3, 0.5)
    assert watched.moved() == {
        "corlld_step_users_count": 1,
        "corlld_step_users_sum": 3,
        "corlld_step_seconds_count": 1,
        "corlld_step_seconds_sum": 0.5,
    }


def test_the_way_to_publication_is_timed_from_the_records_own_time_else_from_its_arrival(watched: Watched) -> None:
    of_kafka = arrival(0)
    sent = type(of_kafka)("u1", edit_event("a"), _timed(1_990.0), arrived_at=49.0)
    from_the_future = type(of_kafka)("u1", edit_event("b"), _timed(2_100.0), arrived_at=49.0)
    of_a_file = arrival(2, at=47.0)
    watched.observer.published(UserState("u1", version=1), [sent, from_the_future, of_a_file], 0.25)
    moved = watched.moved()
    assert moved["corlld_edit_to_published_seconds_count"] == 3
    assert moved["corlld_edit_to_published_seconds_sum"] == pytest.approx((2_000.0 - 1_990.0) + 0.0 + (50.0 - 47.0))
    assert moved["corlld_publish_seconds_sum"] == 0.25


def _timed(seconds: float) -> Any:
    plain = record(0)
    return type(plain)(plain.tenure, 0, 1, None, None, timestamp_seconds=seconds)


def test_an_erasure_counts_as_such_and_not_as_a_version(watched: Watched) -> None:
    erased = arrival(0, EraseEvent("x", "ann", NOON))
    watched.observer.published(UserState("u1", erased=True), [erased], 0.25)
    assert watched.moved() == {
        "corlld_erasures_total": 1,
        "corlld_publish_seconds_count": 1,
        "corlld_publish_seconds_sum": 0.25,
        "corlld_last_publication_timestamp_seconds": watched.unix_now - STARTED_AT,
    }


def test_a_dead_letter_moves_its_reason_alone(watched: Watched) -> None:
    watched.observer.dead_letter(DeadLetter(record(0), InvalidEvent(InvalidReason.TOO_LARGE), None))
    assert watched.moved() == {"corlld_dead_letters_total{reason=too_large}": 1}


HOLDOUT = {"arms": [{"name": "off", "share": 0.2, "holdout": True}], "drafts": 2}


def test_users_of_arms_are_counted_by_arm_and_their_outcome_once() -> None:
    experiment = ExperimentSettings.model_validate(HOLDOUT)
    arms = Arms(experiment, LearningSettings(), GuardSettings())
    metrics = Metrics(0.0, 10, {"off": False, "default": True})
    observer = MetricsObserver(metrics, Health(Liveness(300.0)), arms=arms)

    def update(arm: str, terms: str, seen: int, versions: list[int | None], outcome: DraftFigures) -> None:
        events = [edit_event(f"{arm}-{seen + n}", version=version) for n, version in enumerate(versions)]
        part = Participation(arm, terms, outcome, completed_at=1.0 if outcome.events == 2 else None)
        after = UserState("u", 1, statistics=Statistics(events=seen + len(events)), participation=part)
        pairs = tuple(PairOutcome(PairStatus.APPLIED) for _ in events)
        before = Statistics(events=seen, first_drafts=DraftFigures(events=min(8, seen)))
        report = UpdateOutcome("u", None, trained=True, pairs=pairs, plain_text_drop_nats=0.02)
        observer.update(before, after, events, report)

    terms = arms.by_name["default"].digest
    update("default", terms, 0, [0] * 8, DraftFigures())
    update("default", terms, 8, [1, 1], DraftFigures(2, 0, 1.0))
    update("default", terms, 10, [1], DraftFigures(2, 0, 1.0))
    update("gone", "x", 0, [None], DraftFigures())
    seen = figures(metrics.registry)
    assert seen["corlld_arm_users_total{arm=default}"] == 1
    assert seen["corlld_arm_users_total{arm=retired}"] == 1
    assert seen["corlld_arm_users_total{arm=off}"] == 0
    assert seen["corlld_arm_edit_ratio_count{arm=default}{draft=base}"] == 8
    assert seen["corlld_arm_edit_ratio_count{arm=default}{draft=own}"] == 3
    assert seen["corlld_arm_edit_ratio_sum{arm=default}{draft=own}"] == pytest.approx(3 * 0.8)
    assert seen["corlld_arm_plain_text_drop_nats_count{arm=default}"] == 3
    assert seen["corlld_arm_outcome_edit_ratio_count{arm=default}{learns=true}"] == 1
    assert seen["corlld_arm_outcome_edit_ratio_sum{arm=default}{learns=true}"] == 0.5
    assert seen["corlld_arm_outcome_squares_total{arm=default}{learns=true}"] == 0.25
    assert seen["corlld_arm_outcome_edit_ratio_count{arm=off}{learns=false}"] == 0


@pytest.mark.parametrize(
    ("began", "now", "arm"),
    [("old", "new", "retired"), (None, "new", "retired"), ("old", None, "retired"), ("new", "new", "default")],
)
def test_users_who_began_from_another_start_adapter_count_as_retired(
    began: str | None, now: str | None, arm: str
) -> None:
    experiment = ExperimentSettings.model_validate(HOLDOUT)
    arms = Arms(experiment, LearningSettings(), GuardSettings())
    metrics = Metrics(0.0, 10, {"off": False, "default": True})
    observer = Observers(MetricsObserver(metrics, Health(Liveness(300.0)), arms=arms))
    observer.new_users_begin_from(now)
    part = Participation("default", arms.by_name["default"].digest, DraftFigures(2, 0, 1.0), completed_at=1.0)
    own = AdapterHeader(optimizer_step=3, start=began)
    after = UserState("u", 1, adapter=own, statistics=Statistics(events=10), participation=part)
    report = UpdateOutcome("u", own, trained=True, pairs=(PairOutcome(PairStatus.APPLIED),) * 2)
    before = Statistics(events=8, first_drafts=DraftFigures(events=8))
    observer.update(before, after, [edit_event("a", version=1), edit_event("b", version=1)], report)
    seen = figures(metrics.registry)
    assert seen[f"corlld_arm_edit_ratio_count{{arm={arm}}}{{draft=own}}"] == 2
    assert seen["corlld_arm_outcome_edit_ratio_count{arm=default}{learns=true}"] == (arm == "default")
