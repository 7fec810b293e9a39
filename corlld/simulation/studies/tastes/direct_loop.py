"""A closed loop straight on the learner, without the daemon: drafts, users' edits, and one update of all users a round.

What is learnt, and by which settings, is said by a `Method`; drafts come from the same engine as the demo's, which is
given the adapters as the daemon would publish them.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from corlld.adapters.layout import AdapterTensors
from corlld.errors import FatalError
from corlld.learning.learner import CorllLearner
from corlld.learning.model.files import find_model_files
from corlld.learning.model.resident import ResidentModel, load_resident_model
from corlld.learning.user_step import PairScore
from corlld.records import EditEvent, PairStatus, TrainingBatch, UpdateOutcome
from corlld.settings.sections import AdapterSettings, GuardSettings, LearningSettings, ModelSettings
from corlld.simulation.closed_loop import Draft, Editor
from corlld.simulation.demonstration import DRAFTS_EACH, MAX_NEW_TOKENS
from corlld.simulation.drafting import PeftEngine
from corlld.simulation.plain_english import PARAGRAPHS
from corlld.simulation.studies.closed_rounds import event, pseudonym, serve
from corlld.simulation.studies.contract import Row
from corlld.simulation.tastes import HELD_OUT, TRAINING, Prompt, Taste
from corlld.simulation.writers import utility
from corlld.statistics import repetition_ratio

_PARTS = ("weights", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Method:
    """How the loop learns.

    name: of the settings, in results. supervised: of each edit only the edited text is learnt from, as if it had been
    accepted: with `acceptance_weight` 1 that is supervised fine-tuning, -log pi(edited).
    """

    name: str
    learning: LearningSettings
    supervised: bool = False


class Models:
    """The model, loaded when it is first asked for: once to learn, and once to draft."""

    def __init__(self, name: str) -> None:
        self._settings = ModelSettings(name=name, dtype="bfloat16")

    @cached_property
    def resident(self) -> ResidentModel:
        return load_resident_model(self._settings, AdapterSettings())

    @cached_property
    def engine(self) -> PeftEngine:
        return PeftEngine(find_model_files(self._settings).source, self._settings, MAX_NEW_TOKENS)


@dataclass(frozen=True, slots=True)
class Writer:
    """A user: a taste, and what the seed decides: the adapter's first random numbers, and where the prompts begin."""

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
    """The users of some tastes; a user is the same one whoever else takes part. They are asked about different subjects
    at the same time.
    """
    return [Writer(taste, seed, 7 * all_tastes.index(taste) + 31 * seed) for taste in tastes]


@dataclass(frozen=True, slots=True)
class _Exchange:
    prompt: Prompt
    draft: Draft
    edited: str


class DirectLoop:
    """Rounds of drafting, editing and learning for some users, all in one call of the engine and one of the learner.

    Args:
        models: shared by all loops.
        method: how to learn.
        writers: the users.
        editor: how all of them edit.
        folder: where the adapters lie that the engine drafts with; made where it is not there.
    """

    def __init__(self, models: Models, method: Method, writers: Sequence[Writer], editor: Editor, folder: Path) -> None:
        self._models = models
        self._method = method
        self._writers = writers
        self._editor = editor
        self._folder = folder
        self._learner = CorllLearner(models.resident, method.learning, GuardSettings(), len(writers))
        self._adapters: dict[str, AdapterTensors] = {}
        self.edits = 0  # of each user so far

    def round(self) -> list[Row]:
        """`DRAFTS_EACH` drafts for every user, their edits, and one update. Returns a row a user."""
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
        """How the adapters do on `held_out` prompts a user that are never trained on, and on plain text.

        Returns a row a prompt: the draft, how far it is from what the user has in mind, and what became more likely
        than it was under the base model: the draft itself (`kl_nats` a token), and the hidden text (`hidden_rise_nats`
        in all). And a row a user: perplexity of plain text. With `exchanged` also the distance of a draft by the next
        user's adapter: a control, since what all adapters learn alike is no user's taste.
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
            scores = self._scores(writer, [prompt for _, prompt in asked[own]], drafts[own])
            for place, ((_, prompt), draft) in enumerate(zip(asked[own], drafts[own], strict=True)):
                written, hidden = scores[2 * place], scores[2 * place + 1]
                rows.append(
                    {
                        "kind": "held-out",
                        "user": writer.user,
                        "edits": self.edits,
                        "prompt": place,
                        "distance": 1 - utility(draft.text, prompt.hidden),
                        "repetition": repetition_ratio(draft.text),
                        "words": len(draft.text.split()),
                        "base_nats": -written.base[0] / written.edited_tokens,
                        "kl_nats": (written.policy[0] - written.base[0]) / written.edited_tokens,
                        "hidden_rise_nats": hidden.policy[0] - hidden.base[0],
                    }
                )
                if exchanged:
                    rows[-1]["exchanged_distance"] = 1 - utility(others[own][place].text, prompt.hidden)
            plain = scores[2 * held_out :]
            rows.append(
                {
                    "kind": "plain",
                    "user": writer.user,
                    "edits": self.edits,
                    "perplexity": _perplexity([(score.policy[0], score.edited_tokens) for score in plain]),
                    "base_perplexity": _perplexity([(score.base[0], score.edited_tokens) for score in plain]),
                }
            )
        return rows

    def save(self, path: Path) -> None:
        """All that the loop is made of, for `restore`. Written over."""
        tensors = {
            f"{user} {part}": getattr(adapter, part) for user, adapter in self._adapters.items() for part in _PARTS
        }
        steps = {user: str(adapter.optimizer_step) for user, adapter in self._adapters.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, {"edits": str(self.edits)} | steps)

    def restore(self, path: Path) -> None:
        """Go on where another loop saved itself. Raises FatalError where it did not."""
        if not path.exists():
            raise FatalError(f"{path} is missing: begin anew in another folder")
        with safe_open(path, "pt") as file:
            found = file.metadata()
            self.edits = int(found.pop("edits"))
            for writer in self._writers:
                if writer.user in found:
                    weights, exp_avg, exp_avg_sq = (file.get_tensor(f"{writer.user} {part}") for part in _PARTS)
                    self._serve(writer, AdapterTensors(weights, exp_avg, exp_avg_sq, int(found[writer.user])))

    def _next_prompts(self, writer: Writer) -> Iterable[Prompt]:
        return itertools.islice(TRAINING.prompts(writer.taste, writer.first_prompt + self.edits), DRAFTS_EACH)

    def _draft(self, asked: Sequence[tuple[Writer, Prompt]]) -> list[Draft]:
        """Each by the writer's own adapter, all in one batch."""
        served = self._adapters.keys()
        requests = [(writer.user if writer.user in served else None, prompt.text) for writer, prompt in asked]
        return list(self._models.engine.draft(requests))

    def _feedback(self, exchange: _Exchange) -> EditEvent:
        if self._method.supervised:
            # The whole edited text, with its end: a benefit that the rule does not have.
            return event(exchange.prompt.text, exchange.edited, exchange.edited, truncated=False)
        return event(exchange.prompt.text, exchange.draft.text, exchange.edited, truncated=exchange.draft.truncated)

    def _batch(self, writer: Writer, events: Iterable[EditEvent]) -> TrainingBatch:
        return TrainingBatch(writer.uid, self._adapters.get(writer.user), tuple(events))

    def _serve(self, writer: Writer, adapter: object) -> None:
        if not isinstance(adapter, AdapterTensors):
            return
        self._adapters[writer.user] = adapter
        folder = self._folder / writer.user
        folder.mkdir(parents=True, exist_ok=True)
        serve(self._models.engine, self._models.resident, writer.user, adapter, folder)

    def _scores(self, writer: Writer, prompts: Sequence[Prompt], drafts: Sequence[Draft]) -> list[PairScore]:
        """Of each draft and hidden text in turn, then of the plain paragraphs."""
        events = []
        for prompt, draft in zip(prompts, drafts, strict=True):
            events.append(event(prompt.text, draft.text, draft.text, truncated=draft.truncated))
            events.append(event(prompt.text, prompt.hidden, prompt.hidden, truncated=False))
        # A paragraph is no answer that ends: `truncated` leaves the end token out.
        events += [event("", paragraph, paragraph, truncated=True) for paragraph in PARAGRAPHS]
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
    """What the update tells of itself; a figure that there is none of is left out."""
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


def _perplexity(sums: Iterable[tuple[float, int]]) -> float:
    """Of texts, from the log-probability and number of tokens of each: weighted by tokens."""
    logps, tokens = zip(*sums, strict=True)
    return math.exp(-sum(logps) / sum(tokens))
