"""Turns what happens into metrics."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from corlld.observer import Observer
from corlld.operations.health import Health
from corlld.operations.metrics import TOKEN_KINDS, Metrics
from corlld.records import (
    Arrival,
    DeadLetter,
    EditEvent,
    LoopStatus,
    ModelInfo,
    PairOutcome,
    Stage,
    Statistics,
    UpdateOutcome,
    UserState,
)
from corlld.statistics import DraftFigure, correct_share, judge_drafts


class MetricsObserver(Observer):
    """Moves the metrics. Readiness is asked of `health` at every scrape: a loop that is stuck tells nothing any more.

    Args:
        metrics: nobody else moves them.
        health: told before this observer.
        clock: monotonic seconds, the daemon's.
        wall_clock: unix time.
    """

    def __init__(
        self,
        metrics: Metrics,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._partitions: set[str] = set()  # that have a lag
        self._tokens = dict.fromkeys(TOKEN_KINDS, 0)  # counted so far
        metrics.ready.set_function(lambda: health.not_ready() is None)
        for stage in Stage:
            metrics.waiting_for.labels(stage).set_function(partial(_is_waiting_for, health, stage))

    # --- the process and the loop -------------------------------------------------------------------------------------

    def model_loaded(self, model: ModelInfo, device: str, dtype: str) -> None:
        self._metrics.model_info.labels(model.name, model.revision, device, dtype, model.fingerprint).set(1)

    def turned(self, status: LoopStatus) -> None:
        metrics = self._metrics
        metrics.buffered_events.set(status.buffered_events)
        metrics.buffered_chars.set(status.buffered_chars)
        metrics.reading_paused.set(status.reading_paused)
        metrics.partitions.set(len(status.partitions))
        tokens = {"needed": status.computed_tokens - status.padding_tokens, "padding": status.padding_tokens}
        for kind, count in tokens.items():
            metrics.tokens.labels(kind).inc(count - self._tokens[kind])
        self._tokens = tokens
        metrics.low_watermark_age.set(
            max((partition.low_watermark_age_seconds for partition in status.partitions.values()), default=0.0)
        )
        lags = {str(number): p.lag for number, p in status.partitions.items() if p.lag is not None}
        for gone in self._partitions - set(lags):
            metrics.consumer_lag.remove(gone)
        for partition, lag in lags.items():
            metrics.consumer_lag.labels(partition).set(lag)
        self._partitions = set(lags)
        metrics.host_memory_users.set(status.host_memory_users)
        metrics.host_memory_bytes.set(status.host_memory_bytes)
        metrics.unsaved_users.set(status.unsaved_users)
        metrics.unsaved_age.set(status.unsaved_age_seconds)

    # --- the way in ---------------------------------------------------------------------------------------------------

    def read(self, records: int) -> None:
        self._metrics.records.inc(records)

    def admitted(self, arrival: Arrival) -> None:
        event = arrival.event
        kind = "erase" if not isinstance(event, EditEvent) else "acceptance" if event.is_acceptance else "edit"
        self._metrics.events.labels(kind).inc()

    def dead_letter(self, letter: DeadLetter) -> None:
        self._metrics.dead_letters.labels(letter.error.reason).inc()

    def finished(self, arrivals: Sequence[Arrival], duplicates: int, now: float) -> None:
        self._metrics.duplicates.inc(duplicates)

    # --- learning -----------------------------------------------------------------------------------------------------

    def step(self, users: int, seconds: float) -> None:
        self._metrics.step_users.observe(users)
        self._metrics.step_seconds.observe(seconds)

    def update(self, before: Statistics, state: UserState, events: Sequence[EditEvent], outcome: UpdateOutcome) -> None:
        drafts = judge_drafts(before.first_drafts, events, head=state.version)
        for event, draft, pair in zip(events, drafts, outcome.pairs, strict=True):
            self._draft(event, draft)
            self._pair(draft, pair)
        self._metrics.updates.inc(outcome.trained)
        if outcome.drift_nats is not None:
            self._metrics.drift.observe(outcome.drift_nats)
        if outcome.plain_text_drop_nats is not None:
            self._metrics.plain_text_drop.observe(outcome.plain_text_drop_nats)
        scored = sum(pair.margin is not None for pair in outcome.pairs)
        self._metrics.scored_pairs.inc(scored)
        self._metrics.saturated_pairs.inc(round((outcome.saturated_share or 0.0) * scored))

    def _draft(self, event: EditEvent, draft: DraftFigure) -> None:
        metrics = self._metrics
        metrics.draft_edit_ratio.labels(draft.origin).observe(draft.edit_ratio)
        metrics.draft_repetition.labels(draft.origin).observe(draft.repetition)
        if draft.repetition_rise is not None:
            metrics.draft_repetition_rise.labels(draft.origin).observe(draft.repetition_rise)
        if event.is_acceptance:
            metrics.drafts_accepted.labels(draft.origin).inc()

    def _pair(self, draft: DraftFigure, pair: PairOutcome) -> None:
        metrics = self._metrics
        metrics.pairs.labels(pair.status).inc()
        if pair.reason is not None:
            metrics.rejected.labels(pair.reason).inc()
        if pair.margin is not None and pair.scored_by_trained:
            metrics.prequential_pairs.labels(draft.origin).inc()
            metrics.prequential_correct.labels(draft.origin).inc(correct_share(pair.margin))
            metrics.prequential_margin.labels(draft.origin).observe(pair.margin)
        if pair.delta_chosen_logp is not None:
            metrics.chosen_logp_change.observe(pair.delta_chosen_logp)

    # --- states and versions ------------------------------------------------------------------------------------------

    def stored(self, state: UserState, seconds: float) -> None:
        self._metrics.states_stored.inc()
        self._metrics.state_commit_seconds.observe(seconds)
        self._metrics.last_snapshot.set(self._wall_clock())

    def lost_swap(self) -> None:
        self._metrics.lost_swaps.inc()

    def published(self, state: UserState, arrivals: Sequence[Arrival], seconds: float) -> None:
        metrics, now, unix_now = self._metrics, self._clock(), self._wall_clock()
        metrics.publish_seconds.observe(seconds)
        metrics.last_publication.set(unix_now)
        if state.erased:
            metrics.erasures.inc()
            return
        metrics.versions_published.inc()
        for arrival in arrivals:
            sent = arrival.record.timestamp_seconds
            # The producer's clock is not ours.
            metrics.edit_to_published.observe(max(0.0, now - arrival.arrived_at if sent is None else unix_now - sent))

    def commit_begun(self) -> None:
        self._metrics.commits.inc()

    def will_retry(self, stage: Stage) -> None:
        self._metrics.retries.labels(stage).inc()


def _is_waiting_for(health: Health, stage: Stage) -> float:
    return stage in health.waiting_for
