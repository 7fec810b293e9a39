"""Each metric moves when what it counts happens, by as much, and nothing else moves with it."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from corlld.errors import InvalidEvent, InvalidReason, LostSwap, RejectReason, RetriableError
from corlld.observer import Observers
from corlld.operations.health import Health
from corlld.operations.liveness import Liveness
from corlld.operations.metrics import Metrics
from corlld.operations.metrics_observer import MetricsObserver
from corlld.records import (
    DeadLetter,
    DraftFigures,
    EraseEvent,
    ModelInfo,
    PairOutcome,
    PairStatus,
    PartitionStatus,
    Polled,
    Stage,
    Statistics,
    TrainingBatch,
    UpdateOutcome,
    UserState,
)
from tests.support.daemon_parts import Parts, begun, records, value
from tests.support.fakes import NOON, ListingLearner, ScriptedSource, arrival, edit, loop_status, record, tenure

STARTED_AT = 1_000.0
Figures = dict[str, float]


class Watched:
    """Metrics with clocks that the test sets, and what changed since the last look."""

    def __init__(self) -> None:
        self.now = 50.0  # monotonic
        self.unix_now = 2_000.0
        self.metrics = Metrics(STARTED_AT, buffer_limit_events=77)
        self.health = Health(Liveness(300), lambda: self.now)
        measured = MetricsObserver(self.metrics, self.health, lambda: self.now, lambda: self.unix_now)
        self.observer = Observers(self.health, measured)
        self._seen = figures(self.metrics.registry)

    def moved(self) -> Figures:
        """By how much each series moved since the last call; histograms by `_count` and `_sum` alone."""
        before, self._seen = self._seen, figures(self.metrics.registry)
        names = before.keys() | self._seen.keys()
        changes = {name: self._seen.get(name, 0.0) - before.get(name, 0.0) for name in names}
        return {name: change for name, change in changes.items() if change}

    def __getitem__(self, name: str) -> float:
        return figures(self.metrics.registry)[name]


def figures(registry: CollectorRegistry, *, buckets: bool = False) -> Figures:
    """Corlld's own series, as `name{label=value}`."""
    return {
        sample.name + "".join(f"{{{name}={text}}}" for name, text in sample.labels.items()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith("corlld_") and (buckets or not sample.name.endswith("_bucket"))
    }


@pytest.fixture
def watched() -> Watched:
    return Watched()


def run(watched: Watched, *script: Polled | Callable[[], Polled], parts: Parts | None = None) -> Figures:
    parts = parts or Parts()
    parts.observer = watched.observer
    parts.run(*script)
    return watched.moved()


# --- the process and its readiness ------------------------------------------------------------------------------------


def test_before_anything_happened_every_known_series_is_there_and_says_nothing_yet(watched: Watched) -> None:
    seen = figures(watched.metrics.registry)
    for name, values in {
        "corlld_dead_letters_total{reason=": InvalidReason,
        "corlld_rejected_total{reason=": RejectReason,
        "corlld_pairs_total{status=": PairStatus,
        "corlld_events_total{type=": ("edit", "acceptance", "erase"),
        "corlld_retries_total{stage=": ("state", "publishing", "dead_letters"),
        "corlld_prequential_pairs_total{draft=": ("base", "own", "unknown"),
        "corlld_draft_edit_ratio_count{draft=": ("base", "own", "unknown"),
    }.items():
        assert {f"{name}{each}}}" for each in values} <= seen.keys()
    set_already = {
        "corlld_start_timestamp_seconds": STARTED_AT,
        "corlld_last_snapshot_timestamp_seconds": STARTED_AT,
        "corlld_last_publication_timestamp_seconds": STARTED_AT,
        "corlld_buffer_limit_events": 77,
        "corlld_waiting_for{stage=input}": 1,
    }
    assert {name: figure for name, figure in seen.items() if figure and "build_info" not in name} == set_already


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


def test_the_model_is_told_once_it_is_resident(watched: Watched) -> None:
    watched.observer.model_loaded(ModelInfo("served", "r1", "f1", supports_messages=True), "cpu", "float32")
    name = "corlld_model_info{model=served}{revision=r1}{device=cpu}{dtype=float32}{adapter=f1}"
    assert watched.moved() == {name: 1}


# --- the loop ---------------------------------------------------------------------------------------------------------


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
    }.items() <= seen.items()
    watched.observer.turned(loop_status(now=51.0, partitions={4: PartitionStatus(1, 0.0)}))
    seen = figures(watched.metrics.registry)
    assert {name: figure for name, figure in seen.items() if "lag" in name} == {"corlld_consumer_lag{partition=4}": 1}
    assert (seen["corlld_low_watermark_age_seconds"], seen["corlld_reading_paused"]) == (0, 0)


def test_the_loop_tells_lag_age_buffer_and_memory(watched: Watched) -> None:
    ticks = itertools.count(0.0, 2.0)  # every look at the clock is two seconds after the last: each turn is told
    parts = Parts(batching={"max_events": 3, "flush_after_seconds": 1e6, "max_buffered_events": 10})
    parts.clock = lambda: next(ticks)
    looks: list[Figures] = []

    class Source(ScriptedSource):
        def ends(self) -> Mapping[Any, int]:
            return dict.fromkeys(self.positions(), 9)

    source = Source(
        [begun(*records(value("a"), value("b"))), Polled(), lambda: (looks.append(watched.moved()), Polled())[1]],
    )
    parts.observer = watched.observer
    parts.daemon(source).run()
    assert looks[0]["corlld_partitions"] == 1
    assert looks[0]["corlld_consumer_lag{partition=0}"] == 9
    assert looks[0]["corlld_buffered_events"] == 2
    assert looks[0]["corlld_buffered_chars"] == 2 * len("x" + "draft" + "text")
    assert looks[0]["corlld_low_watermark_age_seconds"] > 0
    assert watched["corlld_buffered_events"] == 0
    assert watched["corlld_host_memory_users"] == 1
    assert watched["corlld_host_memory_bytes"] > 0
    assert watched["corlld_low_watermark_age_seconds"] == 0


def test_a_full_buffer_shows_as_paused_reading(watched: Watched) -> None:
    ticks = itertools.count(0.0, 2.0)
    parts = Parts(batching={"max_events": 2, "max_buffered_events": 2, "flush_after_seconds": 1e6})
    parts.clock = lambda: next(ticks)
    parts.observer = watched.observer
    source = ScriptedSource([begun(*records(value("a"), value("b")))])
    paused: set[float] = set()
    parts.store.load_faults = [RetriableError("away")] * 3
    source.idle = lambda: paused.add(watched["corlld_reading_paused"])
    parts.daemon(source).run()
    assert 1.0 in paused


# --- the way in -------------------------------------------------------------------------------------------------------


def test_what_came_in_is_counted_by_what_it_was(watched: Watched) -> None:
    moved = run(
        watched,
        begun(*records(value("a"), value("b", edited="draft"), b"{", None, value("c"), value("a"))),
        Polled(records(value("d", type="erase"), first=6)),
        parts=Parts(batching={"max_events": 1}, dead_letters={"max_share": 1.0}),
    )
    assert moved["corlld_records_total"] == 7
    assert {name: by for name, by in moved.items() if "_events_total" in name or "dead_letters" in name} == {
        "corlld_events_total{type=edit}": 3,
        "corlld_events_total{type=acceptance}": 1,
        "corlld_events_total{type=erase}": 1,
        "corlld_dead_letters_total{reason=not_json}": 1,
        "corlld_dead_letters_total{reason=no_value}": 1,
    }
    assert moved["corlld_duplicates_total"] == 1


def test_what_is_replayed_counts_as_duplicates_also_before_an_erasure(watched: Watched) -> None:
    parts = Parts(batching={"max_events": 8})
    first = run(watched, begun(*records(value("a"), value("b"))), parts=parts)
    assert "corlld_duplicates_total" not in first
    again = run(watched, begun(*records(value("a"), value("b"), value("c", type="erase"))), parts=parts)
    assert again["corlld_duplicates_total"] == 2
    assert again["corlld_erasures_total"] == 1


# --- learning ---------------------------------------------------------------------------------------------------------


def test_an_update_moves_exactly_what_it_says(watched: Watched) -> None:
    """Four events of a user at version 3, by all three origins; 1 of the 3 scored pairs is saturated."""
    events = [edit("a", version=0), edit("b", version=3), edit("c", version=9), edit("d", version=3, accepted=True)]
    pairs = (
        PairOutcome(PairStatus.APPLIED, margin=30.0, scored_by_trained=True, delta_chosen_logp=0.5),
        PairOutcome(PairStatus.APPLIED, margin=-1.0, scored_by_trained=True, delta_chosen_logp=-0.25),
        PairOutcome(PairStatus.REJECTED, RejectReason.DRIFT, margin=0.0, scored_by_trained=True),
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
    watched.observer.update(Statistics(), UserState("u1", version=3), [edit("a", version=4)], outcome)
    assert watched.moved()["corlld_draft_edit_ratio_count{draft=unknown}"] == 1


def test_pairs_that_an_untrained_adapter_scored_are_not_judged(watched: Watched) -> None:
    outcome = UpdateOutcome(
        "u1", None, trained=True, pairs=(PairOutcome(PairStatus.APPLIED, margin=0.0),), saturated_share=0.0
    )
    watched.observer.update(Statistics(), UserState("u1", version=1), [edit("a")], outcome)
    moved = watched.moved()
    assert moved["corlld_scored_pairs_total"] == 1
    assert not any("prequential" in name for name in moved)


def test_repetition_is_compared_with_the_users_own_first_drafts(watched: Watched) -> None:
    before = Statistics(first_drafts=DraftFigures(events=8, repetition_sum=0.8))
    event = edit("a", version=1)
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


# --- states, versions, commits ----------------------------------------------------------------------------------------


def test_one_edit_is_one_step_one_state_one_version(watched: Watched) -> None:
    moved = run(watched, begun(*records(value("a"))))
    expected = {
        "corlld_step_users_count": 1,
        "corlld_updates_total": 1,
        "corlld_states_stored_total": 1,
        "corlld_state_commit_seconds_count": 1,
        "corlld_versions_published_total": 1,
        "corlld_publish_seconds_count": 1,
        "corlld_edit_to_published_seconds_count": 1,
        "corlld_last_snapshot_timestamp_seconds": watched.unix_now - STARTED_AT,
        "corlld_last_publication_timestamp_seconds": watched.unix_now - STARTED_AT,
    }
    assert {name: moved.get(name) for name in expected} == expected
    assert not any("erasures" in name or "lost" in name or "retries" in name for name in moved)


def test_an_acceptance_that_is_not_learnt_from_is_stored_and_publishes_nothing(watched: Watched) -> None:
    moved = run(watched, begun(*records(value("a", edited="draft"))))
    assert moved["corlld_states_stored_total"] == 1
    assert not any("publish" in name or "publication" in name or "updates" in name for name in moved)


def test_with_publishing_off_nothing_counts_as_published(watched: Watched) -> None:
    moved = run(watched, begun(*records(value("a"))), parts=Parts(publishing={"enabled": False}))
    assert moved["corlld_updates_total"] == 1
    assert not any("publish" in name or "publication" in name for name in moved)


def test_a_commit_counts_when_it_is_begun(watched: Watched) -> None:
    parts = Parts()
    parts.observer = watched.observer
    source = parts.run(begun(*records(value("a"))), Polled(), Polled())
    assert watched.moved()["corlld_commits_total"] == len(source.commits)


def test_a_lost_swap_is_counted_and_the_event_once_stored(watched: Watched) -> None:
    parts = Parts()
    parts.store.faults = [LostSwap("newer")]
    moved = run(watched, begun(*records(value("a"))), parts=parts)
    assert (moved["corlld_lost_swaps_total"], moved["corlld_states_stored_total"]) == (1, 1)


def test_retries_are_counted_by_stage(watched: Watched) -> None:
    parts = Parts(dead_letters={"max_share": 1.0})
    parts.store.faults = [RetriableError("full")] * 2
    parts.publisher.faults = [RetriableError("full")] * 3
    parts.dead_letters.faults = [RetriableError("away")]
    moved = run(watched, begun(*records(value("a"), b"{")), parts=parts)
    assert {name: by for name, by in moved.items() if "retries" in name} == {
        "corlld_retries_total{stage=state}": 2,
        "corlld_retries_total{stage=publishing}": 3,
        "corlld_retries_total{stage=dead_letters}": 1,
    }
    assert moved["corlld_dead_letters_total{reason=not_json}"] == 1, "sent twice, set aside once"


def test_the_way_to_publication_is_timed_from_the_records_own_time_else_from_its_arrival(watched: Watched) -> None:
    of_kafka = arrival(0)
    sent = type(of_kafka)("u1", edit("a"), _timed(1_990.0), arrived_at=49.0)
    from_the_future = type(of_kafka)("u1", edit("b"), _timed(2_100.0), arrived_at=49.0)
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


# --- bounds -----------------------------------------------------------------------------------------------------------


class Telling(ListingLearner):
    """Figures for every pair, so that every series of learning moves."""

    def update(self, batches: Sequence[TrainingBatch]) -> list[UpdateOutcome]:
        return [
            UpdateOutcome(
                outcome.uid,
                outcome.adapter,
                trained=outcome.trained,
                pairs=tuple(
                    PairOutcome(pair.status, margin=1.0, scored_by_trained=True, delta_chosen_logp=0.1)
                    for pair in outcome.pairs
                ),
                drift_nats=0.1,
                plain_text_drop_nats=0.1,
                saturated_share=0.0,
            )
            for outcome in super().update(batches)
        ]


def test_a_thousand_users_make_no_new_series(watched: Watched) -> None:
    parts = Parts(batching={"max_users_per_step": 64})
    parts.learner = Telling()
    one = records(value("e", "user-0"), user="user-0")
    run(watched, begun(*one), parts=parts)
    known = figures(watched.metrics.registry, buckets=True).keys()
    many = [
        records(value(f"e{n}", f"user-{n}", adapter_version=n % 3), user=f"user-{n}", first=n)[0]
        for n in range(1, 1001)
    ]
    moved = run(watched, begun(*many), parts=parts)
    assert moved["corlld_versions_published_total"] == 1_000
    assert figures(watched.metrics.registry, buckets=True).keys() == known


def test_no_label_takes_a_users_id(watched: Watched) -> None:
    allowed = {"draft", "kind", "reason", "stage", "status", "type", "partition"}
    infos = {
        "version",
        "python",
        "torch",
        "transformers",
        "kafka_python",
        "model",
        "revision",
        "device",
        "dtype",
        "adapter",
    }
    labels = {label for each in watched.metrics.descriptions for label in each.labels}
    assert labels == allowed | infos


def test_tenures_of_a_partition_share_a_series(watched: Watched) -> None:
    moved = run(watched, begun(), Polled(ended=(tenure(),), begun=(tenure(number=2),)))
    assert moved["corlld_partitions"] == 1
