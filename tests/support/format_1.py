"""States and `store.json` of format 1, as the released program wrote them, and what is in them.

The files in `tests/unit/state/format-1` are never made again: no program of today could. `with-later-fields` is of a
late program of that format.
"""

from dataclasses import replace
from pathlib import Path

import torch

from corlld.adapters.layout import AdapterTensors
from corlld.durable import (
    BaseDraftPairs,
    DraftFigures,
    EditedRise,
    ModuleNames,
    Release,
    Statistics,
    StoreIdentity,
    UserState,
)

FOLDER = Path(__file__).parents[1] / "unit" / "state" / "format-1"
IDENTITY = StoreIdentity("fingerprint", "cluster", "group", "model", "revision", "shape")
STORE_FILE = (FOLDER / "store.json").read_bytes()

_NUMBERS = torch.arange(7, dtype=torch.float32)
_ADAPTER = AdapterTensors(_NUMBERS / 8, -_NUMBERS, _NUMBERS * _NUMBERS, optimizer_step=11)
_FIGURES = Statistics(
    events=7,
    pairs_applied=4,
    acceptances=1,
    no_difference=1,
    rejected={"too_long": 1},
    updates=2,
    prequential_pairs=4,
    prequential_correct=2.5,
    prequential_margin_sum=0.1 + 0.2,
    base_pairs=2,
    base_correct=1.0,
    drafts={"0": DraftFigures(3, 1, 1 / 3, 0.7), "unknown": DraftFigures(1, 0, 0.25)},
    first_drafts=DraftFigures(4, 1, 0.5, 0.7),
)
_RELEASE = Release(3, 2, {"topic-id/0": 20}, replace(_FIGURES, events=6))
_RELEASED = UserState(
    "1" * 32,
    3,
    _ADAPTER,
    {"topic-id/0": 30, "topic-id/3": 7},
    ("event-one", "ünï", "e3"),
    statistics=_FIGURES,
    release=_RELEASE,
)


def _later(figures: Statistics, rise: float, correct: float) -> Statistics:
    return replace(figures, edited_rise=EditedRise(3, rise), base_draft_pairs=BaseDraftPairs(2, correct))


STATES = {
    "released": _RELEASED,
    "with-module-names": replace(
        _RELEASED,
        uid="2" * 32,
        release=replace(_RELEASE, module_names=ModuleNames("model", "model.language_model")),
    ),
    "tombstone": UserState("3" * 32, 3, applied={"topic-id/0": 99}, erased=True, erased_through=3),
    "with-later-fields": replace(
        _RELEASED,
        uid="4" * 32,
        adapter=replace(_ADAPTER, start="a digest", kept=torch.tensor([1, 1, 0, 262_143], dtype=torch.int32)),
        older_event_ids=bytes(range(16)),
        statistics=_later(_FIGURES, 0.5, 1.5),
        release=replace(_RELEASE, statistics=_later(_FIGURES, 0.25, 1.0)),
    ),
}


def state_file(name: str) -> bytes:
    """Return the file of a state of `STATES`."""
    return (FOLDER / f"{name}.safetensors").read_bytes()


def make_store(folder: Path) -> None:
    """Make a store of format 1 that holds all of `STATES`."""
    for name, state in STATES.items():
        user = folder / "users" / state.uid
        user.mkdir(parents=True)
        (user / f"{1:012d}.safetensors").write_bytes(state_file(name))
    (folder / "store.json").write_bytes(STORE_FILE)
