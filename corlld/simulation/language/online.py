"""Online learning from many users by the daemon's own learner: draft, answer, update, and again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

import numpy as np

from corlld.adapters.layout import AdapterTensors
from corlld.learning.learner import CorllLearner
from corlld.learning.model.resident import ResidentModel
from corlld.records import EditEvent, PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings, LearningSettings
from corlld.simulation.language.grammar import PROMPTS, Prompt, Words, is_sentence, parse, text_of
from corlld.simulation.language.policies import Draft, sample
from corlld.simulation.language.users import Answer, Harm, User, Utility, seeded

_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)


class Feedback(StrEnum):
    """The kinds of answers, and what the learner gets of them. Each kind costs the user one answer per prompt."""

    EDITS = "edits"  # the draft and its edit, as a pair
    EDITED_TEXTS = "edited texts"  # the edit alone, as a text to imitate
    TWO_SAMPLES = "two samples"  # two drafts, the better one preferred
    NONE = "none"  # nothing is learnt


@dataclass(frozen=True, slots=True)
class Scenario:
    """A way of users to answer; see `User`.

    of_base: they answer to drafts of the base model, as in an archive. What their own policy writes is judged all the
    same.
    """

    name: str
    alpha: float
    harm_rate: float
    harm: Harm
    of_base: bool = False


@dataclass
class History:
    """One user's run.

    utilities: U of what the user's policy wrote, one value per answer (the mean, for two samples). sentences: share of
    these texts without a fault, one value per answer.
    """

    scenario: Scenario
    seed: int
    user: User
    adapter: AdapterTensors | None = None
    utilities: list[float] = field(default_factory=list)
    sentences: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    rejected: int = 0  # pairs whose update the guard undid

    @property
    def regrets(self) -> list[float]:
        """U(y*) - U(y), answer by answer."""
        return [1 - value for value in self.utilities]

    def take_in(self, outcome: UpdateOutcome) -> None:
        assert outcome.adapter is None or isinstance(outcome.adapter, AdapterTensors)  # noqa: S101 - its own make
        self.adapter = outcome.adapter
        self.rejected += sum(pair.status is PairStatus.REJECTED for pair in outcome.pairs)


def run_online(
    resident: ResidentModel,
    feedback: Feedback,
    learning: LearningSettings,
    guard: GuardSettings,
    users: Sequence[tuple[Scenario, int]],
    *,
    rounds: int,
    each: int,
) -> list[History]:
    """Learn from all users side by side, in `rounds` micro-batches of `each` answers.

    The random draws of a seed are the same in every scenario and for every kind of feedback: only what was learnt
    differs.

    Args:
        resident: the base model.
        feedback: what users are asked for.
        learning: the rule.
        guard: the guard of each step.
        users: scenario and seed of each.
        rounds: micro-batches per user.
        each: answers in a micro-batch.
    """
    histories = [_begun(scenario, seed) for scenario, seed in users]
    prompted = [seeded("prompts", seed) for _, seed in users]
    drawn = [seeded("drafts", seed) for _, seed in users]
    others = [seeded("drafts of the base model", seed) for _, seed in users]
    answered = [seeded("answers", seed) for _, seed in users]
    learner = CorllLearner(resident, learning, guard, device_slots=len(users))
    copies = 2 if feedback is Feedback.TWO_SAMPLES else 1
    for number in range(rounds):
        prompts = [[PROMPTS[index] for index in rng.integers(len(PROMPTS), size=each)] for rng in prompted]
        repeated = [asked * copies for asked in prompts]
        own = sample(resident, [history.adapter for history in histories], repeated, drawn)
        shown = own
        if any(history.scenario.of_base for history in histories):
            theirs = sample(resident, [None] * len(histories), repeated, others)
            shown = [t if h.scenario.of_base else o for h, o, t in zip(histories, own, theirs, strict=True)]
        for history, asked, drafts in zip(histories, prompts, own, strict=True):
            _judge(history, asked, drafts)
        batches = [
            TrainingBatch(_uid(history), history.adapter, tuple(_answered(history, number, asked, seen, feedback, rng)))
            for history, asked, seen, rng in zip(histories, prompts, shown, answered, strict=True)
        ]
        if feedback is Feedback.NONE:
            continue
        for history, outcome in zip(histories, learner.update(batches), strict=True):
            history.take_in(outcome)
    return histories


def _begun(scenario: Scenario, seed: int) -> History:
    user = User(_utility(seed), scenario.alpha, scenario.harm_rate, scenario.harm)
    return History(scenario, seed, user)


@lru_cache(maxsize=64)
def _utility(seed: int) -> Utility:
    return Utility(seed)


def _uid(history: History) -> str:
    return f"{history.scenario.name}-{history.seed}"


def _answered(
    history: History,
    number: int,
    prompts: Sequence[Prompt],
    shown: Sequence[Draft],
    feedback: Feedback,
    rng: np.random.Generator,
) -> Iterator[EditEvent]:
    """Let a user answer the drafts of round `number`, and yield the answers as the learner gets them.

    shown: one draft per prompt, in order; for two samples then a second draft per prompt.
    """
    for index, prompt in enumerate(prompts):
        answer = _answer(history, prompt, shown[index :: len(prompts)], rng)
        history.answers.append(answer)
        yield _lesson(f"{number}-{index}", prompt, shown[index], answer, feedback)


def _judge(history: History, prompts: Sequence[Prompt], drafts: Sequence[Draft]) -> None:
    """Note utility and faults of what the user's policy wrote. drafts: in the order of `_answered`."""
    for index, prompt in enumerate(prompts):
        parsed = [parse(draft.words) for draft in drafts[index :: len(prompts)]]
        history.utilities.append(float(np.mean([history.user.utility.of(prompt, text) for text in parsed])))
        history.sentences.append(float(np.mean([is_sentence(text) for text in parsed])))


def _answer(history: History, prompt: Prompt, shown: Sequence[Draft], rng: np.random.Generator) -> Answer:
    if len(shown) == 2:
        return history.user.prefer(prompt, shown[0].words, shown[1].words, rng)
    return history.user.edit(prompt, shown[0].words, rng)


def _lesson(name: str, prompt: Prompt, draft: Draft, answer: Answer, feedback: Feedback) -> EditEvent:
    """Return one answer as the event that the learner gets."""
    if feedback is Feedback.EDITED_TEXTS:
        return _event(name, prompt, answer.chosen, answer.chosen, truncated=False)
    return _event(name, prompt, answer.rejected, answer.chosen, truncated=draft.truncated)


def _event(name: str, prompt: Prompt, proposed: Words, edited: Words, *, truncated: bool) -> EditEvent:
    return EditEvent(
        event_id=name,
        user_id="made up",
        occurred_at=_SOME_TIME,
        prompt=prompt.text,
        messages=None,
        proposed=text_of(proposed),
        edited=text_of(edited),
        truncated=truncated,
    )
