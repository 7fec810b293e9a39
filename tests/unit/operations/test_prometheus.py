"""Every series that can be known is there from the start, and no user ever makes another."""

from collections.abc import Sequence

from corlld.errors import InvalidReason, RejectReason
from corlld.records import PairOutcome, PairStatus, TrainingBatch, UpdateOutcome
from tests.support.daemon_parts import Parts, begun, records, value
from tests.support.fakes import ListingLearner
from tests.support.metric_series import STARTED_AT, Watched, figures, run


def test_before_anything_happened_every_known_series_is_there_and_says_nothing_yet(watched: Watched) -> None:
    seen = figures(watched.metrics.registry)
    for name, values in {
        "corlld_dead_letters_total{reason=": InvalidReason,
        "corlld_rejected_total{reason=": RejectReason,
        "corlld_pairs_total{status=": PairStatus,
        "corlld_events_total{type=": ("edit", "acceptance", "erase"),
        "corlld_retries_total{stage=": ("state", "publishing", "dead_letters"),
        "corlld_prequential_pairs_total{draft=": ("base", "own", "unknown"),
        "corlld_edited_logp_moved_nats_total{direction=": ("up", "down"),
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


class Telling(ListingLearner):
    """Reports figures for every pair, so that every series of learning moves."""

    def update(self, batches: Sequence[TrainingBatch]) -> list[UpdateOutcome]:
        return [
            UpdateOutcome(
                outcome.uid,
                outcome.adapter,
                trained=outcome.trained,
                pairs=tuple(
                    PairOutcome(pair.status, margin=1.0, edited_rise=0.1, scored_by_trained=True, delta_chosen_logp=0.1)
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
    allowed = {"direction", "draft", "kind", "reason", "stage", "status", "type", "partition"}
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
