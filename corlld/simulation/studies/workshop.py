"""A closed loop without the daemon: its learner and a drafting engine on the same base model.

Adapters go from the learner to the engine as the daemon publishes them.
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from corlld.durable import Release, Statistics, UserState
from corlld.learning.learner import CorllLearner
from corlld.learning.model.files import find_model_files
from corlld.learning.model.loading import load_resident_model
from corlld.learning.model.resident import ResidentModel
from corlld.publishing.peft_format import adapter_files
from corlld.records import Adapter, EditEvent
from corlld.settings.sections import AdapterSettings, GuardSettings, LearningSettings, ModelSettings
from corlld.simulation.drafting import MAX_NEW_TOKENS, Draft, PeftEngine

_SOME_TIME = datetime(2020, 1, 1, tzinfo=UTC)  # the time of an event decides nothing


class Workshop:
    """The learner's resident model and the drafting engine. Each is loaded when it is first needed.

    Args:
        model: as `model.name`. It is loaded in bfloat16.
    """

    def __init__(self, model: str) -> None:
        self._settings = ModelSettings(name=model, dtype="bfloat16")

    @cached_property
    def _resident(self) -> ResidentModel:
        return load_resident_model(self._settings, AdapterSettings())

    @cached_property
    def _engine(self) -> PeftEngine:
        return PeftEngine(find_model_files(self._settings).source, self._settings, MAX_NEW_TOKENS)

    def learner(self, learning: LearningSettings, guard: GuardSettings, users: int) -> CorllLearner:
        """Return a learner with these settings on the shared resident model. users: its number of slots."""
        return CorllLearner(self._resident, learning, guard, users)

    def serve(self, adapters: Mapping[str, Adapter | None]) -> None:
        """Load the users' newest adapters into the engine. A user without an adapter is skipped."""
        for user, adapter in adapters.items():
            if adapter is None:
                continue
            release = Release(1, None, {}, Statistics(), self._resident.info.module_names)
            state = UserState(user, 1, adapter, release=release)
            with tempfile.TemporaryDirectory() as folder:
                for name, content in adapter_files(state, self._resident.layout, self._resident.info).items():
                    Path(folder, name).write_bytes(content)
                self._engine.load(user, Path(folder))

    def asked(self, prompt: str) -> str:
        """Return what the model is given for this prompt: a chat model gets it as a message, in its own template."""
        if not self._resident.tokenizer.chat_template:
            return prompt
        turns = [{"role": "user", "content": prompt}]
        rendered: str = self._resident.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return rendered

    def draft(self, requests: Sequence[tuple[str | None, str]], *, seed: int | None = None) -> list[Draft]:
        """Return continuations in one batch, the most likely ones, or samples; see `PeftEngine.draft`."""
        return self._engine.draft(requests, seed=seed)


def event(prompt: str, proposed: str, edited: str, *, truncated: bool) -> EditEvent:
    """Return an event of a user without a name; see `EditEvent`."""
    return EditEvent("event", "somebody", _SOME_TIME, prompt, None, proposed, edited, truncated=truncated)


def text_event(prompt: str, text: str, *, truncated: bool) -> EditEvent:
    """Return an event that asks for the likelihood of one text, or teaches that text alone."""
    return event(prompt, text, text, truncated=truncated)


def pseudonym(*parts: object) -> str:
    """Return a uid made of these parts. It seeds the first numbers of a new adapter."""
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]
