"""A closed loop of writers whose feedback is weak or noisy: drafts, feedback, and one update per round."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from corlld.records import Adapter, EditEvent, PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings
from corlld.simulation.drafting import DRAFTS_EACH, Draft
from corlld.simulation.editors import utility
from corlld.simulation.personas import Taste
from corlld.simulation.prompts import HELD_OUT, TRAINING, Prompt
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.likelihood import nats_above_base
from corlld.simulation.studies.weak_edits.contestants import Rule
from corlld.simulation.studies.weak_edits.feedback import Feedback
from corlld.simulation.studies.workshop import Workshop, event, pseudonym, text_event
from corlld.statistics import repetition_ratio


@dataclass(eq=False)
class Writer:
    """A user on the way through the edits."""

    taste: Taste
    first_prompt: int
    adapter: Adapter | None = None

    @property
    def name(self) -> str:
        return self.taste.user_id


@dataclass(eq=False)
class _Exchanges:
    """One writer's drafts of a round. taken: what the writer is left with. events: what is learnt from."""

    prompts: list[Prompt]
    drafts: list[Draft]
    taken: list[str] = field(default_factory=list)
    events: list[EditEvent] = field(default_factory=list)


class Loop:
    """Rounds of drafting, feedback and learning, with all writers in one call of the engine and of the learner.

    Args:
        workshop: drafts and learns.
        rule: how to learn.
        feedback: of all writers.
        tastes: the writers'.
        seed: of the writers' prompts, samples and new adapters.
    """

    def __init__(self, workshop: Workshop, rule: Rule, feedback: Feedback, tastes: Sequence[Taste], seed: int) -> None:
        self._workshop = workshop
        self._rule = rule
        self._feedback = feedback
        self._seed = seed
        self._writers = [Writer(taste, 7 * number + 31 * seed) for number, taste in enumerate(tastes)]
        self._learner = (
            None if rule.learning is None else workshop.learner(rule.learning, GuardSettings(), len(self._writers))
        )
        self.drafts = 0  # per writer so far

    def round(self) -> list[Row]:
        """Make `DRAFTS_EACH` drafts per writer, take the feedback in, and learn from it. Returns a row per writer."""
        asked = [(writer, prompt) for writer in self._writers for prompt in self._prompts(writer)]
        drafts = self._draft(asked, self.drafts if self._rule.compares else None)
        seconds = self._draft(asked, self.drafts + 1) if self._rule.compares else drafts
        exchanges: dict[str, _Exchanges] = {writer.name: _Exchanges([], []) for writer in self._writers}
        for number, ((writer, prompt), draft, second) in enumerate(zip(asked, drafts, seconds, strict=True)):
            self._exchange(exchanges[writer.name], prompt, draft, second, number % DRAFTS_EACH)
        outcomes = self._learn([exchanges[writer.name].events for writer in self._writers])
        self.drafts += DRAFTS_EACH
        rows: list[Row] = []
        for writer, outcome in zip(self._writers, outcomes, strict=True):
            head: Row = {"kind": "round", "writer": writer.name, "drafts": self.drafts}
            drafted = _draft_figures(exchanges[writer.name], compares=self._rule.compares)
            rows.append(head | drafted | _step_figures(outcome))
        return rows

    def mark(self, held_out: int) -> list[Row]:
        """Measure the adapters on prompts that are never trained on. Returns a row per writer.

        wanted_rise_nats: rise of log pi of the wanted texts over the base model, in nats per token.
        """
        asked = [
            (writer, prompt)
            for writer in self._writers
            for prompt in itertools.islice(HELD_OUT.prompts(writer.taste), held_out)
        ]
        drafts = self._draft([(writer, self._rendered(prompt)) for writer, prompt in asked], None)
        rows: list[Row] = []
        for number, writer in enumerate(self._writers):
            own = slice(number * held_out, (number + 1) * held_out)
            texts, wanted = [d.text for d in drafts[own]], [prompt.hidden for _, prompt in asked[own]]
            rise = self._rise(writer, [self._rendered(prompt) for _, prompt in asked[own]])
            rows.append(
                {
                    "kind": "held-out",
                    "writer": writer.name,
                    "drafts": self.drafts,
                    "distance": statistics.fmean(1 - utility(*both) for both in zip(texts, wanted, strict=True)),
                    "repetition": statistics.fmean(map(repetition_ratio, texts)),
                    "words": statistics.fmean(len(text.split()) for text in texts),
                    "wanted_rise_nats": rise,
                }
            )
        return rows

    def _rise(self, writer: Writer, prompts: Sequence[Prompt]) -> float:
        if self._learner is None or writer.adapter is None:
            return 0.0
        wanted = tuple(text_event(prompt.text, prompt.hidden, truncated=False) for prompt in prompts)
        (scores,) = self._learner.score([self._batch(writer, wanted)])
        return nats_above_base([score for score in scores if score is not None])

    def _batch(self, writer: Writer, events: Sequence[EditEvent]) -> TrainingBatch:
        return TrainingBatch(pseudonym(writer.name, self._seed), writer.adapter, tuple(events))

    def _prompts(self, writer: Writer) -> list[Prompt]:
        prompts = TRAINING.prompts(writer.taste, writer.first_prompt + self.drafts)
        return [self._rendered(prompt) for prompt in itertools.islice(prompts, DRAFTS_EACH)]

    def _rendered(self, prompt: Prompt) -> Prompt:
        return Prompt(self._workshop.asked(prompt.text), prompt.hidden)

    def _draft(self, asked: Sequence[tuple[Writer, Prompt]], number: int | None) -> list[Draft]:
        """Return the most likely drafts; with a number, samples. Each is by the writer's own adapter."""
        requests = [(writer.name if writer.adapter is not None else None, prompt.text) for writer, prompt in asked]
        return self._workshop.draft(requests, seed=None if number is None else 10_000 * self._seed + number)

    def _exchange(self, own: _Exchanges, prompt: Prompt, draft: Draft, second: Draft, place: int) -> None:
        """Add one draft and the feedback to it; of two drafts the one that the writer takes."""
        number = self.drafts + place
        if not self._rule.compares:
            edited = self._feedback.edit(draft.text, prompt.hidden, number)
            own.events.append(event(prompt.text, draft.text, edited, truncated=draft.truncated))
        else:
            first = self._feedback.prefers_first(draft.text, second.text, prompt.hidden, number)
            draft, other = (second, draft) if first is False else (draft, second)
            edited = draft.text
            if first is not None:
                # The end of the text that is taken is learnt, if it has one.
                own.events.append(event(prompt.text, other.text, draft.text, truncated=draft.truncated))
        own.prompts.append(prompt)
        own.drafts.append(draft)
        own.taken.append(edited)

    def _learn(self, events: Sequence[Sequence[EditEvent]]) -> list[UpdateOutcome | None]:
        if self._learner is None:
            return [None] * len(self._writers)
        outcomes = self._learner.update(list(map(self._batch, self._writers, events)))
        for writer, outcome in zip(self._writers, outcomes, strict=True):
            writer.adapter = outcome.adapter
        self._workshop.serve({writer.name: writer.adapter for writer in self._writers})
        return list(outcomes)


def _draft_figures(own: _Exchanges, *, compares: bool) -> Row:
    """Return the figures of a round's drafts.

    distance: share of a draft that the writer would have to change for the hidden text. edit_ratio: share that the
    writer has changed. harmful: share of edits after which the text is farther from the hidden one.
    """
    texts, wanted = [draft.text for draft in own.drafts], [prompt.hidden for prompt in own.prompts]
    row: Row = {
        "distance": statistics.fmean(1 - utility(*both) for both in zip(texts, wanted, strict=True)),
        "repetition": statistics.fmean(map(repetition_ratio, texts)),
        "words": statistics.fmean(len(text.split()) for text in texts),
    }
    if compares:
        return row
    gains = [
        utility(edited, hidden) - utility(text, hidden)
        for text, edited, hidden in zip(texts, own.taken, wanted, strict=True)
    ]
    return row | {
        "edit_ratio": statistics.fmean(1 - utility(*both) for both in zip(texts, own.taken, strict=True)),
        "harmful": statistics.fmean(gain < 0 for gain in gains),
    }


def _step_figures(outcome: UpdateOutcome | None) -> Row:
    """Return the figures of an update. A figure without a value is left out."""
    if outcome is None:
        return {}
    rises = [pair.edited_rise for pair in outcome.pairs if pair.edited_rise is not None]
    row: Row = {"refused": sum(pair.status is PairStatus.REJECTED for pair in outcome.pairs)}
    if rises:
        row["rise_nats"] = statistics.fmean(rises)
    return row
