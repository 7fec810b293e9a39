"""Folds what became of events into a user's figures. Pure."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rapidfuzz.distance import Levenshtein

from corlld.records import DraftFigures, EditEvent, PairOutcome, PairStatus, Statistics

TIE_NATS = 1e-3  # repacking alone moves a margin by about this much
DRAFT_CLASSES_KEPT = 32  # producing versions told apart; older ones are merged into OLDER
OLDER = "older"
UNKNOWN = "unknown"
FIRST_DRAFTS = 8  # of a user: what later drafts are compared with
REPETITION_WINDOW = 20  # words; long enough for a loop of a phrase, short enough for a draft of a sentence or two

_WORD = re.compile(r"\w+")


class DraftOrigin(StrEnum):
    """Who wrote a draft; a closed set (metric label)."""

    BASE = "base"  # the base model itself
    OWN = "own"  # a version of this user's adapter
    UNKNOWN = "unknown"  # not said, or a version that does not exist


@dataclass(frozen=True, slots=True)
class DraftFigure:
    """One draft.

    repetition_rise: by how much its repetition is above the mean of this user's first drafts, 0 where it is not; None
    for one of the first drafts itself.
    """

    origin: DraftOrigin
    edit_ratio: float
    repetition: float
    repetition_rise: float | None


def edit_ratio(event: EditEvent) -> float:
    """Normalised edit distance between proposed and edited, 0 (accepted) to 1."""
    return float(Levenshtein.normalized_distance(event.proposed, event.edited))


def correct_share(margin_nats: float) -> float:
    """1 where the margin prefers the edited text, 0 where it does not, one half for a tie."""
    if abs(margin_nats) < TIE_NATS:
        return 0.5
    return 1.0 if margin_nats > 0 else 0.0


def repetition_ratio(text: str) -> float:
    """Share of repeated words, 0 (none) to nearly 1: 1 - moving-average type-token ratio.

    Over windows of REPETITION_WINDOW words; a shorter text is one window, and a single word repeats nothing. Unlike
    the plain ratio it does not grow with a text's length. Source: Covington & McFall 2010, "Cutting the Gordian knot:
    the moving-average type-token ratio (MATTR)".
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
    """Words, as repetition_ratio counts them."""
    return len(_WORD.findall(text))


def draft_origin(event: EditEvent, head: int) -> DraftOrigin:
    """Who wrote `proposed`. `head`: the newest version when the event was trained."""
    if event.adapter_version == 0:
        return DraftOrigin.BASE
    known = event.adapter_version is not None and event.adapter_version <= head
    return DraftOrigin.OWN if known else DraftOrigin.UNKNOWN


def judge_drafts(first_drafts: DraftFigures, events: Sequence[EditEvent], head: int) -> list[DraftFigure]:
    """A figure for each event's draft, in order.

    Args:
        first_drafts: of the user, before these events.
        events: without duplicates.
        head: the newest version when they are trained.
    """
    judged = []
    for event in events:
        one, rise = _figures(event), None
        if first_drafts.events >= FIRST_DRAFTS:
            rise = max(0.0, one.repetition_sum - first_drafts.repetition_sum / first_drafts.events)
        else:
            first_drafts = _merged(first_drafts, one)
        judged.append(DraftFigure(draft_origin(event, head), one.edit_ratio_sum, one.repetition_sum, rise))
    return judged


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
    figures = [_figures(event) for event in events]
    first = statistics.first_drafts
    for one in figures[: max(0, FIRST_DRAFTS - first.events)]:
        first = _merged(first, one)
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
        drafts=_fold_drafts(statistics, events, figures, head),
        first_drafts=first,
    )


def _fold_drafts(
    statistics: Statistics, events: Sequence[EditEvent], figures: Sequence[DraftFigures], head: int
) -> dict[str, DraftFigures]:
    drafts = dict(statistics.drafts)
    for event, one in zip(events, figures, strict=True):
        known = draft_origin(event, head) is not DraftOrigin.UNKNOWN
        name = str(event.adapter_version) if known else UNKNOWN
        drafts[name] = _merged(drafts.get(name, DraftFigures()), one)
    numbered = sorted((name for name in drafts if name.isdigit()), key=int)
    for name in numbered[:-DRAFT_CLASSES_KEPT]:
        drafts[OLDER] = _merged(drafts.get(OLDER, DraftFigures()), drafts.pop(name))
    return drafts


def _figures(event: EditEvent) -> DraftFigures:
    return DraftFigures(1, int(event.is_acceptance), edit_ratio(event), repetition_ratio(event.proposed))


def _merged(one: DraftFigures, other: DraftFigures) -> DraftFigures:
    return DraftFigures(
        one.events + other.events,
        one.acceptances + other.acceptances,
        one.edit_ratio_sum + other.edit_ratio_sum,
        one.repetition_sum + other.repetition_sum,
    )
