"""Every metric, declared once. What moves them is `metrics_observer`.

Labels are bounded, and every value that is known beforehand is there from the first scrape on, so that a rate has data
before anything went wrong. No label and no figure can hold a user's text or a user's id.
"""

import itertools
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from corlld import __version__
from corlld.errors import InvalidReason, RejectReason
from corlld.records import PairStatus, Stage
from corlld.statistics import DraftOrigin

EVENT_TYPES = ("edit", "acceptance", "erase")
TOKEN_KINDS = ("needed", "padding")
RETRIED_STAGES = (Stage.STATE, Stage.PUBLISHING, Stage.DEAD_LETTERS)

STEP_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
USERS = (1, 2, 4, 8, 16, 32, 64)
WRITE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LATENCY_SECONDS = (1, 2.5, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 14_400)
# With negative bounds there is no `_sum`, by the format's rule: the mean of what may be negative can't be a rate.
MARGIN_NATS = (-32, -16, -8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 8, 16, 32, 64)
CHANGE_NATS = (-8, -4, -2, -1, -0.5, -0.1, 0, 0.1, 0.5, 1, 2, 4, 8, 16)
DRIFT_NATS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
PLAIN_TEXT_DROP_NATS = (-0.1, 0, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
RATIO = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)

M = TypeVar("M", Counter, Gauge, Histogram)
Labels = Mapping[str, Iterable[str]]  # name to the values known beforehand; none: they are not known


@dataclass(frozen=True, slots=True)
class Description:
    """What a metric is, for tables."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


class Metrics:
    """Metrics on a registry of their own.

    Args:
        started_at: unix time at which this process started.
        buffer_limit_events: the setting `batching.max_buffered_events`.
    """

    def __init__(self, started_at: float, buffer_limit_events: int) -> None:
        # For the whole process: nobody reads creation times, and they would be a series beside every other.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in prometheus_client
        self.registry = CollectorRegistry()
        self.descriptions: list[Description] = []

        draft: Labels = {"draft": DraftOrigin}

        # the process
        built = {
            "version": __version__,
            "python": platform.python_version(),
            **{name.replace("-", "_"): version(name) for name in ("torch", "transformers", "kafka-python")},
        }
        self._gauge(
            "corlld_build_info", "Always 1: which versions run.", {name: [value] for name, value in built.items()}
        ).labels(**built).set(1)
        self.model_info = self._gauge(
            "corlld_model_info",
            "Always 1: the resident base model; `adapter` is the fingerprint of model and adapter shape. Absent until "
            "it is resident.",
            dict.fromkeys(("model", "revision", "device", "dtype", "adapter"), ()),
        )
        self.ready = self._gauge("corlld_ready", "1 where edits are being learnt from, 0 where something is missing.")
        self.waiting_for = self._gauge(
            "corlld_waiting_for", "1 for each stage that keeps the daemon from being ready.", {"stage": Stage}
        )
        self._gauge("corlld_start_timestamp_seconds", "Unix time at which this process started.").set(started_at)

        # the way in
        self.records = self._counter("corlld_records_total", "Records read.")
        self.events = self._counter("corlld_events_total", "Valid events that came in.", {"type": EVENT_TYPES})
        self.dead_letters = self._counter(
            "corlld_dead_letters_total", "Records set aside, by why.", {"reason": InvalidReason}
        )
        self.duplicates = self._counter(
            "corlld_duplicates_total", "Events left out since their id, or their offset, had been applied before."
        )
        self.buffered_events = self._gauge("corlld_buffered_events", "Events that wait or are in flight.")
        self.buffered_chars = self._gauge("corlld_buffered_chars", "Characters of text in them.")
        self._gauge(
            "corlld_buffer_limit_events", "Buffered events at which reading pauses: batching.max_buffered_events."
        ).set(buffer_limit_events)
        self.reading_paused = self._gauge("corlld_reading_paused", "1 while back-pressure pauses reading.")

        # how far it is
        self.partitions = self._gauge("corlld_partitions", "Partitions assigned to this daemon.")
        self.consumer_lag = self._gauge(
            "corlld_consumer_lag",
            "The input's end, as it was some seconds ago, minus the committed offset: records (Kafka) or bytes (file).",
            {"partition": ()},
        )
        self.low_watermark_age = self._gauge(
            "corlld_low_watermark_age_seconds", "Since the oldest unfinished record was read; 0 with none."
        )
        self.commits = self._counter("corlld_commits_total", "Offset commits begun.")

        # learning
        self.step_seconds = self._histogram("corlld_step_seconds", "One call of the learner.", STEP_SECONDS)
        self.step_users = self._histogram("corlld_step_users", "Users in one call of the learner.", USERS)
        self.tokens = self._counter(
            "corlld_tokens_total",
            "Tokens that went through the model; padding is none where the model can share prefixes.",
            {"kind": TOKEN_KINDS},
        )
        self.updates = self._counter("corlld_updates_total", "Micro-batches that trained.")
        self.pairs = self._counter("corlld_pairs_total", "Edits by what became of them.", {"status": PairStatus})
        self.rejected = self._counter("corlld_rejected_total", "Rejected edits, by why.", {"reason": RejectReason})
        self.prequential_pairs = self._counter(
            "corlld_prequential_pairs_total", "Pairs scored by a trained adapter before it learnt from them.", draft
        )
        self.prequential_correct = self._counter(
            "corlld_prequential_correct_total",
            "Those whose margin prefers the edited text; ties count one half.",
            draft,
        )
        self.prequential_margin = self._histogram(
            "corlld_prequential_margin_nats", "Margin of these pairs against the base model.", MARGIN_NATS, draft
        )
        self.scored_pairs = self._counter("corlld_scored_pairs_total", "Pairs scored, also by an untrained adapter.")
        self.saturated_pairs = self._counter(
            "corlld_saturated_pairs_total",
            "Scored pairs whose gradient has all but vanished: sigma(-beta margin) < 0.1.",
        )
        self.chosen_logp_change = self._histogram(
            "corlld_chosen_logp_change_nats", "Change of log pi(edited tail) by a step on it.", CHANGE_NATS
        )
        self.drift = self._histogram(
            "corlld_drift_nats", "The guard's measure: mean |change of log pi| per tail token by an update.", DRIFT_NATS
        )
        self.plain_text_drop = self._histogram(
            "corlld_plain_text_drop_nats",
            "What an adapter has forgotten: fall of log pi(rehearsed plain text) below the base model's, per token, as "
            "an update's steps began; of those that rehearsed.",
            PLAIN_TEXT_DROP_NATS,
        )

        # drafts
        self.draft_edit_ratio = self._histogram(
            "corlld_draft_edit_ratio", "How much of a draft its user changed, 0 to 1.", RATIO, draft
        )
        self.drafts_accepted = self._counter("corlld_drafts_accepted_total", "Drafts accepted as they were.", draft)
        self.draft_repetition = self._histogram(
            "corlld_draft_repetition_ratio",
            "Share of repeated words in a draft: 1 - moving-average type-token ratio.",
            RATIO,
            draft,
        )
        self.draft_repetition_rise = self._histogram(
            "corlld_draft_repetition_rise_ratio",
            "By how much a draft repeats more than this user's own first drafts did; 0 where it does not.",
            RATIO,
            draft,
        )

        # states and versions
        self.states_stored = self._counter("corlld_states_stored_total", "States made durable.")
        self.lost_swaps = self._counter("corlld_lost_swaps_total", "States that another owner had replaced first.")
        self.state_commit_seconds = self._histogram(
            "corlld_state_commit_seconds", "One save of a state.", WRITE_SECONDS
        )
        self.publish_seconds = self._histogram(
            "corlld_publish_seconds", "One publication, or one withdrawal.", WRITE_SECONDS
        )
        self.versions_published = self._counter("corlld_versions_published_total", "Adapter versions made visible.")
        self.erasures = self._counter("corlld_erasures_total", "Users erased: tombstone stored, versions withdrawn.")
        self.last_snapshot = self._gauge(
            "corlld_last_snapshot_timestamp_seconds",
            "Unix time of the newest stored state; the process's start until there is one.",
        )
        self.last_snapshot.set(started_at)
        self.last_publication = self._gauge(
            "corlld_last_publication_timestamp_seconds",
            "Unix time of the newest publication; the process's start until there is one.",
        )
        self.last_publication.set(started_at)
        self.edit_to_published = self._histogram(
            "corlld_edit_to_published_seconds",
            "From an edit's record (Kafka: its timestamp; a file: when it was read) to its version being out.",
            LATENCY_SECONDS,
        )
        self.retries = self._counter(
            "corlld_retries_total", "Jobs that failed for now and are tried again.", {"stage": RETRIED_STAGES}
        )
        self.host_memory_users = self._gauge("corlld_host_memory_users", "Users whose states are in host memory.")
        self.host_memory_bytes = self._gauge("corlld_host_memory_bytes", "About what these states take.")

        self.unsaved_users = self._gauge(
            "corlld_unsaved_users", "Users with updates that are in host memory alone: in no stored state yet."
        )
        self.unsaved_age = self._gauge(
            "corlld_unsaved_age_seconds", "Since the oldest of these updates; 0 with none. A crash trains them again."
        )

        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    def _counter(self, name: str, text: str, labels: Labels | None = None) -> Counter:
        return self._declared(Counter(name, text, tuple(labels or ()), registry=self.registry), name, text, labels)

    def _gauge(self, name: str, text: str, labels: Labels | None = None) -> Gauge:
        return self._declared(Gauge(name, text, tuple(labels or ()), registry=self.registry), name, text, labels)

    def _histogram(self, name: str, text: str, buckets: Iterable[float], labels: Labels | None = None) -> Histogram:
        metric = Histogram(name, text, tuple(labels or ()), registry=self.registry, buckets=tuple(buckets))
        return self._declared(metric, name, text, labels)

    def _declared(self, metric: M, name: str, text: str, labels: Labels | None) -> M:
        self.descriptions.append(Description(name, type(metric).__name__.lower(), tuple(labels or ()), text))
        if labels:
            for values in itertools.product(*labels.values()):
                metric.labels(*values)
        return metric
