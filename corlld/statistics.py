"""Folds the outcomes of events into a user's figures. Pure."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rapidfuzz.distance import Levenshtein

from corlld.durable import DraftFigures, EditedRise, Statistics
from corlld.records import EditEvent, PairOutcome, PairStatus

TIE_NATS = 1e-3  # repacking alone moves a margin by about this much
DRAFT_CLASSES_KEPT = 32  # producing versions with figures of their own; older versions share OLDER
OLDER = "older"
UNKNOWN = "unknown"
FIRST_DRAFTS = 8  # per user; later drafts are compared with these
REPETITION_WINDOW = 20  # words; long enough for a loop of a phrase, short enough for a draft of a sentence or two

_WORD = re.compile(r"\w+")


class DraftOrigin(StrEnum):
    """The writer of a draft; a closed set (metric label)."""

    BASE = "base"  # the base model itself
    OWN = "own"  # a version of this user's adapter
    UNKNOWN = "unknown"  # no version is named, or it does not exist


@dataclass(frozen=True, slots=True)
class DraftFigure:
    """The figures of a single draft."""

    origin: DraftOrigin
    edit_ratio: float  # see `edit_ratio`
    repetition: float  # see `repetition_ratio`
    repetition_rise: float | None  # above the mean of the user's first drafts, at least 0; None for a first draft


def edit_ratio(event: EditEvent) -> float:
    """Return the normalised edit distance between proposed and edited: 0 (accepted) to 1."""
    return float(Levenshtein.normalized_distance(event.proposed, event.edited))


def correct_share(margin_nats: float) -> float:
    """Return 1 if the margin prefers the edited text, 0 if it prefers the proposed text, and .5 for a tie."""
    if abs(margin_nats) < TIE_NATS:
        return 0.5
    return 1.0 if margin_nats > 0 else 0.0


def repetition_ratio(text: str) -> float:
    """Return the share of repeated words, 0 (none) to nearly 1: 1 - moving-average type-token ratio.

    The average is over windows of REPETITION_WINDOW words. A shorter text is a single window, and a single word repeats
    nothing. Unlike the plain ratio, the average does not grow with the text's length. Source: Covington & McFall 2010,
    "Cutting the Gordian knot: the moving-average type-token ratio (MATTR)".
    """
    words = _WORD.findall(text.casefold())
    if len(words) < 2:
        return 0.0
    size = min(len(words), REPETITION_WINDOW)
    window = Counter(words[:size])
    types = len(window)
    for left, entering in zip(words, words[size:], strict=False):
        window[left] -= 1
        if not window[left]:
            del window[left]
        window[entering] += 1
        types += len(window)
    return 1.0 - types / (size * (len(words) - size + 1))


def word_count(text: str) -> int:
    """Return the number of words, as `repetition_ratio` counts them."""
    return len(_WORD.findall(text))


def draft_origin(event: EditEvent, head: int) -> DraftOrigin:
    """Return who wrote `proposed`. `head`: the newest version when the event was trained."""
    if event.adapter_version == 0:
        return DraftOrigin.BASE
    known = event.adapter_version is not None and event.adapter_version <= head
    return DraftOrigin.OWN if known else DraftOrigin.UNKNOWN


def judge_drafts(first_drafts: DraftFigures, events: Sequence[EditEvent], head: int) -> list[DraftFigure]:
    """Return the figures of each event's draft, in order.

    Args:
        first_drafts: the figures of the user's first drafts, before these events.
        events: the micro-batch, without duplicates.
        head: the newest version when the events are trained.
    """
    judged = []
    for event in events:
        draft, rise = _figures(event), None
        if first_drafts.events >= FIRST_DRAFTS:
            rise = max(0.0, draft.repetition_sum - first_drafts.repetition_sum / first_drafts.events)
        else:
            first_drafts = _merged(first_drafts, draft)
        judged.append(DraftFigure(draft_origin(event, head), draft.edit_ratio_sum, draft.repetition_sum, rise))
    return judged


def fold(
    statistics: Statistics, events: Sequence[EditEvent], pairs: Sequence[PairOutcome], *, trained: bool, head: int
) -> Statistics:
    """Return the figures after one more micro-batch.

    Args:
        statistics: the figures before.
        events: the micro-batch, without duplicates.
        pairs: one outcome per event, in order.
        trained: whether the adapter took a step.
        head: the newest version when the batch was trained. Drafts of later versions count as unknown.
    """
    counts = {status: sum(pair.status is status for pair in pairs) for status in PairStatus}
    rejected = dict(statistics.rejected)
    for pair in pairs:
        if pair.reason is not None:
            rejected[pair.reason.value] = rejected.get(pair.reason.value, 0) + 1
    figures = [_figures(event) for event in events]
    first = statistics.first_drafts
    for draft in figures[: max(0, FIRST_DRAFTS - first.events)]:
        first = _merged(first, draft)
    judged = [pair.margin for pair in pairs if pair.margin is not None and pair.scored_by_trained]
    rises = [pair.edited_rise for pair in pairs if pair.edited_rise is not None and pair.scored_by_trained]
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
        drafts=_fold_drafts(statistics, events, figures, head),
        first_drafts=first,
        edited_rise=EditedRise(statistics.edited_rise.pairs + len(rises), statistics.edited_rise.nats_sum + sum(rises)),
    )


def _fold_drafts(
    statistics: Statistics, events: Sequence[EditEvent], figures: Sequence[DraftFigures], head: int
) -> dict[str, DraftFigures]:
    drafts = dict(statistics.drafts)
    for event, draft in zip(events, figures, strict=True):
        known = draft_origin(event, head) is not DraftOrigin.UNKNOWN
        name = str(event.adapter_version) if known else UNKNOWN
        drafts[name] = _merged(drafts.get(name, DraftFigures()), draft)
    numbered = sorted((name for name in drafts if name.isdigit()), key=int)
    for name in numbered[:-DRAFT_CLASSES_KEPT]:
        drafts[OLDER] = _merged(drafts.get(OLDER, DraftFigures()), drafts.pop(name))
    return drafts


def _figures(event: EditEvent) -> DraftFigures:
    return DraftFigures(1, int(event.is_acceptance), edit_ratio(event), repetition_ratio(event.proposed))


def _merged(figures: DraftFigures, more: DraftFigures) -> DraftFigures:
    return DraftFigures(
        figures.events + more.events,
        figures.acceptances + more.acceptances,
        figures.edit_ratio_sum + more.edit_ratio_sum,
        figures.repetition_sum + more.repetition_sum,
    )
