"""The daemon's learner and a drafting engine on the same base model, without the daemon between them."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from corlld.learning.learner import CorllLearner
from corlld.learning.model.files import find_model_files
from corlld.learning.model.resident import ResidentModel, load_resident_model
from corlld.publishing.peft_format import adapter_files
from corlld.records import Adapter, EditEvent, Release, Statistics, UserState
from corlld.settings.sections import AdapterSettings, GuardSettings, LearningSettings, ModelSettings
from corlld.simulation.drafting import Draft, PeftEngine

_NEVER = datetime(2020, 1, 1, tzinfo=UTC)  # when an event occurred decides nothing


class Workshop:
    """Learns by `CorllLearner`, drafts by PEFT; adapters go from one to the other as the daemon publishes them.

    Args:
        model: as `model.name`. In bfloat16.
        max_new_tokens: length limit of a draft.
    """

    def __init__(self, model: str, max_new_tokens: int) -> None:
        settings = ModelSettings(name=model, dtype="bfloat16")
        self._resident = load_resident_model(settings, AdapterSettings())
        self._engine = PeftEngine(find_model_files(settings).source, settings, max_new_tokens)

    def learner(self, learning: LearningSettings, guard: GuardSettings, users: int) -> CorllLearner:
        """A learner by other rules, on the same resident model."""
        return CorllLearner(self._resident, learning, guard, users)

    def serve(self, adapters: Mapping[str, Adapter | None]) -> None:
        """Load users' newest adapters into the engine; None is nobody's."""
        for user, adapter in adapters.items():
            if adapter is not None:
                with tempfile.TemporaryDirectory() as folder:
                    serve(self._engine, self._resident, user, adapter, Path(folder))

    def draft(self, requests: Sequence[tuple[str | None, str]]) -> list[Draft]:
        """The most likely continuations, up to a line's end, in one batch; see `PeftEngine.draft`."""
        return self._engine.draft(requests)


def serve(engine: PeftEngine, resident: ResidentModel, user: str, adapter: Adapter, folder: Path) -> None:
    """Load a user's newest adapter into the engine, from the files that the daemon would publish, put into `folder`."""
    state = UserState(user, 1, adapter, release=Release(1, None, {}, Statistics()))
    for name, content in adapter_files(state, resident.layout, resident.info).items():
        (folder / name).write_bytes(content)
    engine.load(user, folder)


def event(prompt: str, proposed: str, edited: str, *, truncated: bool) -> EditEvent:
    """An event of somebody; see `EditEvent`."""
    return EditEvent("event", "somebody", _NEVER, prompt, None, proposed, edited, truncated=truncated)


def pseudonym(*parts: object) -> str:
    """A uid, from which a new adapter's first numbers are drawn: another one for each user and seed."""
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]
