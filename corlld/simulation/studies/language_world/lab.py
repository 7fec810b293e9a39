"""Runs of the language world as rows. A process does each run once."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.resident import ResidentModel
from corlld.settings.sections import AdapterSettings, GuardSettings, LearningSettings, ModelSettings
from corlld.simulation.language.frontier import best_within
from corlld.simulation.language.grammar import PROMPTS, parse
from corlld.simulation.language.online import History, Scenario, run_online
from corlld.simulation.language.policies import base_policy, log_likelihoods, sample
from corlld.simulation.language.pretraining import pretrain
from corlld.simulation.language.users import seeded
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.language_world.methods import Method

EACH = 8  # answers in a micro-batch, as the daemon's `batching.max_events`
WINDOWS = 10  # of the curves
_LAST = 5  # the last fifth of a run is its end
_DRAFTS_AT_THE_END = 4  # per prompt, if all prompts are judged


@dataclass(frozen=True, slots=True)
class Scale:
    """The amount of work.

    pretraining: steps. rounds: micro-batches per user. validation: seeds on which settings are chosen. judged: number
    of prompts by which the adapters are judged at the end; the base model's whole policy is computed for them.
    """

    pretraining: int
    rounds: int
    validation: tuple[int, ...]
    judged: int = len(PROMPTS)


class Lab:
    """The base model, trained when it is first needed, and the tuning results on it."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._tuning: dict[tuple[str, LearningSettings], list[Row]] = {}

    @cached_property
    def resident(self) -> ResidentModel:
        with tempfile.TemporaryDirectory(prefix="corlld-language-") as folder:
            path = pretrain(Path(folder), steps=self.scale.pretraining)
            return load_resident_model(ModelSettings(name=str(path), device="cpu", dtype="float32"), AdapterSettings())

    @cached_property
    def base_logps(self) -> npt.NDArray[np.float64]:
        """Log pi_0 of every sentence for every judged prompt, (prompts, sentences)."""
        return base_policy(self.resident, PROMPTS[: self.scale.judged])

    def run(
        self,
        method: Method,
        learning: LearningSettings,
        users: Sequence[tuple[Scenario, int]],
        guard: GuardSettings | None = None,
    ) -> list[History]:
        """Learn from all of these users in the same way. guard: None: the defaults."""
        guard = guard or GuardSettings()
        rounds = self.scale.rounds
        return run_online(self.resident, method.feedback, learning, guard, users, rounds=rounds, each=EACH)

    def tuning(self, method: Method, learning: LearningSettings, scenarios: Sequence[Scenario]) -> list[Row]:
        """Return the outlines of one setting on the validation seeds."""
        if (method.name, learning) not in self._tuning:
            users = [(scenario, seed) for scenario in scenarios for seed in self.scale.validation]
            histories = self.run(method, learning, users)
            self._tuning[method.name, learning] = [outline(history) for history in histories]
        return self._tuning[method.name, learning]

    def chosen(self, method: Method, scenarios: Sequence[Scenario], judged: Scenario) -> LearningSettings:
        """Return the setting with the lowest mean REG_T of the validation seeds in the scenario `judged`.

        A method with a single setting is not run.
        """
        if len(method.tried) == 1:
            return method.tried[0]

        def regret(learning: LearningSettings) -> float:
            rows = self.tuning(method, learning, scenarios)
            return float(np.mean([row["regret"] for row in rows if row["scenario"] == judged.name]))

        return min(method.tried, key=regret)

    def details(self, histories: Sequence[History]) -> list[Row]:
        """Return outlines, curves, what answers told, and the adapters at the end beside the best within their KL."""
        return [
            outline(history) | _curve(history) | _answers(history) | ending
            for history, ending in zip(histories, self._endings(histories), strict=True)
        ]

    def _endings(self, histories: Sequence[History]) -> list[Row]:
        judged = PROMPTS[: self.scale.judged]
        prompts = [list(judged) * (_DRAFTS_AT_THE_END * len(PROMPTS) // len(judged)) for _ in histories]
        adapters = [history.adapter for history in histories]
        rngs = [seeded("end", history.seed) for history in histories]
        texts = [[draft.words for draft in own] for own in sample(self.resident, adapters, prompts, rngs)]
        policy = log_likelihoods(self.resident, adapters, prompts, texts)
        base = log_likelihoods(self.resident, [None] * len(histories), prompts, texts)
        rows: list[Row] = []
        for history, asked, own, kl in zip(histories, prompts, texts, (policy - base).mean(1).tolist(), strict=True):
            utility = history.user.utility
            reached = float(np.mean([utility.of(p, parse(words)) for p, words in zip(asked, own, strict=True)]))
            best = best_within(self.base_logps, utility.of_sentences[: len(judged)], max(kl, 0.0))
            rows.append({"kl": kl, "end_utility": reached, "best_within_kl": best})
        return rows


def outline(history: History) -> Row:
    """Return the main figures of a run.

    regret: REG_T. end: REG_T over the last fifth. sentences: share of texts without a fault in the last fifth.
    end_of_sentences: `end` over these texts alone, or over all if there are none.
    """
    last = len(history.regrets) // _LAST
    faultless = [r for r, share in zip(history.regrets[-last:], history.sentences[-last:], strict=True) if share == 1]
    return {
        "scenario": history.scenario.name,
        "seed": history.seed,
        "regret": float(np.mean(history.regrets)),
        "end": float(np.mean(history.regrets[-last:])),
        "sentences": float(np.mean(history.sentences[-last:])),
        "end_of_sentences": float(np.mean(faultless or history.regrets[-last:])),
        "rejected": history.rejected,
    }


def _curve(history: History) -> Row:
    """Return the mean regret of each window, by the number of answers at its end."""
    windows = np.array_split(np.array(history.regrets), WINDOWS)
    ends = np.cumsum([len(window) for window in windows])
    return {f"to_{end}": float(window.mean()) for end, window in zip(ends.tolist(), windows, strict=True)}


def _answers(history: History) -> Row:
    """Return how informative the answers were, as measured.

    alpha_hat: mean gain over mean gap. xi_hat: mean slack at the scenario's alpha. told: share of answers that prefer
    one text to another. harmful: share of those whose chosen text is the worse one.
    """
    gains, gaps = (np.array([getattr(answer, name) for answer in history.answers]) for name in ("gain", "gap"))
    told = gains != 0
    return {
        "alpha_hat": float(gains.sum() / gaps.sum()) if gaps.sum() else 0.0,
        "xi_hat": float(np.maximum(0, history.scenario.alpha * gaps - gains).mean()),
        "told": float(told.mean()),
        "harmful": float((gains < 0).sum() / max(1, told.sum())),
    }
