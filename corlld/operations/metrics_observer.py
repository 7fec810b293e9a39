"""Turn what the start and the loop report into movements of the metrics."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from corlld.durable import ModelInfo, Statistics, UserState
from corlld.experiment.arms import Arms, began_elsewhere
from corlld.observer import Observer
from corlld.operations.health import Health
from corlld.operations.prometheus import TOKEN_KINDS, Metrics
from corlld.records import (
    Arrival,
    DeadLetter,
    DuplicateReason,
    EditEvent,
    LoopStatus,
    PairOutcome,
    PartitionStatus,
    Stage,
    UpdateOutcome,
)
from corlld.settings.learning_rule import RETIRED_ARM
from corlld.statistics import FIRST_DRAFTS, DraftFigure, correct_share, judge_drafts


class MetricsObserver(Observer):
    """Moves the metrics.

    Each scrape asks `health` for readiness and counts the ages on, since a loop that is stuck reports nothing any more.

    Args:
        metrics: only this observer moves them.
        health: receives every report before this observer does.
        arms: of the experiment.
        clock: monotonic seconds, the daemon's.
        wall_clock: unix time.
    """

    def __init__(
        self,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        arms: Arms | None = None,
    ) -> None:
        self._metrics = metrics
        self._arms = arms
        self._start: str | None = None  # the digest of the adapter that new users begin from
        self._clock = clock
        self._wall_clock = wall_clock
        self._lagging: set[str] = set()  # partitions with a series of lag
        self._tokens = dict.fromkeys(TOKEN_KINDS, 0)  # counted so far
        self._unsaved_since: float | None = None  # on `clock`
        self._unfinished_since: float | None = None  # on `clock`
        self._unannounced_since: float | None = None  # on `clock`
        metrics.progress.low_watermark_age.set_function(lambda: self._age(self._unfinished_since))
        metrics.memory.unsaved_age.set_function(lambda: self._age(self._unsaved_since))
        metrics.versions.unannounced_age.set_function(lambda: self._age(self._unannounced_since))
        metrics.process.ready.set_function(lambda: health.not_ready() is None)
        for stage in Stage:
            metrics.process.waiting_for.labels(stage).set_function(partial(_is_waiting_for, health, stage))

    # --- the process and the loop -------------------------------------------------------------------------------------

    def model_loaded(self, model: ModelInfo, device: str, dtype: str) -> None:
        labels = (model.name, model.revision, device, dtype, model.fingerprint)
        self._metrics.process.model_info.labels(*labels).set(1)

    def turned(self, status: LoopStatus) -> None:
        intake, memory = self._metrics.intake, self._metrics.memory
        intake.buffered_events.set(status.buffered_events)
        intake.buffered_chars.set(status.buffered_chars)
        intake.reading_paused.set(status.reading_paused)
        for stage, partitions in status.paused_partitions.items():
            intake.paused_partitions.labels(stage).set(partitions)
        self._metrics.versions.users_aside.set(status.users_aside)
        self._count_tokens(status)
        self._show_progress(list(status.partitions.items()))
        oldest = max((each.low_watermark_age_seconds for each in status.partitions.values()), default=0.0)
        self._unfinished_since = status.now - oldest if oldest else None
        memory.users.set(status.host_memory_users)
        memory.bytes.set(status.host_memory_bytes)
        memory.unsaved_users.set(status.unsaved_users)
        self._unsaved_since = status.now - status.unsaved_age_seconds if status.unsaved_users else None
        waiting = status.unannounced
        self._metrics.versions.unannounced_users.set(waiting.users)
        self._unannounced_since = status.now - waiting.age_seconds if waiting.users else None

    def _age(self, since: float | None) -> float:
        return 0.0 if since is None else self._clock() - since

    def _count_tokens(self, status: LoopStatus) -> None:
        tokens = {"needed": status.computed_tokens - status.padding_tokens, "padding": status.padding_tokens}
        for kind, count in tokens.items():
            self._metrics.learning.tokens.labels(kind).inc(count - self._tokens[kind])
        self._tokens = tokens

    def _show_progress(self, partitions: Sequence[tuple[int, PartitionStatus]]) -> None:
        progress = self._metrics.progress
        progress.partitions.set(len(partitions))
        lags = {str(number): each.lag for number, each in partitions if each.lag is not None}
        for gone in self._lagging - set(lags):
            progress.consumer_lag.remove(gone)
        for partition, lag in lags.items():
            progress.consumer_lag.labels(partition).set(lag)
        self._lagging = set(lags)

    def new_users_begin_from(self, start: str | None) -> None:
        self._start = start

    # --- the way in ---------------------------------------------------------------------------------------------------

    def read(self, records: int) -> None:
        self._metrics.intake.records.inc(records)

    def admitted(self, arrival: Arrival) -> None:
        event = arrival.event
        kind = "erase" if not isinstance(event, EditEvent) else "acceptance" if event.is_acceptance else "edit"
        self._metrics.intake.events.labels(kind).inc()

    def dead_letter(self, letter: DeadLetter) -> None:
        self._metrics.intake.dead_letters.labels(letter.error.reason).inc()

    def duplicates(self, numbers: Mapping[DuplicateReason, int]) -> None:
        for reason, number in numbers.items():
            self._metrics.intake.duplicates.labels(reason).inc(number)

    def commit_begun(self) -> None:
        self._metrics.progress.commits.inc()

    # --- learning -----------------------------------------------------------------------------------------------------

    def step(self, users: int, seconds: float) -> None:
        self._metrics.learning.step_users.observe(users)
        self._metrics.learning.step_seconds.observe(seconds)

    def update(self, before: Statistics, state: UserState, events: Sequence[EditEvent], outcome: UpdateOutcome) -> None:
        drafts = judge_drafts(before.first_drafts, events, head=state.version)
        for event, draft, pair in zip(events, drafts, outcome.pairs, strict=True):
            self._draft(event, draft)
            self._pair(draft, pair)
        self._arm(before, state, events, drafts, outcome)
        self._metrics.learning.updates.inc(outcome.trained)
        scores = self._metrics.scores
        if outcome.drift_nats is not None:
            scores.drift.observe(outcome.drift_nats)
        if outcome.plain_text_drop_nats is not None:
            scores.plain_text_drop.observe(outcome.plain_text_drop_nats)
        scored = sum(pair.margin is not None for pair in outcome.pairs)
        scores.scored_pairs.inc(scored)
        scores.saturated_pairs.inc(round((outcome.saturated_share or 0.0) * scored))

    def _draft(self, event: EditEvent, draft: DraftFigure) -> None:
        drafts = self._metrics.drafts
        drafts.edit_ratio.labels(draft.origin).observe(draft.edit_ratio)
        drafts.repetition.labels(draft.origin).observe(draft.repetition)
        if draft.repetition_rise is not None:
            drafts.repetition_rise.labels(draft.origin).observe(draft.repetition_rise)
        if event.is_acceptance:
            drafts.accepted.labels(draft.origin).inc()

    def _arm(
        self,
        before: Statistics,
        state: UserState,
        events: Sequence[EditEvent],
        drafts: Sequence[DraftFigure],
        outcome: UpdateOutcome,
    ) -> None:
        if (participation := state.participation) is None or not self._arms:
            return
        metrics = self._metrics.arms
        of = None if began_elsewhere(state, self._start) else self._arms.terms_of(participation)
        arm = RETIRED_ARM if of is None else of.name
        if events and not before.events:
            metrics.users.labels(arm).inc()
        for event, draft in zip(events, drafts, strict=True):
            metrics.edit_ratio.labels(arm, draft.origin).observe(draft.edit_ratio)
            metrics.repetition.labels(arm).observe(draft.repetition)
            metrics.accepted.labels(arm, draft.origin).inc(event.is_acceptance)
        if outcome.plain_text_drop_nats is not None:
            metrics.plain_text_drop.labels(arm).observe(outcome.plain_text_drop_nats)
        own = participation.outcome
        is_new = before.events < FIRST_DRAFTS + own.events <= state.statistics.events
        if of is not None and participation.completed_at is not None and is_new:
            mean, learns = own.edit_ratio_sum / own.events, str(of.rule is not None).lower()
            metrics.outcome.labels(arm, learns).observe(mean)
            metrics.outcome_squares.labels(arm, learns).inc(mean**2)

    def _pair(self, draft: DraftFigure, pair: PairOutcome) -> None:
        learning, scores = self._metrics.learning, self._metrics.scores
        learning.pairs.labels(pair.status).inc()
        if pair.reason is not None:
            learning.rejected.labels(pair.reason).inc()
        if pair.margin is not None and pair.scored_by_trained:
            scores.prequential_pairs.labels(draft.origin).inc()
            scores.prequential_correct.labels(draft.origin).inc(correct_share(pair.margin))
            scores.prequential_margin.labels(draft.origin).observe(pair.margin)
        if pair.edited_rise is not None and pair.scored_by_trained:
            scores.edited_rise.observe(pair.edited_rise)
            scores.edited_rise_sum.labels("up" if pair.edited_rise > 0 else "down").inc(abs(pair.edited_rise))
        if pair.delta_chosen_logp is not None:
            scores.chosen_logp_change.observe(pair.delta_chosen_logp)

    # --- states and versions ------------------------------------------------------------------------------------------

    def stored(self, state: UserState, seconds: float) -> None:
        versions = self._metrics.versions
        versions.states_stored.inc()
        versions.state_commit_seconds.observe(seconds)
        versions.last_snapshot.set(self._wall_clock())

    def lost_swap(self) -> None:
        self._metrics.versions.lost_swaps.inc()

    def published(self, state: UserState, arrivals: Sequence[Arrival], seconds: float) -> None:
        versions, now, unix_now = self._metrics.versions, self._clock(), self._wall_clock()
        versions.publish_seconds.observe(seconds)
        versions.last_publication.set(unix_now)
        if state.erased:
            versions.erasures.inc()
            return
        versions.published.inc()
        for arrival in arrivals:
            sent = arrival.record.timestamp_seconds
            # A producer's clock may be ahead of ours: never less than 0.
            versions.edit_to_published.observe(max(0.0, now - arrival.arrived_at if sent is None else unix_now - sent))

    def will_retry(self, stage: Stage) -> None:
        self._metrics.versions.retries.labels(stage).inc()


def _is_waiting_for(health: Health, stage: Stage) -> float:
    return stage in health.waiting_for
