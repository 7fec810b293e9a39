"""The pairs that are trained on: edits of a file or made-up edits, chosen by length and by the changed share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from corlld.errors import ExitCode, FatalError, InvalidEvent
from corlld.events.decoder import EventDecoder
from corlld.learning.model.pairs import PairEncoder, PreferencePair
from corlld.records import EditEvent
from corlld.settings.sections import EventSettings
from corlld.simulation.personas import TASTES
from corlld.simulation.prompts import TRAINING
from corlld.system.formats import refuse_other_formats
from corlld.system.lines import texts

PAIRS = 16  # of every workload
FIRST = "16x1"
MADE_UP = 24  # prompts, each with two edits
# Shares of the pairs of a file, so that they mean the same with any tokenizer.
_TYPICAL = 0.65  # the shorter pairs
_LONG_CONTEXT = 0.125
_HEAVY = 0.25


@dataclass(frozen=True, slots=True)
class Edit:
    """An event, and its pair of token ids for the model of the run."""

    event: EditEvent
    pair: PreferencePair


@dataclass(frozen=True, slots=True)
class Workload:
    """Edits by user. note: what readers of its figures must know; may be empty."""

    name: str
    users: tuple[tuple[Edit, ...], ...]
    note: str = ""

    @property
    def pairs(self) -> list[PreferencePair]:
        return [edit.pair for edits in self.users for edit in edits]

    @property
    def events(self) -> list[EditEvent]:
        return [edit.event for edits in self.users for edit in edits]


def read_edits(path: Path | None) -> list[EditEvent]:
    """Return the edits of a file of events, without acceptances, erasures and invalid lines. None: made-up edits.

    Raises FatalError if the file can't be read.
    """
    if path is None:
        return made_up_edits()
    try:
        with path.open("rb") as file:
            refuse_other_formats(file, f"--edits: {path}")
            lines = list(texts(file))
    except OSError as error:
        raise FatalError(f"--edits: {path}: {error.strerror}", ExitCode.USAGE) from None
    decoder = EventDecoder(EventSettings(), supports_messages=False, key_required=False)
    edits = []
    for line in lines:
        try:
            event = decoder.decode(None, line, ())
        except InvalidEvent:
            continue
        if isinstance(event, EditEvent) and not event.is_acceptance:
            edits.append(event)
    return edits


def made_up_edits() -> list[EditEvent]:
    """Return two edits per prompt of the demo.

    A heavy edit turns another user's text into the user's own. A light edit adds the ending of a text.
    """
    edits = []
    prompts = [TRAINING.prompts(taste) for taste in TASTES]
    for number, (one, other) in enumerate(islice(zip(*prompts, strict=False), MADE_UP)):
        drafts = {"heavy": other.hidden, "light": one.hidden[: one.hidden.rindex(". ") + 1]}
        for kind, proposed in drafts.items():
            edits.append(_edit(f"{kind}-{number}", one.text, proposed, one.hidden))
    return edits


def _edit(event_id: str, prompt: str, proposed: str, edited: str) -> EditEvent:
    return EditEvent(event_id, "bench", datetime(2026, 1, 1, tzinfo=UTC), prompt, None, proposed, edited)


def choose(events: Sequence[EditEvent], encoder: PairEncoder) -> dict[str, Workload]:
    """Return the workloads by name, `FIRST` first, each of `PAIRS` pairs.

    Raises FatalError if there are too few pairs to choose from.
    """
    edits = [Edit(event, pair) for event in events if isinstance(pair := encoder.encode(event), PreferencePair)]
    typical = _lowest(edits, _TYPICAL, lambda edit: edit.pair.tokens)
    context = _lowest(edits, _LONG_CONTEXT, lambda edit: -len(edit.pair.prompt))
    light = _lowest(typical, _HEAVY, _changed)
    heavy = _lowest(typical, _HEAVY, lambda edit: -_changed(edit))
    chosen = _spread(typical)
    saturated = "the pairs of one user fill the pass: packing across users gains nothing here"
    workloads = (
        Workload(FIRST, _shared_out(chosen, 16)),
        Workload("4x4", _shared_out(chosen, 4)),
        Workload("1x16", _shared_out(chosen, 1), saturated),
        Workload("long", _shared_out(_spread(context), 16), "the longest contexts"),
        Workload("light", _shared_out(_spread(light), 16), "the least changed texts"),
        Workload("heavy", _shared_out(_spread(heavy), 16), "the most changed texts"),
    )
    return {workload.name: workload for workload in workloads}


def _changed(edit: Edit) -> float:
    return (len(edit.pair.chosen) + len(edit.pair.rejected)) / edit.pair.tokens


def _lowest(edits: Sequence[Edit], share: float, key: Callable[[Edit], float]) -> list[Edit]:
    """Return this share of the edits, at least `PAIRS`: those with the lowest keys, in their order in the file."""
    count = max(PAIRS, round(share * len(edits)))
    numbers = sorted(range(len(edits)), key=lambda number: key(edits[number]))[:count]
    return [edits[number] for number in sorted(numbers)]


def _spread(edits: Sequence[Edit]) -> list[Edit]:
    """Return `PAIRS` of the edits, evenly over the file. Raises FatalError if there are fewer."""
    if len(edits) < PAIRS:
        raise FatalError(
            f"--edits: {len(edits)} usable edits, and the bench needs {PAIRS} at least: texts that differ, with a "
            "`prompt`, and no longer than the defaults of `learning` allow",
            ExitCode.DATA,
        )
    return [edits[number * len(edits) // PAIRS] for number in range(PAIRS)]


def _shared_out(edits: Sequence[Edit], users: int) -> tuple[tuple[Edit, ...], ...]:
    """Return the same edits, divided among so many users."""
    each = len(edits) // users
    return tuple(
        tuple(
            Edit(replace(edit.event, event_id=f"bench-{user}-{number}", user_id=f"user-{user:02d}"), edit.pair)
            for number, edit in enumerate(edits[user * each : (user + 1) * each])
        )
        for user in range(users)
    )
