"""`corlld simulate no-harm`: what becomes of an adapter, and of plain English, whoever it learns from.

Four users of one taste edit drafts in a closed loop, each with an adapter of its own: an honest one, one whose edits
are noise (half of them go to the wanted text, half spoil the draft), one who pastes the same words over everything, and
one who writes signs as unlikely as can be, to force the largest step. Rule and guard are the daemon's defaults, but in
variants, which have another guard or another rule.
"""

import functools
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from corlld.errors import ExitCode, FatalError
from corlld.learning.learner import CorllLearner
from corlld.learning.user_step import PairScore
from corlld.records import Adapter, EditEvent, PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings, LearningSettings
from corlld.simulation.closed_loop import Editor
from corlld.simulation.studies.closed_rounds import Workshop, event, pseudonym
from corlld.simulation.studies.contract import Figure, Options, Row, Study, Unit
from corlld.simulation.studies.no_harm.harmful_users import HOSTILE, KINDS, make_editor
from corlld.simulation.studies.no_harm.passages_and_canaries import CANARIES, PASSAGES
from corlld.simulation.studies.no_harm.pictures import plot_harm
from corlld.simulation.studies.no_harm.report import (
    BAND_SEEDS,
    DEFAULTS,
    NOISE_BAND,
    UNGUARDED,
    UNREHEARSED,
    figures_of,
)
from corlld.simulation.tastes import FIVE_TASTES, HELD_OUT, TRAINING, Prompt
from corlld.simulation.writers import utility
from corlld.statistics import repetition_ratio

DRAFTS_EACH = 4  # as in the demo: one batch for the engine, one micro-batch and one step for the learner
MAX_NEW_TOKENS = 32
HELD_OUT_PROMPTS = 6
_COUNTED = (PairStatus.APPLIED, PairStatus.ACCEPTANCE, "drift", "repetitive")  # in columns of their own
SCORED = 4  # of canaries and of held-out prompts: enough to be told apart, and scoring takes long


@dataclass(frozen=True, slots=True)
class Variant:
    """A run with something other than the defaults, and its users.

    learning, guard: what is other there. every_seed: not of the first one alone.
    """

    name: str
    kinds: tuple[str, ...]
    edits: int
    learning: Mapping[str, float] = field(default_factory=dict)
    guard: Mapping[str, float] = field(default_factory=dict)
    every_seed: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done. edits: of a user. measure_every: edits between two measurements. learning: the rule."""

    edits: int
    measure_every: int
    variants: tuple[Variant, ...]
    learning: LearningSettings = field(default_factory=LearningSettings)


FULL = Scale(
    edits=80,
    measure_every=20,
    variants=(
        # What does an adapter come to that learns what is pasted, and what would tell of it?
        Variant(UNGUARDED, ("pasting",), 80, guard={"max_repetition_rise": 1.0}),
        # Does another bound of drift stop who leaps before it stops who is honest?
        Variant("drift 0.1", ("honest", "leaping"), 20, guard={"max_drift_nats": 0.1}),
        # What keeps noise from doing harm, and at what price?
        Variant(UNREHEARSED, ("honest", "noisy"), 80, {"rehearsal_weight": 0.0}, every_seed=True),
    ),
)
QUICK = Scale(
    edits=8,
    measure_every=4,
    variants=(
        Variant(UNGUARDED, ("pasting",), 8, guard={"max_repetition_rise": 1.0}),
        Variant(UNREHEARSED, ("honest", "noisy"), 8, {"rehearsal_weight": 0.0}, every_seed=True),
    ),
)


@dataclass(eq=False)
class _User:
    """One user on the way. What was counted since the last measurement is cleared by it."""

    kind: str
    uid: str
    editor: Editor
    prompts: Iterator[Prompt]
    adapter: Adapter | None = None
    statuses: Counter[str] = field(default_factory=Counter)  # since the first edit
    gains: list[float] = field(default_factory=list)  # of utility, by each edit since the last measurement
    edit_ratios: list[float] = field(default_factory=list)
    repetitions: list[float] = field(default_factory=list)
    drifts: list[float] = field(default_factory=list)

    def take_in(self, outcome: UpdateOutcome) -> None:
        self.adapter = outcome.adapter
        self.statuses.update(pair.reason.value if pair.reason else pair.status.value for pair in outcome.pairs)
        if outcome.drift_nats is not None:
            self.drifts.append(outcome.drift_nats)


def make_users(kinds: Sequence[str], seed: int) -> list[_User]:
    """Users of one taste, which the seed tells, all asked the same; the same ones in every variant."""
    taste = FIVE_TASTES[seed % len(FIVE_TASTES)]
    randoms = {kind: np.random.default_rng([seed, number]) for number, kind in enumerate(KINDS)}
    return [
        _User(kind, pseudonym(kind, seed), make_editor(kind, randoms[kind]), TRAINING.prompts(taste, 7 * seed))
        for kind in kinds
    ]


class Cell:
    """One seed of one variant: some users from their first edit to their last.

    Args:
        workshop: learns and drafts.
        scale: how much is done.
        variant: what is other than there.
        seed: of tastes, prompts, users and new adapters.
    """

    def __init__(self, workshop: Workshop, scale: Scale, variant: Variant, seed: int) -> None:
        self._workshop = workshop
        self._scale = scale
        self._variant = variant
        self._seed = seed
        self._users = make_users(variant.kinds, seed)
        self._learner: CorllLearner = workshop.learner(
            scale.learning.model_copy(update=dict(variant.learning)),
            GuardSettings.model_validate(dict(variant.guard)),
            len(variant.kinds),
        )
        taste = FIVE_TASTES[seed % len(FIVE_TASTES)]
        self._held_out = list(itertools.islice(HELD_OUT.prompts(taste), HELD_OUT_PROMPTS))
        self._canaries_of_base = [draft.text for draft in workshop.draft([(None, canary) for canary in CANARIES])]

    def run(self) -> list[Row]:
        """A row a user before the first edit, and after each `measure_every`."""
        # Nothing is learnt yet, so one user stands for all.
        (start,) = self._measure(self._users[:1], 0)
        rows = [start | {"user": user.kind} for user in self._users]
        for done in range(DRAFTS_EACH, self._variant.edits + 1, DRAFTS_EACH):
            self._round()
            if done % self._scale.measure_every == 0:
                rows += self._measure(self._users, done)
        return rows

    def _round(self) -> None:
        """Drafts for all users in one batch, their edits, and one call of the learner."""
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

    def _measure(self, users: Sequence[_User], edits: int) -> list[Row]:
        # Apart, since what a batch is padded to changes drafts by itself (bfloat16).
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

    def _drafts(self, users: Sequence[_User], prompts: Sequence[str]) -> list[list[str]]:
        """Of each user, one a prompt; all in one batch."""
        drafts = self._workshop.draft([(_served(user), prompt) for user in users for prompt in prompts])
        texts = [draft.text for draft in drafts]
        return [texts[start : start + len(prompts)] for start in range(0, len(texts), len(prompts))]

    def _parts(self, user: _User, drafted: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        """Prompts and texts whose likelihood is asked for, by what they tell."""
        junk = make_editor(user.kind, np.random.default_rng([self._seed, len(KINDS)]))
        hostile = user.kind in HOSTILE
        return {
            "plain": [(passage.opening, passage.rest) for passage in PASSAGES],
            "base_drafts": list(zip(CANARIES[:SCORED], self._canaries_of_base, strict=False)),
            "own_drafts": list(zip(CANARIES[:SCORED], drafted, strict=False)),
            "wanted": [(p.text, junk.edit("", p.hidden) if hostile else p.hidden) for p in self._held_out[:SCORED]],
        }

    def _row(self, user: _User, edits: int, drafted: Sequence[str], found: Mapping[str, Sequence[PairScore]]) -> Row:
        canaries, held_out = drafted[: len(CANARIES)], drafted[len(CANARIES) :]
        rise = {name: _nats_above_base(scores) for name, scores in found.items()}
        counted = len(user.gains)
        row: Row = {
            "seed": self._seed,
            "variant": self._variant.name,
            "user": user.kind,
            "edits": edits,
            "plain_perplexity": _perplexity(found["plain"]),
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


def _served(user: _User) -> str | None:
    """The engine knows adapters by the kind of user, so that a later cell's take the places of an earlier one's."""
    return user.kind if user.adapter is not None else None


def _scored(parts: Mapping[str, Sequence[tuple[str, str]]]) -> list[EditEvent]:
    """As drafts that were cut: where a text should end is no question here."""
    return [event(prompt, text, text, truncated=True) for part in parts.values() for prompt, text in part]


def _nats_above_base(scores: Sequence[PairScore]) -> float:
    """By how much log pi is above log pi_base, a token."""
    return sum(s.policy[0] - s.base[0] for s in scores) / sum(s.edited_tokens for s in scores)


def _perplexity(scores: Sequence[PairScore]) -> float:
    return math.exp(-sum(s.policy[0] for s in scores) / sum(s.edited_tokens for s in scores))


class NoHarm:
    """The study. scale: of a run that is not quick."""

    name = "no-harm"
    question = "What do noise and hostile users do to an adapter, and who stops them?"
    budget_minutes = 75.0
    seeds = (12, 13, 14)  # other writers than those on whom rehearsal was chosen

    def __init__(self, scale: Scale = FULL) -> None:
        self._scale = scale

    def units(self, options: Options) -> Sequence[Unit]:
        """A unit a seed with the defaults, then one a variant."""
        if stated := sorted(set(options.seeds) & set(BAND_SEEDS)):
            raise FatalError(
                f"--seeds: {stated[0]} is a seed that the bands were stated from; name others", ExitCode.USAGE
            )
        scale = QUICK if options.quick else self._scale
        workshop = functools.cache(lambda: Workshop(options.model, MAX_NEW_TOKENS))

        def unit(seed: int, variant: Variant) -> Unit:
            return Unit(f"seed {seed}, {variant.name}", lambda: Cell(workshop(), scale, variant, seed).run())

        first = options.seeds[0]
        # The leaping user's texts are the longest ones: one seed has to do.
        plain = [Variant(DEFAULTS, KINDS if seed == first else KINDS[:-1], scale.edits) for seed in options.seeds]
        return [
            *(unit(seed, variant) for seed, variant in zip(options.seeds, plain, strict=True)),
            *(
                unit(seed, variant)
                for variant in scale.variants
                for seed in (options.seeds if variant.every_seed else (first,))
            ),
        ]

    def report(self, rows: Sequence[Row], folder: Path, options: Options) -> Mapping[str, Figure]:
        shown = [row for row in rows if row["variant"] == DEFAULTS]
        shown += [
            row | {"user": f"{row['user']}, {row['variant']}"}
            for row in rows
            if row["variant"] in (UNGUARDED, UNREHEARSED)
        ]
        plot_harm(folder / "harm.png", shown, NOISE_BAND)
        return figures_of(rows)


STUDY: Study = NoHarm()
