"""A closed loop straight on the learner, without the daemon: drafts, edits, and one update of all users per round.

A `Method` says what is learnt, and by which settings.
"""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corlld.adapters.layout import AdapterTensors
from corlld.errors import FatalError
from corlld.learning.user_step import PairScore
from corlld.records import EditEvent, PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import GuardSettings, LearningSettings
from corlld.simulation.closed_loop import Draft, Editor
from corlld.simulation.control_texts import PARAGRAPHS
from corlld.simulation.drafting import DRAFTS_EACH
from corlld.simulation.editors import utility
from corlld.simulation.personas import Taste
from corlld.simulation.prompts import HELD_OUT, TRAINING, Prompt
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.kept_adapters import keep, kept
from corlld.simulation.studies.likelihood import base_perplexity, nats_above_base, perplexity
from corlld.simulation.studies.workshop import Workshop, event, pseudonym, text_event
from corlld.statistics import repetition_ratio


@dataclass(frozen=True, slots=True)
class Method:
    """A way to learn.

    name: of the settings, in results. supervised: only the edited text of each edit is learnt, as if it had been
    accepted. With `acceptance_weight` 1 that is supervised fine-tuning, -log pi(edited).
    """

    name: str
    learning: LearningSettings
    supervised: bool = False


@dataclass(frozen=True, slots=True)
class Writer:
    """A user: a taste, the seed of the adapter's first random numbers, and the index of the first prompt."""

    taste: Taste
    seed: int
    first_prompt: int

    @property
    def user(self) -> str:
        return self.taste.user_id

    @property
    def uid(self) -> str:
        return pseudonym(self.user, self.seed)


def writers(tastes: Sequence[Taste], all_tastes: Sequence[Taste], seed: int) -> list[Writer]:
    """Return the users of some tastes. A user does not depend on who else takes part.

    The users are asked about different subjects at the same time.
    """
    return [Writer(taste, seed, 7 * all_tastes.index(taste) + 31 * seed) for taste in tastes]


@dataclass(frozen=True, slots=True)
class _Exchange:
    prompt: Prompt
    draft: Draft
    edited: str


class DirectLoop:
    """Rounds of drafting, editing and learning: one call of the engine and one of the learner for all users.

    Args:
        workshop: shared by all loops.
        method: how to learn.
        writers: the users.
        editor: how all of them edit.
    """

    def __init__(self, workshop: Workshop, method: Method, writers: Sequence[Writer], editor: Editor) -> None:
        self._workshop = workshop
        self._method = method
        self._writers = writers
        self._editor = editor
        self._learner = workshop.learner(method.learning, GuardSettings(), len(writers))
        self._adapters: dict[str, AdapterTensors] = {}
        self.edits = 0  # per user so far

    def round(self) -> list[Row]:
        """Make `DRAFTS_EACH` drafts per user, edit them, and update all users once. Returns one row per user."""
        asked = [(writer, prompt) for writer in self._writers for prompt in self._next_prompts(writer)]
        exchanges: dict[str, list[_Exchange]] = {writer.user: [] for writer in self._writers}
        for (writer, prompt), draft in zip(asked, self._draft(asked), strict=True):
            edited = self._editor.edit(draft.text, prompt.hidden)
            exchanges[writer.user].append(_Exchange(prompt, draft, edited))
        batches = [self._batch(writer, map(self._feedback, exchanges[writer.user])) for writer in self._writers]
        outcomes = self._learner.update(batches)
        self.edits += DRAFTS_EACH
        for writer, outcome in zip(self._writers, outcomes, strict=True):
            self._serve(writer, outcome.adapter)
        return [
            {
                "kind": "round",
                "user": writer.user,
                "edits": self.edits,
                **_draft_figures(exchanges[writer.user]),
                **_step_figures(outcome),
            }
            for writer, outcome in zip(self._writers, outcomes, strict=True)
        ]

    def mark(self, held_out: int, *, exchanged: bool = False) -> list[Row]:
        """Measure the adapters on prompts that are never trained on, and on plain English.

        Args:
            held_out: prompts per user.
            exchanged: measure also the distance of drafts by the next user's adapter. It is a control: what all
                adapters learn alike is no user's taste.

        Returns:
            One row per prompt: the draft, its distance from the hidden text, how much likelier than under the base
            model the draft has become (`kl_nats`, per token), and how much likelier the hidden text
            (`hidden_rise_nats`, in all). Then one row per user: the perplexity of plain English.
        """
        asked = [
            (writer, prompt)
            for writer in self._writers
            for prompt in itertools.islice(HELD_OUT.prompts(writer.taste), held_out)
        ]
        drafts = self._draft(asked)
        following = dict(zip(self._writers, [*self._writers[1:], self._writers[0]], strict=True))
        others = self._draft([(following[writer], prompt) for writer, prompt in asked]) if exchanged else []
        rows: list[Row] = []
        for number, writer in enumerate(self._writers):
            own = slice(number * held_out, (number + 1) * held_out)
            prompts = [prompt for _, prompt in asked[own]]
            scores = self._scores(writer, prompts, drafts[own])
            label: Row = {"user": writer.user, "edits": self.edits}
            for place, (prompt, draft) in enumerate(zip(prompts, drafts[own], strict=True)):
                row = _held_out_figures(prompt, draft, *scores[2 * place : 2 * place + 2])
                if exchanged:
                    row["exchanged_distance"] = 1 - utility(others[own][place].text, prompt.hidden)
                rows.append({"kind": "held-out", **label, "prompt": place, **row})
            plain = scores[2 * held_out :]
            rows.append(
                {
                    "kind": "plain",
                    **label,
                    "perplexity": perplexity(plain),
                    "base_perplexity": base_perplexity(plain),
                }
            )
        return rows

    def save(self, path: Path) -> None:
        """Write the whole state of the loop, for `restore`. An older file is replaced."""
        keep(path, self._adapters, self.edits)

    def restore(self, path: Path) -> None:
        """Go on from the state that another loop has saved. Raises FatalError where the file is missing."""
        found = kept(path)
        self.edits = found.edits
        for writer in self._writers:
            self._serve(writer, found.adapters.get(writer.user))

    def _next_prompts(self, writer: Writer) -> Iterable[Prompt]:
        return itertools.islice(TRAINING.prompts(writer.taste, writer.first_prompt + self.edits), DRAFTS_EACH)

    def _draft(self, asked: Sequence[tuple[Writer, Prompt]]) -> list[Draft]:
        """Return drafts, each by the writer's own adapter, made in one batch."""
        served = self._adapters.keys()
        requests = [(writer.user if writer.user in served else None, prompt.text) for writer, prompt in asked]
        return list(self._workshop.draft(requests))

    def _feedback(self, exchange: _Exchange) -> EditEvent:
        if self._method.supervised:
            # The whole edited text, with its end: an advantage that the rule does not have.
            return text_event(exchange.prompt.text, exchange.edited, truncated=False)
        return event(exchange.prompt.text, exchange.draft.text, exchange.edited, truncated=exchange.draft.truncated)

    def _batch(self, writer: Writer, events: Iterable[EditEvent]) -> TrainingBatch:
        return TrainingBatch(writer.uid, self._adapters.get(writer.user), tuple(events))

    def _serve(self, writer: Writer, adapter: object) -> None:
        if isinstance(adapter, AdapterTensors):
            self._adapters[writer.user] = adapter
            self._workshop.serve({writer.user: adapter})

    def _scores(self, writer: Writer, prompts: Sequence[Prompt], drafts: Sequence[Draft]) -> list[PairScore]:
        """Return the scores of each draft and its hidden text in turn, then those of the plain paragraphs."""
        events = []
        for prompt, draft in zip(prompts, drafts, strict=True):
            events.append(text_event(prompt.text, draft.text, truncated=draft.truncated))
            events.append(text_event(prompt.text, prompt.hidden, truncated=False))
        # A paragraph is no answer that ends: `truncated` leaves the end token out.
        events += [text_event("", paragraph, truncated=True) for paragraph in PARAGRAPHS]
        (scores,) = self._learner.score([self._batch(writer, events)])
        known = [score for score in scores if score is not None]
        if len(known) < len(events):
            raise FatalError("a text is too long for the model")
        return known


def _draft_figures(exchanges: Sequence[_Exchange]) -> Mapping[str, float]:
    return {
        "edit_ratio": statistics.fmean(1 - utility(x.draft.text, x.edited) for x in exchanges),
        "accepted": statistics.fmean(x.draft.text == x.edited for x in exchanges),
        "repetition": statistics.fmean(repetition_ratio(x.draft.text) for x in exchanges),
        "words": statistics.fmean(len(x.draft.text.split()) for x in exchanges),
        "hidden_words": statistics.fmean(len(x.prompt.hidden.split()) for x in exchanges),
    }


def _step_figures(outcome: UpdateOutcome) -> Mapping[str, float]:
    """Return the figures of an update. A figure without a value is left out."""
    margins = [pair.margin for pair in outcome.pairs if pair.margin is not None]
    deltas = [pair.delta_chosen_logp for pair in outcome.pairs if pair.delta_chosen_logp is not None]
    figures = {
        "margin_nats": statistics.fmean(margins) if margins else None,
        "delta_edited_nats": statistics.fmean(deltas) if deltas else None,
        "drift_nats": outcome.drift_nats,
        "saturated_share": outcome.saturated_share,
        "rejected": sum(pair.status is PairStatus.REJECTED for pair in outcome.pairs),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _held_out_figures(prompt: Prompt, draft: Draft, written: PairScore, hidden: PairScore) -> Row:
    """Return the figures of one held-out draft. written, hidden: scores of the draft and of the hidden text."""
    return {
        "distance": 1 - utility(draft.text, prompt.hidden),
        "repetition": repetition_ratio(draft.text),
        "words": len(draft.text.split()),
        "base_nats": -written.base.chosen / written.edited_tokens,
        "kl_nats": nats_above_base([written]),
        "hidden_rise_nats": hidden.policy.chosen - hidden.base.chosen,
    }
