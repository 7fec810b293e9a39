"""What a user's state says about learning: figures with bands, and sentences on what they mean. Pure.

All figures are sums that the state keeps, so that no text of the user is needed, and none is here. A band is the
Chernoff-Hoeffding bound for values between 0 and 1: it needs the mean and the number of values, no sums of squares and
no normal distribution. It holds for independent values, and is wide for few. How it is printed is not known here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from corlld.durable import DraftFigures, Participation, Statistics, UserState
from corlld.errors import RejectReason
from corlld.experiment.arms import Arms, began_elsewhere
from corlld.statistics import OLDER, UNKNOWN
from corlld.system.plurals import counted

BAND_SHARE = 0.95  # of all bands hold the true mean, or more of them
_BISECTIONS = 50
_MOST_ROWS = 8  # of the own versions' drafts: the story is a page
BASE_VERSION = "0"
_COIN = 0.5
_HARDLY_BETTER = 0.6  # a share below this is of no use, even if it is above a coin's

REJECTED = {  # what became of an edit, by the reason that the state counts
    RejectReason.TOO_LONG: "longer than learning.max_response_tokens",
    RejectReason.NON_FINITE: "a step with it had numbers that are not finite, and was undone",
    RejectReason.DRIFT: "a step with it moved the adapter by more than guard.max_drift_nats, and was undone",
    RejectReason.REPETITIVE: "the edited text repeats itself by more than guard.max_repetition_rise above the draft",
    RejectReason.OUT_OF_MEMORY: "it does not fit on the device by itself",
    RejectReason.UNRENDERABLE: "the chat template or the tokenizer can't take its texts",
}
GUARD = (RejectReason.DRIFT, RejectReason.NON_FINITE, RejectReason.REPETITIVE)


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of `count` values between 0 and 1, with its band."""

    value: float
    low: float
    high: float
    count: int

    def is_below(self, other: "Mean") -> bool:
        """Return whether the bands say so: they don't meet."""
        return self.high < other.low


@dataclass(frozen=True, slots=True)
class Drafts:
    """The drafts of a version, or of neighbouring versions. versions: for people, such as `3 to 5`."""

    versions: str
    accepted: int
    edit_ratio: Mean


@dataclass(frozen=True, slots=True)
class Explanation:
    """The story of a user.

    drafts: by version, those of no version of the user's first. base, own: all drafts of the base model, and all of the
    user's own versions. first: the user's first drafts, whoever wrote them. own_share: of the drafts whose writer is
    known, those of the own versions.
    edited_rise_nats: how much more likely than the base model, or the start adapter, the adapter made edited texts
    before it learnt from them, in nats per token. It has no limits, and so no band.
    accuracy: share of pairs whose edited text the adapter preferred before it learnt from it. accuracy_on_base_drafts:
    of those pairs whose draft the base model wrote. base_accuracy: share of pairs whose edited text the base model, or
    the start adapter, prefers.
    sentences: what all this means, most important first. None: there is nothing to divide by.
    """

    drafts: tuple[Drafts, ...]
    base: Mean | None
    own: Mean | None
    first: Mean | None
    own_share: float | None
    edited_rise_nats: float | None
    accuracy: Mean | None
    accuracy_on_base_drafts: Mean | None
    base_accuracy: Mean | None
    sentences: tuple[str, ...]


def mean_of(total: float, count: int) -> Mean | None:
    """Return the mean of values between 0 and 1 with its band; None without a value.

    Hoeffding 1963, theorem 1: a mean lies beyond q with probability at most exp(-n kl(mean, q)) on each side.
    """
    if not count:
        return None
    mean = min(1.0, max(0.0, total / count))
    limit = math.log(2 / (1 - BAND_SHARE)) / count
    return Mean(mean, _edge(mean, 0.0, limit), _edge(mean, 1.0, limit), count)


def _edge(mean: float, outermost: float, limit: float) -> float:
    """Return the q between the mean and `outermost` with kl(mean, q) = limit."""
    inside, outside = mean, outermost
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        if _kl(mean, middle) < limit:
            inside = middle
        else:
            outside = middle
    return outside


def _kl(p: float, q: float) -> float:
    """Return the Kullback-Leibler divergence of two Bernoulli distributions, in nats; 0 < q < 1 unless q equals p."""
    if p == q:
        return 0.0
    return sum(a * math.log(a / b) if a else 0.0 for a, b in ((p, q), (1 - p, 1 - q)))


def explain(state: UserState, arms: Arms, start: str | None = None) -> Explanation:
    """Return the story of a user.

    Args:
        state: the newest one.
        arms: those of the settings.
        start: the digest of the start adapter of new users; None if they begin from the base model.
    """
    figures = state.statistics
    numbered = {int(name): drafts for name, drafts in figures.drafts.items() if name.isdigit() and name != BASE_VERSION}
    base = figures.drafts.get(BASE_VERSION, DraftFigures())
    own = _sum((*numbered.values(), figures.drafts.get(OLDER, DraftFigures())))
    told = Explanation(
        drafts=tuple(_rows(figures.drafts, numbered)),
        base=_edit_ratio(base),
        own=_edit_ratio(own),
        first=_edit_ratio(figures.first_drafts),
        own_share=own.events / (own.events + base.events) if own.events + base.events else None,
        edited_rise_nats=figures.edited_rise.nats_sum / rises if (rises := figures.edited_rise.pairs) else None,
        accuracy=mean_of(figures.prequential_correct, figures.prequential_pairs),
        accuracy_on_base_drafts=mean_of(figures.base_draft_pairs.correct, figures.base_draft_pairs.pairs),
        base_accuracy=mean_of(figures.base_correct, figures.base_pairs),
        sentences=(),
    )
    return replace(told, sentences=tuple(_sentences(state, told, arms, start)))


def _rows(drafts: Mapping[str, DraftFigures], numbered: Mapping[int, DraftFigures]) -> Iterable[Drafts]:
    """Yield a row per version; neighbours share one if there are many. Rows without a draft are left out."""
    parts = [("base model", drafts.get(BASE_VERSION)), ("older", drafts.get(OLDER))]
    order = sorted(numbered)
    size = max(1, -(-len(order) // _MOST_ROWS))
    for start in range(0, len(order), size):
        group = order[start : start + size]
        name = str(group[0]) if len(group) == 1 else f"{group[0]} to {group[-1]}"
        parts.append((name, _sum(numbered[version] for version in group)))
    parts.append(("not named", drafts.get(UNKNOWN)))
    for name, figures in parts:
        if figures is not None and (ratio := _edit_ratio(figures)) is not None:
            yield Drafts(name, figures.acceptances, ratio)


def _sum(figures: Iterable[DraftFigures]) -> DraftFigures:
    listed = list(figures)
    return DraftFigures(
        events=sum(each.events for each in listed),
        acceptances=sum(each.acceptances for each in listed),
        edit_ratio_sum=sum(each.edit_ratio_sum for each in listed),
        repetition_sum=sum(each.repetition_sum for each in listed),
    )


def _edit_ratio(figures: DraftFigures) -> Mean | None:
    return mean_of(figures.edit_ratio_sum, figures.events)


def _sentences(state: UserState, told: Explanation, arms: Arms, start: str | None) -> Iterable[str]:
    if state.erased:
        yield "The user was erased: the state holds nothing of the user but what keeps the erasure from being undone."
        return
    is_held_out = arms.holds_out(state.participation)
    if is_held_out:
        yield "The user joined as a holdout: edits are only counted."
    elif not state.statistics.updates:
        yield "No step was taken yet: the adapter adds nothing to the base model."
    if told.own is not None or not is_held_out:
        yield _on_drafts(told)
    if told.edited_rise_nats is not None:
        yield _on_rise(told.edited_rise_nats, state, start)
    if state.statistics.updates:
        yield _on_accuracy(told)
    yield from _on_guard(state.statistics)
    if began_elsewhere(state, start):
        yield _on_start(state)
    if state.participation is not None:
        yield from _on_arm(state.participation, arms)


def _on_drafts(told: Explanation) -> str:
    """Say whether the own versions' drafts need less editing than those of the base model, or than the first ones."""
    if told.own is None:
        return "No draft is known to be of an own version, so that edits can't tell whether drafts got better."
    before, name = (told.base, "the base model's drafts") if told.base is not None else (told.first, "the first drafts")
    if before is None:
        return "There is no draft to compare the own versions' drafts with."
    figures = f"an edit ratio of {_shown(told.own, 'draft')}, and {name} of {_shown(before, 'draft')}"
    if told.own.is_below(before):
        return f"It helps: the own versions' drafts need less editing. They have {figures}."
    if before.is_below(told.own):
        return f"It does harm: the own versions' drafts need more editing. They have {figures}."
    return f"Too few drafts to tell: the bands meet. The own versions' drafts have {figures}."


def _on_rise(nats: float, state: UserState, start: str | None) -> str:
    began = "the base model" if state.adapter is None or state.adapter.start is None else "the start adapter"
    if began != "the base model" and began_elsewhere(state, start):
        began = "its start adapter (since that changed: the base model)"
    pairs = state.statistics.edited_rise.pairs
    more, verdict = ("more", "as it should") if nats > 0 else ("less", "which a user's own texts must not become")
    return (
        f"Before it learnt from an edited text, the adapter made it {more} likely than {began} does, {verdict}: "
        f"{nats:+.3f} nats per token over {counted(pairs, 'edit')}."
    )


def _on_accuracy(told: Explanation) -> str:
    """Say what the accuracy is worth. An adapter likes its own drafts: beside those its accuracy says little."""
    known = told.accuracy_on_base_drafts
    if (mean := known or told.accuracy) is None:
        return "No pair was scored by an adapter that had taken a step."
    where = "Of the pairs with a draft of the base model" if known else "Of the pairs"
    found = f"{where}, the adapter preferred the edited text in {_shown(mean, 'pair')}, before it learnt from them"
    if known is None and told.own_share is None:
        return f"{found}. What that says depends on who wrote the drafts, and the events name no version."
    if known is None and told.own_share:
        return (
            f"{found}. That says little: {told.own_share:.0%} of the drafts were its own, which it prefers by itself. "
            "Look at the edit ratio."
        )
    if mean.low > _COIN:
        return f"{found}: better than a coin, so that it knows the user's taste."
    if mean.high < _HARDLY_BETTER:
        return f"{found}: no better than a coin, or hardly."
    return f"{found}: too few to tell whether that is better than a coin."


def _on_guard(figures: Statistics) -> Iterable[str]:
    stopped = {reason: figures.rejected.get(reason.value, 0) for reason in GUARD}
    if total := sum(stopped.values()):
        share = total / max(1, figures.events)
        kept_out = counted(total, "edit")
        yield f"The guard kept {kept_out} out, {share:.0%} of all. The reasons stand with the rejected edits."
    elif figures.updates:
        yield "The guard had nothing to do: no step was undone, and no edit was repetitive."


def _on_start(state: UserState) -> str:
    """Say what it means that new users begin from another adapter."""
    from_none = state.adapter is None or state.adapter.start is None
    began = "the base model" if from_none else "another start adapter"
    arm = "" if state.participation is None else " The user is not compared with those of other arms any more."
    return (
        f"The user began from {began}, and new users begin elsewhere (adapter.start_path): the user keeps the own "
        f"adapter, and it is compared with the base model{' as before' if from_none else ' since then'}.{arm}"
    )


def _on_arm(participation: Participation, arms: Arms) -> Iterable[str]:
    """Say why the user is not compared any more, if so."""
    name = participation.arm
    if name not in arms.by_name:
        yield f"The arm {name} is retired: the user learns by [learning], and is not compared any more."
    elif arms.terms_of(participation) is None:
        yield f"The rule of the arm {name} changed after the user joined: the user is not compared any more."


def _shown(mean: Mean, what: str) -> str:
    """Return the mean with its band and the number of what it rests on."""
    return f"{mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f}, {counted(mean.count, what)})"


def meaning(reason: str) -> str:
    """Return what a rejection means. reason: as the state counts it, perhaps of another version of corlld."""
    known: Sequence[RejectReason] = tuple(RejectReason)
    return REJECTED[RejectReason(reason)] if reason in known else "a reason of another version of corlld"
