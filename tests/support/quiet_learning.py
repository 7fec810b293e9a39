"""The tensors that each user must have in the end: every good event trained on once, in order, without a daemon.

One pair per step and per row makes the tensors independent of where batches are cut and of who shares a pass, so that
a run with kills or rebalances must end with exactly these bytes: a pair that was lost, trained on twice, or out of
order shows in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save_file

from corlld.adapters.layout import AdapterTensors
from corlld.assembly import pseudonyms
from corlld.events.decoder import EventDecoder
from corlld.learning.learner import CorllLearner
from corlld.learning.model.loading import load_resident_model
from corlld.records import EraseEvent, TrainingBatch
from corlld.settings.load import load_settings
from tests.support.daemon_process import ENVIRON
from tests.support.traffic import Sent


@dataclass
class _User:
    adapter: AdapterTensors | None = None
    seen: set[str] = field(default_factory=set)


def write_undisturbed_tensors(config: Path, records: Sequence[Sent], folder: Path) -> Path:
    """Train on `records` (in the order they were sent) one by one, and save `<uid>.safetensors` for each user."""
    settings = load_settings(config, ENVIRON)
    assert settings.learning.pairs_per_step == settings.learning.max_row_tokens == 1
    resident = load_resident_model(settings.model, settings.adapter)
    learner = CorllLearner(resident, settings.learning, settings.guard, settings.adapter.device_slots)
    decoder = EventDecoder(settings.events, supports_messages=resident.info.supports_messages)
    names = pseudonyms(settings)
    users: dict[str, _User] = {}
    for sent in records:
        if sent.reason is not None:
            continue
        event = decoder.decode(sent.key, sent.value, sent.headers)
        uid = names.uid(event.user_id)
        user = users.setdefault(uid, _User())
        if event.event_id and event.event_id in user.seen:  # also from before an erasure: what was erased stays erased
            continue
        user.seen.add(event.event_id)
        if isinstance(event, EraseEvent):
            user.adapter = None
            continue
        (outcome,) = learner.update([TrainingBatch(uid, user.adapter, (event,))])
        assert outcome.adapter is None or isinstance(outcome.adapter, AdapterTensors)
        user.adapter = outcome.adapter
    folder.mkdir()
    for uid, user in users.items():
        if user.adapter is not None:
            tensors = {name: getattr(user.adapter, name) for name in ("weights", "exp_avg", "exp_avg_sq")}
            save_file(tensors, folder / f"{uid}.safetensors")
    return folder
