"""A cell of the study of harm: users edit drafts, and the learner learns from them and is measured."""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from corlld.learning.user_step import PairScore
from corlld.records import Adapter, EditEvent, PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings
from corlld.simulation.closed_loop import Editor
from corlld.simulation.control_texts import CANARIES, PASSAGES
from corlld.simulation.drafting import DRAFTS_EACH
from corlld.simulation.editors import utility
from corlld.simulation.personas import FIVE_TASTES
from corlld.simulation.prompts import HELD_OUT, TRAINING, Prompt
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.likelihood import nats_above_base, perplexity
from corlld.simulation.studies.no_harm.harmful_users import HOSTILE, KINDS, make_editor
from corlld.simulation.studies.no_harm.variants import Scale, Variant
from corlld.simulation.studies.workshop import Workshop, event, pseudonym, text_event
from corlld.statistics import repetition_ratio

HELD_OUT_PROMPTS = 6
SCORED = 4  # of the canaries and of the held-out prompts: enough to tell users apart, and scoring takes long
_COUNTED = (PairStatus.APPLIED, PairStatus.ACCEPTANCE, "drift", "repetitive")  # each has a column of its own


@dataclass(eq=False)
class User:
    """One user on its way through the edits.

    statuses: of all edits so far. The lists hold one value per edit (drifts: per update) since the last measurement:
    `gains` of utility, `edit_ratios`, `repetitions` of the drafts, `drifts` in nats per token.
    """

    kind: str
    uid: str
    editor: Editor
    prompts: Iterator[Prompt]
    adapter: Adapter | None = None
    statuses: Counter[str] = field(default_factory=Counter)
    gains: list[float] = field(default_factory=list)
    edit_ratios: list[float] = field(default_factory=list)
    repetitions: list[float] = field(default_factory=list)
    drifts: list[float] = field(default_factory=list)

    def take_in(self, outcome: UpdateOutcome) -> None:
        self.adapter = outcome.adapter
        self.statuses.update(pair.reason.value if pair.reason else pair.status.value for pair in outcome.pairs)
        if outcome.drift_nats is not None:
            self.drifts.append(outcome.drift_nats)


def make_users(kinds: Sequence[str], seed: int) -> list[User]:
    """Return users of one taste, which the seed decides. All are asked the same, and are the same in every variant."""
    taste = FIVE_TASTES[seed % len(FIVE_TASTES)]
    randoms = {kind: np.random.default_rng([seed, number]) for number, kind in enumerate(KINDS)}
    return [
        User(kind, pseudonym(kind, seed), make_editor(kind, randoms[kind]), TRAINING.prompts(taste, 7 * seed))
        for kind in kinds
    ]


class Cell:
    """One seed of one variant: its users from their first edit to their last.

    Args:
        workshop: learns and drafts.
        scale: the amount of work.
        variant: the changed settings.
        seed: of taste, prompts, users and new adapters.
    """

    def __init__(self, workshop: Workshop, scale: Scale, variant: Variant, seed: int) -> None:
        self._workshop = workshop
        self._scale = scale
        self._variant = variant
        self._seed = seed
        self._users = make_users(variant.kinds, seed)
        self._learner = workshop.learner(
            scale.learning.model_copy(update=dict(variant.learning)),
            GuardSettings.model_validate(dict(variant.guard)),
            len(variant.kinds),
        )
        taste = FIVE_TASTES[seed % len(FIVE_TASTES)]
        self._held_out = list(itertools.islice(HELD_OUT.prompts(taste), HELD_OUT_PROMPTS))
        self._canaries_of_base = [draft.text for draft in workshop.draft([(None, canary) for canary in CANARIES])]

    def run(self) -> list[Row]:
        """Return a row per user before the first edit, and after every `measure_every` edits."""
        # Nothing is learnt yet: one user stands for all.
        (start,) = self._measure(self._users[:1], 0)
        rows = [start | {"user": user.kind} for user in self._users]
        for done in range(DRAFTS_EACH, self._variant.edits + 1, DRAFTS_EACH):
            self._round()
            if done % self._scale.measure_every == 0:
                rows += self._measure(self._users, done)
        return rows

    def _round(self) -> None:
        """Draft for all users in one batch, edit, and learn in one update."""
        asked = [(user, next(user.prompts)) for user in self._users for _ in range(DRAFTS_EACH)]
        drafts = self._workshop.draft([(_served(user), prompt.text) for user, prompt in asked])
        events: dict[str, list[EditEvent]] = {user.uid: [] for user in self._users}
        for (user, prompt), draft in zip(asked, drafts, strict=True):
            edited = user.editor.edit(draft.text, prompt.hidden)
            events[user.uid].append(event(prompt.text, draft.text, edited, truncated=draft.truncated))
            user.gains.append(utility(edited, prompt.hidden) - utility(draft.text, prompt.hidden))
            user.edit_ratios.append(1 - utility(draft.text, edited))
            user.repetitions.append(repetition_ratio(draft.text))
        batches = [TrainingBatch(user.uid, user.adapter, tuple(events[user.uid])) for user in self._users]
        for user, outcome in zip(self._users, self._learner.update(batches), strict=True):
            user.take_in(outcome)
        self._workshop.serve({user.kind: user.adapter for user in self._users})

    def _measure(self, users: Sequence[User], edits: int) -> list[Row]:
        # In two batches: the length to which a batch is padded changes drafts by itself (bfloat16).
        canaries = self._drafts(users, CANARIES)
        held_out = self._drafts(users, [prompt.text for prompt in self._held_out])
        own = [one + other for one, other in zip(canaries, held_out, strict=True)]
        batches = [
            TrainingBatch(user.uid, user.adapter, tuple(_scored(self._parts(user, drafted))))
            for user, drafted in zip(users, own, strict=True)
        ]
        rows = []
        for user, drafted, scores in zip(users, own, self._learner.score(batches), strict=True):
            parts = self._parts(user, drafted)
            ends = list(itertools.accumulate(len(part) for part in parts.values()))
            found = {
                name: [score for score in scores[end - len(parts[name]) : end] if score is not None]
                for name, end in zip(parts, ends, strict=True)
            }
            rows.append(self._row(user, edits, drafted, found))
        return rows

    def _drafts(self, users: Sequence[User], prompts: Sequence[str]) -> list[list[str]]:
        """Return each user's drafts, one per prompt; all are made in one batch."""
        drafts = self._workshop.draft([(_served(user), prompt) for user in users for prompt in prompts])
        texts = [draft.text for draft in drafts]
        return [texts[start : start + len(prompts)] for start in range(0, len(texts), len(prompts))]

    def _parts(self, user: User, drafted: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        """Return the prompts and texts to score, by the measure that they serve."""
        junk = make_editor(user.kind, np.random.default_rng([self._seed, len(KINDS)]))
        hostile = user.kind in HOSTILE
        return {
            "plain": [(passage.opening, passage.rest) for passage in PASSAGES],
            "base_drafts": list(zip(CANARIES[:SCORED], self._canaries_of_base, strict=False)),
            "own_drafts": list(zip(CANARIES[:SCORED], drafted, strict=False)),
            "wanted": [(p.text, junk.edit("", p.hidden) if hostile else p.hidden) for p in self._held_out[:SCORED]],
        }

    def _row(self, user: User, edits: int, drafted: Sequence[str], found: Mapping[str, Sequence[PairScore]]) -> Row:
        canaries, held_out = drafted[: len(CANARIES)], drafted[len(CANARIES) :]
        rise = {name: nats_above_base(scores) for name, scores in found.items()}
        counted = len(user.gains)
        row: Row = {
            "seed": self._seed,
            "variant": self._variant.name,
            "user": user.kind,
            "edits": edits,
            "plain_perplexity": perplexity(found["plain"]),
            "plain_ratio": math.exp(-rise["plain"]),
            "base_drafts_nats": -rise["base_drafts"],
            "own_drafts_nats": rise["own_drafts"],
            "wanted_nats": rise["wanted"],
            "canary_similarity": statistics.fmean(map(utility, canaries, self._canaries_of_base)),
            "canary_repetition": statistics.fmean(map(repetition_ratio, canaries)),
            "canary_repetition_of_base": statistics.fmean(map(repetition_ratio, self._canaries_of_base)),
            "held_out_distance": statistics.fmean(
                1 - utility(text, prompt.hidden) for text, prompt in zip(held_out, self._held_out, strict=True)
            ),
            "held_out_repetition": statistics.fmean(map(repetition_ratio, held_out)),
            "applied": user.statuses[PairStatus.APPLIED],
            "accepted": user.statuses[PairStatus.ACCEPTANCE],
            "rejected_drift": user.statuses["drift"],
            "rejected_repetitive": user.statuses["repetitive"],
            "rejected_other": user.statuses.total() - sum(user.statuses[name] for name in _COUNTED),
        }
        if counted:
            row |= {
                "edit_ratio": statistics.fmean(user.edit_ratios),
                "draft_repetition": statistics.fmean(user.repetitions),
                "harmful_share": sum(gain < 0 for gain in user.gains) / counted,
            }
        if user.drifts:
            row |= {"drift_median": statistics.median(user.drifts), "drift_max": max(user.drifts)}
        for values in (user.gains, user.edit_ratios, user.repetitions, user.drifts):
            values.clear()
        return row


def _served(user: User) -> str | None:
    """Return the user's name at the engine; None: the base model.

    The name is the kind of user, so that the adapters of a later cell replace those of an earlier one.
    """
    return user.kind if user.adapter is not None else None


def _scored(parts: Mapping[str, Sequence[tuple[str, str]]]) -> list[EditEvent]:
    """Return events that ask for likelihoods. As in truncated drafts, the end of a text is not scored."""
    return [text_event(prompt, text, truncated=True) for part in parts.values() for prompt, text in part]
