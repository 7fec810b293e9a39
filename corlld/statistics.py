"""Folds what became of events into a user's figures. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from rapidfuzz.distance import Levenshtein

from corlld.records import DraftFigures, EditEvent, PairOutcome, PairStatus, Statistics

TIE_NATS = 1e-3  # repacking alone moves a margin by about this much
DRAFT_CLASSES_KEPT = 32  # producing versions told apart; older ones are merged into OLDER
OLDER = "older"
UNKNOWN = "unknown"


def edit_ratio(event: EditEvent) -> float:
    """Normalised edit distance between proposed and edited, 0 (accepted) to 1."""
    return float(Levenshtein.normalized_distance(event.proposed, event.edited))


def correct_share(margin_nats: float) -> float:
    """1 where the margin prefers the edited text, 0 where it does not, one half for a tie."""
    if abs(margin_nats) < TIE_NATS:
        return 0.5
    return 1.0 if margin_nats > 0 else 0.0


def fold(
    statistics: Statistics, events: Sequence[EditEvent], pairs: Sequence[PairOutcome], *, trained: bool, head: int
) -> Statistics:
    """The figures after one micro-batch.

    Args:
        statistics: the figures before.
        events: the micro-batch, without duplicates.
        pairs: one outcome for each event.
        trained: whether the adapter took a step.
        head: the newest version when the batch was trained; drafts of a later one count as unknown.
    """
    counts = {status: sum(pair.status is status for pair in pairs) for status in PairStatus}
    rejected = dict(statistics.rejected)
    for pair in pairs:
        if pair.reason is not None:
            rejected[pair.reason.value] = rejected.get(pair.reason.value, 0) + 1
    judged = [pair.margin for pair in pairs if pair.margin is not None and pair.scored_by_trained]
    base = [pair.base_margin for pair in pairs if pair.base_margin is not None]
    return replace(
        statistics,
        events=statistics.events + len(events),
        pairs_applied=statistics.pairs_applied + counts[PairStatus.APPLIED],
        acceptances=statistics.acceptances + counts[PairStatus.ACCEPTANCE],
        no_difference=statistics.no_difference + counts[PairStatus.NO_DIFFERENCE],
        rejected=rejected,
        updates=statistics.updates + trained,
        prequential_pairs=statistics.prequential_pairs + len(judged),
        prequential_correct=statistics.prequential_correct + sum(map(correct_share, judged)),
        prequential_margin_sum=statistics.prequential_margin_sum + sum(judged),
        base_pairs=statistics.base_pairs + len(base),
        base_correct=statistics.base_correct + sum(map(correct_share, base)),
        drafts=_fold_drafts(statistics, events, head),
    )


def _fold_drafts(statistics: Statistics, events: Sequence[EditEvent], head: int) -> dict[str, DraftFigures]:
    drafts = dict(statistics.drafts)
    for event in events:
        known = event.adapter_version is not None and event.adapter_version <= head
        name = str(event.adapter_version) if known else UNKNOWN
        drafts[name] = _merged(drafts.get(name), DraftFigures(1, int(event.is_acceptance), edit_ratio(event)))
    numbered = sorted((name for name in drafts if name.isdigit()), key=int)
    for name in numbered[:-DRAFT_CLASSES_KEPT]:
        drafts[OLDER] = _merged(drafts.get(OLDER), drafts.pop(name))
    return drafts


def _merged(one: DraftFigures | None, other: DraftFigures) -> DraftFigures:
    if one is None:
        return other
    return DraftFigures(
        one.events + other.events,
        one.acceptances + other.acceptances,
        one.edit_ratio_sum + other.edit_ratio_sum,
    )
