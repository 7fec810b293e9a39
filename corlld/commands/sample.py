"""Figures of a sample of records, and their table: shares, reasons and sizes, never a text or a user id."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from rich import box
from rich.console import Group
from rich.table import Column, Table

from corlld.errors import InvalidEvent, InvalidReason
from corlld.events.decoder import EventDecoder
from corlld.records import EditEvent, Record
from corlld.statistics import edit_ratio
from corlld.system.plurals import counted

_INDEX = re.compile(r"\[\d+\]")
SHOWN_REFUSALS = 12
_WRONG_KEY = (InvalidReason.KEY_MISSING, InvalidReason.KEY_MISMATCH)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason for a dead letter. An index in a list is left out of the field, so that few refusals differ."""

    reason: InvalidReason
    field: str | None

    def __str__(self) -> str:
        return self.reason.value + (f": {self.field}" if self.field else "")


@dataclass
class Sample:
    """Figures of the records that were added. Texts are measured and not kept; user ids are only counted."""

    decoder: EventDecoder
    is_renderable: Callable[[EditEvent], bool] | None = None  # by the model's chat template; None: it is not known
    records: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)
    last_refused: dict[Refusal, Record] = field(default_factory=dict)  # without key, value and headers
    events_of: Counter[str] = field(default_factory=Counter)
    erasures: int = 0
    acceptances: int = 0
    with_version: int = 0
    unrenderable: int = 0  # valid edits that the learner would reject
    prompt_chars: list[int] = field(default_factory=list)  # of the prompt, or of all that belongs to the chat
    proposed_chars: list[int] = field(default_factory=list)
    edited_chars: list[int] = field(default_factory=list)
    edit_ratios: list[float] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Add a record, decoded as the daemon would."""
        self.records += 1
        try:
            event = self.decoder.decode(record.key, record.value, record.headers)
        except InvalidEvent as error:
            refusal = Refusal(error.reason, _INDEX.sub("[]", error.field) if error.field else None)
            self.refused[refusal] += 1
            self.last_refused[refusal] = Record(record.tenure, record.offset, record.next_offset, None, None)
            return
        self.events_of[event.user_id] += 1
        if not isinstance(event, EditEvent):
            self.erasures += 1
            return
        self.acceptances += event.is_acceptance
        self.with_version += event.adapter_version is not None
        self.unrenderable += self.is_renderable is not None and not self.is_renderable(event)
        self.prompt_chars.append(event.chars - len(event.proposed) - len(event.edited))
        self.proposed_chars.append(len(event.proposed))
        self.edited_chars.append(len(event.edited))
        self.edit_ratios.append(edit_ratio(event))

    @property
    def valid(self) -> int:
        """Number of valid events."""
        return self.events_of.total()

    @property
    def edits(self) -> int:
        """Number of edits, acceptances included."""
        return len(self.edit_ratios)

    @property
    def invalid_share(self) -> float:
        """Share of records that would be dead letters; 0 without a record."""
        return self.refused.total() / self.records if self.records else 0.0

    @property
    def wrong_keys(self) -> int:
        """Number of records whose key is missing, or is not their user's id in UTF-8."""
        return sum(count for refusal, count in self.refused.items() if refusal.reason in _WRONG_KEY)


def quantile(values: Sequence[int], share: float) -> int:
    """Return the smallest value that at least the given share of the values do not exceed.

    Args:
        values: at least one.
        share: above 0, at most 1.
    """
    return sorted(values)[math.ceil(share * len(values)) - 1]


def sample_table(sample: Sample, *, has_keys: bool) -> Group:
    """Show the sample. `has_keys`: False for a file, whose lines have no keys."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("valid", _share(sample.valid, sample.records))
    for refusal, count in sample.refused.most_common(SHOWN_REFUSALS):
        facts.add_row(
            "dead letters", f"{_share(count, sample.records)}  {refusal}; {_place(sample.last_refused[refusal])}"
        )
    if (more := len(sample.refused) - SHOWN_REFUSALS) > 0:
        facts.add_row("dead letters", f"for {counted(more, 'more reason')}")
    if sample.unrenderable:
        facts.add_row("unrenderable", f"{_share(sample.unrenderable, sample.edits)}  the chat template refuses them")
    facts.add_row("wrong keys", _share(sample.wrong_keys, sample.records) if has_keys else "a file has no keys")
    facts.add_row("users", f"{len(sample.events_of):,}")
    facts.add_row("erasures", f"{sample.erasures:,}")
    facts.add_row("acceptances", _share(sample.acceptances, sample.edits))
    facts.add_row("with adapter_version", _share(sample.with_version, sample.edits))
    sizes = Table("", *(Column(title, justify="right") for title in ("median", "95 %", "maximum")), box=box.SIMPLE_HEAD)
    if sample.events_of:
        sizes.add_row("events per user", *_sizes(list(sample.events_of.values())))
    if sample.edits:
        sizes.add_row("characters of prompt or messages", *_sizes(sample.prompt_chars))
        sizes.add_row("characters of proposed", *_sizes(sample.proposed_chars))
        sizes.add_row("characters of edited", *_sizes(sample.edited_chars))
        sizes.add_row("edit ratio (0: accepted)", f"{median(sample.edit_ratios):.2f}", "", "")
    return Group(facts, sizes) if sizes.rows else Group(facts)


def _share(count: int, of: int) -> str:
    return f"{count:,} of {of:,} ({count / of:.1%})" if of else f"{count:,}"


def _place(record: Record) -> str:
    """Return where to look for the record, never what it holds."""
    return f"for example {record.tenure.partition.place(record.offset)}"


def _sizes(values: Sequence[int]) -> tuple[str, str, str]:
    return f"{median(values):,.1f}".removesuffix(".0"), f"{quantile(values, 0.95):,}", f"{max(values):,}"
