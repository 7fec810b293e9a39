"""Every Prometheus metric, declared once, in the groups of the data's way. `metrics_observer` moves them.

Labels are bounded. A series whose label values are known beforehand is there from the first scrape on, so that a rate
has data before anything goes wrong. No label and no figure can hold a user's text or a user's id.
"""

import platform
from collections.abc import Mapping
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from corlld import __version__
from corlld.errors import InvalidReason, RejectReason
from corlld.operations.arm_metrics import ArmMetrics
from corlld.operations.declarations import Declarations, Description, Labels
from corlld.records import DuplicateReason, PairStatus, Stage
from corlld.statistics import DraftOrigin

EVENT_TYPES = ("edit", "acceptance", "erase")
TOKEN_KINDS = ("needed", "padding")
DIRECTIONS = ("up", "down")
RETRIED_STAGES = (Stage.STATE, Stage.PUBLISHING, Stage.DEAD_LETTERS)
PAUSING_STAGES = (Stage.STATE, Stage.VALID_RECORDS, Stage.LOW_WATERMARK)

STEP_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
USERS = (1, 2, 4, 8, 16, 32, 64)
WRITE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LATENCY_SECONDS = (1, 2.5, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 14_400)
# A histogram with negative bounds has no `_sum`, by the format's rule: its mean can't be computed as a rate.
MARGIN_NATS = (-32, -16, -8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 4, 8, 16, 32, 64)
CHANGE_NATS = (-8, -4, -2, -1, -0.5, -0.1, 0, 0.1, 0.5, 1, 2, 4, 8, 16)
RISE_NATS = (-2, -1, -0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
DRIFT_NATS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
PLAIN_TEXT_DROP_NATS = (-0.1, 0, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
RATIO = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)

_DRAFT: Labels = {"draft": DraftOrigin}


class Metrics:
    """All metrics, on a registry of their own.

    Args:
        started_at: unix time at which this process started.
        buffer_limit_events: the setting `batching.max_buffered_events`.
        arms: from the name of each arm of the experiment to whether it learns.
    """

    def __init__(self, started_at: float, buffer_limit_events: int, arms: Mapping[str, bool] | None = None) -> None:
        # For the whole process: nobody reads creation times, and they would double the number of series.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in prometheus_client
        self.registry = CollectorRegistry()
        declare = Declarations(self.registry)
        self.descriptions: list[Description] = declare.descriptions
        self.process = ProcessMetrics(declare, started_at)
        self.intake = IntakeMetrics(declare, buffer_limit_events)
        self.progress = ProgressMetrics(declare)
        self.learning = LearningMetrics(declare)
        self.scores = ScoreMetrics(declare)
        self.drafts = DraftMetrics(declare)
        self.arms = ArmMetrics(declare, arms or {}, PLAIN_TEXT_DROP_NATS)
        self.versions = VersionMetrics(declare, started_at)
        self.memory = MemoryMetrics(declare)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)


class ProcessMetrics:
    """The process: its versions, its model and its readiness."""

    def __init__(self, declare: Declarations, started_at: float) -> None:
        built = {"version": __version__, "python": platform.python_version()}
        built |= {name.replace("-", "_"): version(name) for name in ("torch", "transformers", "kafka-python")}
        declare.gauge(
            "corlld_build_info",
            "Always 1. The labels are the versions of corlld, Python and the main libraries.",
            {name: [value] for name, value in built.items()},
        ).labels(**built).set(1)
        self.model_info = declare.gauge(
            "corlld_model_info",
            "Always 1. The labels describe the resident base model; `adapter` is the fingerprint of model and adapter "
            "shape. Absent until the model is resident.",
            dict.fromkeys(("model", "revision", "device", "dtype", "adapter"), ()),
        )
        self.ready = declare.gauge("corlld_ready", "1 while the daemon learns from edits, else 0.")
        self.waiting_for = declare.gauge(
            "corlld_waiting_for", "1 for each stage that keeps the daemon from being ready.", {"stage": Stage}
        )
        declare.gauge("corlld_start_timestamp_seconds", "Unix time at which this process started.").set(started_at)


class IntakeMetrics:
    """The input: records read, events admitted, events buffered."""

    def __init__(self, declare: Declarations, buffer_limit_events: int) -> None:
        self.records = declare.counter("corlld_records_total", "Records read from the input.")
        self.events = declare.counter("corlld_events_total", "Valid events, by type.", {"type": EVENT_TYPES})
        self.dead_letters = declare.counter(
            "corlld_dead_letters_total", "Records set aside as dead letters, by reason.", {"reason": InvalidReason}
        )
        self.duplicates = declare.counter(
            "corlld_duplicates_total",
            "Events skipped since they had been applied before, by how that is known: the user's state has passed the "
            "offset (read once more), or knows the event's id (delivered once more).",
            {"reason": DuplicateReason},
        )
        self.buffered_events = declare.gauge("corlld_buffered_events", "Events in the buffer: waiting or in flight.")
        self.buffered_chars = declare.gauge("corlld_buffered_chars", "Characters of text in the buffered events.")
        declare.gauge(
            "corlld_buffer_limit_events", "Buffered events at which reading pauses: batching.max_buffered_events."
        ).set(buffer_limit_events)
        self.reading_paused = declare.gauge("corlld_reading_paused", "1 while back-pressure pauses reading, else 0.")
        self.paused_partitions = declare.gauge(
            "corlld_paused_partitions",
            "Partitions that are paused for themselves, by what they wait for: the state store, for their journal of "
            "attempts; valid newest records; or an unfinished record that too many finished ones wait behind.",
            {"stage": PAUSING_STAGES},
        )


class ProgressMetrics:
    """The position in the input: lag, oldest unfinished record, commits."""

    def __init__(self, declare: Declarations) -> None:
        self.partitions = declare.gauge("corlld_partitions", "Partitions assigned to this daemon.")
        self.consumer_lag = declare.gauge(
            "corlld_consumer_lag",
            "End of the input minus the committed offset: in records (Kafka) or bytes (file). The end may be some "
            "seconds old.",
            {"partition": ()},
        )
        self.low_watermark_age = declare.gauge(
            "corlld_low_watermark_age_seconds", "Time since the oldest unfinished record was read; 0 if none."
        )
        self.commits = declare.counter("corlld_commits_total", "Offset commits begun.")


class LearningMetrics:
    """The learner's calls, and the outcome of each edit."""

    def __init__(self, declare: Declarations) -> None:
        self.step_seconds = declare.histogram("corlld_step_seconds", "Duration of a call of the learner.", STEP_SECONDS)
        self.step_users = declare.histogram("corlld_step_users", "Users in a call of the learner.", USERS)
        self.tokens = declare.counter(
            "corlld_tokens_total",
            "Tokens that went through the model, by kind. There is no padding if the model can share prefixes.",
            {"kind": TOKEN_KINDS},
        )
        self.updates = declare.counter("corlld_updates_total", "Micro-batches that trained an adapter.")
        self.pairs = declare.counter("corlld_pairs_total", "Edits, by what became of them.", {"status": PairStatus})
        self.rejected = declare.counter("corlld_rejected_total", "Rejected edits, by reason.", {"reason": RejectReason})


class ScoreMetrics:
    """The scores of pairs before an adapter learns from them, and how far learning moves the adapter."""

    def __init__(self, declare: Declarations) -> None:
        self.prequential_pairs = declare.counter(
            "corlld_prequential_pairs_total", "Pairs that a trained adapter scored before it learnt from them.", _DRAFT
        )
        self.prequential_correct = declare.counter(
            "corlld_prequential_correct_total",
            "Prequential pairs whose margin prefers the edited text. A tie counts one half.",
            _DRAFT,
        )
        self.prequential_margin = declare.histogram(
            "corlld_prequential_margin_nats",
            "Margin of a prequential pair against the base model.",
            MARGIN_NATS,
            _DRAFT,
        )
        self.edited_rise = declare.histogram(
            "corlld_edited_logp_rise_nats",
            "Rise of log pi(edited tail) of a prequential pair over the base model, per token.",
            RISE_NATS,
        )
        # The mean is up minus down, over the histogram's count.
        self.edited_rise_sum = declare.counter(
            "corlld_edited_logp_moved_nats_total",
            "Sum of these rises (up), and of the falls among them without their sign (down).",
            {"direction": DIRECTIONS},
        )
        self.scored_pairs = declare.counter("corlld_scored_pairs_total", "Pairs scored by an adapter, trained or not.")
        self.saturated_pairs = declare.counter(
            "corlld_saturated_pairs_total", "Scored pairs with a nearly vanished gradient: sigma(-beta margin) < 0.1."
        )
        self.chosen_logp_change = declare.histogram(
            "corlld_chosen_logp_change_nats", "Change of log pi(edited tail) by a step on that pair.", CHANGE_NATS
        )
        self.drift = declare.histogram(
            "corlld_drift_nats",
            "Drift as the guard measures it: mean |change of log pi| per tail token by an update.",
            DRIFT_NATS,
        )
        self.plain_text_drop = declare.histogram(
            "corlld_plain_text_drop_nats",
            "Forgetting: log pi(rehearsed plain text) of the base model minus the adapter's, per token, measured "
            "before each step; mean over the steps of an update. Updates that rehearsed nothing are not counted.",
            PLAIN_TEXT_DROP_NATS,
        )


class DraftMetrics:
    """The drafts that users edited: how much they changed, how much the drafts repeat themselves."""

    def __init__(self, declare: Declarations) -> None:
        self.edit_ratio = declare.histogram(
            "corlld_draft_edit_ratio", "Share of a draft that its user changed, 0 to 1.", RATIO, _DRAFT
        )
        self.accepted = declare.counter("corlld_drafts_accepted_total", "Drafts accepted without a change.", _DRAFT)
        self.repetition = declare.histogram(
            "corlld_draft_repetition_ratio",
            "Share of repeated words in a draft: 1 - moving-average type-token ratio.",
            RATIO,
            _DRAFT,
        )
        self.repetition_rise = declare.histogram(
            "corlld_draft_repetition_rise_ratio",
            "How much more a draft repeats itself than the first drafts of the same user; 0 if it does not.",
            RATIO,
            _DRAFT,
        )


class VersionMetrics:
    """States made durable and adapter versions made visible."""

    def __init__(self, declare: Declarations, started_at: float) -> None:
        self.states_stored = declare.counter("corlld_states_stored_total", "States made durable.")
        self.users_aside = declare.gauge(
            "corlld_users_aside",
            "Users whose state or version can't be used: their records become dead letters. Known since the start, or "
            "since a partition was last taken away.",
        )
        self.lost_swaps = declare.counter(
            "corlld_lost_swaps_total", "States not stored because another owner had stored a newer state."
        )
        self.state_commit_seconds = declare.histogram(
            "corlld_state_commit_seconds", "Duration of saving a state.", WRITE_SECONDS
        )
        self.publish_seconds = declare.histogram(
            "corlld_publish_seconds", "Duration of a publication or a withdrawal.", WRITE_SECONDS
        )
        self.published = declare.counter("corlld_versions_published_total", "Adapter versions made visible.")
        self.erasures = declare.counter("corlld_erasures_total", "Users erased: tombstone stored, versions withdrawn.")
        self.last_snapshot = declare.gauge(
            "corlld_last_snapshot_timestamp_seconds",
            "Unix time of the newest stored state; the start of the process until there is one.",
        )
        self.last_snapshot.set(started_at)
        self.last_publication = declare.gauge(
            "corlld_last_publication_timestamp_seconds",
            "Unix time of the newest publication; the start of the process until there is one.",
        )
        self.last_publication.set(started_at)
        self.unannounced_users = declare.gauge(
            "corlld_unannounced_users",
            "Users whose newest version, or erasure, publishing.announce_topic has not acknowledged, and that this "
            "daemon announces.",
        )
        self.unannounced_age = declare.gauge(
            "corlld_unannounced_age_seconds",
            "Time for which the longest waiting of the unannounced users waits, over restarts too; 0 if there is none.",
        )
        self.edit_to_published = declare.histogram(
            "corlld_edit_to_published_seconds",
            "Time from an edit to the publication of its version. It begins with the record's timestamp (Kafka) or "
            "with reading the record (file).",
            LATENCY_SECONDS,
        )
        self.retries = declare.counter(
            "corlld_retries_total", "Jobs that failed and will be tried again, by stage.", {"stage": RETRIED_STAGES}
        )


class MemoryMetrics:
    """The states in host memory, and their updates that are not durable yet."""

    def __init__(self, declare: Declarations) -> None:
        self.users = declare.gauge("corlld_host_memory_users", "Users whose states are in host memory.")
        self.bytes = declare.gauge("corlld_host_memory_bytes", "Approximate size of the states in host memory.")
        self.unsaved_users = declare.gauge(
            "corlld_unsaved_users", "Users with updates in host memory that no stored state contains yet."
        )
        self.unsaved_age = declare.gauge(
            "corlld_unsaved_age_seconds",
            "Age of the oldest unsaved update; 0 if there is none. After a crash, unsaved updates are trained again.",
        )
