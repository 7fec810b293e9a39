"""The summary of a replay: figures per user, as a table for people and as JSON for programs."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from corlld.commands.shared import SHORT_UID, WHOLE_UID
from corlld.records import EditEvent, PairOutcome, PairStatus
from corlld.statistics import correct_share, edit_ratio

_COLUMNS = {  # of the table, with their keys in the summary
    "pairs": "pairs",
    "rejected": "rejected",
    "accuracy": "prequential_accuracy",
    "last ¼": "prequential_accuracy_last_quarter",
    "rise": "edited_rise_nats",
    "margin": "margin_nats",
    "base": "base_preference",
    "words": "word_count_perceptron",
    "longer": "longer_wins",
    "edit": "edit_ratio",
}
_FEW_COLUMNS = {name: _COLUMNS[name] for name in ("pairs", "rejected", "accuracy", "rise", "edit")}
_MEANINGS = {
    "accuracy": "accuracy: share of pairs whose margin prefers the edited text (ties count ½).",
    "rise": "rise: how much more likely than the base model the adapter makes edited\n  texts, in nats per token.",
    "margin": "margin: over the base model, in nats.",
    "base": "base: the base model's own preference.",
    "words": "words: an online word-count perceptron on the same pairs.",
    "longer": "longer: the rule that prefers the longer text.",
    "edit": "edit: mean edit ratio of all events.",
}


@dataclass
class UserRecord:
    """The results of one user's events, in order.

    events, pairs: one pair outcome per event. perceptron, longer: a value per scored pair: 1 if the
    rule prefers the edited text, ½ for a tie, else 0.
    """

    user_id: str
    events: list[EditEvent] = field(default_factory=list)
    pairs: list[PairOutcome] = field(default_factory=list)
    perceptron: list[float] = field(default_factory=list)
    longer: list[float] = field(default_factory=list)
    version: int = 0


def summarise(users: dict[str, UserRecord], dead_letters: Counter[str]) -> dict[str, Any]:
    """Summarise the replay as plain values. Users with more events come first.

    Args:
        users: by uid.
        dead_letters: their number, by reason.
    """
    ordered = sorted(users.items(), key=lambda item: (-len(item[1].events), item[0]))
    return {"users": [_user_summary(uid, record) for uid, record in ordered], "dead_letters": dict(dead_letters)}


def _user_summary(uid: str, record: UserRecord) -> dict[str, Any]:
    statuses = Counter(pair.status for pair in record.pairs)
    judged = [p.margin for p in record.pairs if p.margin is not None and p.scored_by_trained]
    rises = [p.edited_rise for p in record.pairs if p.edited_rise is not None and p.scored_by_trained]
    base = [p.base_margin for p in record.pairs if p.base_margin is not None]
    ratios = [edit_ratio(event) for event in record.events]
    return {
        "uid": uid,
        "user_id": record.user_id,
        "version": record.version,
        "events": len(record.events),
        "pairs": statuses[PairStatus.APPLIED],
        "acceptances": statuses[PairStatus.ACCEPTANCE],
        "no_difference": statuses[PairStatus.NO_DIFFERENCE],
        "rejected": dict(Counter(p.reason.value for p in record.pairs if p.reason is not None)),
        "prequential_pairs": len(judged),
        "prequential_accuracy": _mean(map(correct_share, judged)),
        "prequential_accuracy_last_quarter": _mean(map(correct_share, _last_quarter(judged))),
        "margin_nats": _mean(judged),
        "margin_nats_last_quarter": _mean(_last_quarter(judged)),
        "edited_rise_nats": _mean(rises),
        "edited_rise_nats_last_quarter": _mean(_last_quarter(rises)),
        "base_preference": _mean(map(correct_share, base)),
        "word_count_perceptron": _mean(record.perceptron),
        "longer_wins": _mean(record.longer),
        "edit_ratio": _mean(ratios),
        "edit_ratio_last_quarter": _mean(_last_quarter(ratios)),
    }


def _last_quarter(values: Sequence[float]) -> Sequence[float]:
    return values[len(values) - (len(values) + 3) // 4 :]


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def summary_table(summary: dict[str, Any], *, show_users: bool, narrow: bool = False) -> Table:
    """Render the summary for people.

    Args:
        summary: of `summarise`.
        show_users: raw user ids in place of pseudonyms.
        narrow: only the beginning of a pseudonym, and only the columns that fit 80 columns beside it.
    """
    table = Table(
        title="Prequential figures: each pair was scored before it was learnt from",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    columns = _FEW_COLUMNS if narrow else _COLUMNS
    table.add_column("user", no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for user in summary["users"]:
        name = user["user_id"] if show_users else user["uid"][: SHORT_UID if narrow else WHOLE_UID]
        table.add_row(name, *(_cell(user, key) for key in columns.values()))
    table.caption = "\n".join(meaning for column, meaning in _MEANINGS.items() if column in columns)
    table.caption_justify = "left"
    return table


def _cell(user: dict[str, Any], key: str) -> str:
    match user[key]:
        case None:
            return "-"
        case dict() as counts:
            return "\n".join(f"{count} {reason}" for reason, count in counts.items()) or "0"
        case int() as count:
            return str(count)
        case figure:
            return f"{figure:+.3f}" if "rise" in key else f"{figure:.2f}"


def to_json(summary: dict[str, Any], *, show_users: bool) -> str:
    """Render the summary for programs. show_users: raw user ids beside pseudonyms."""
    users = [{k: v for k, v in user.items() if show_users or k != "user_id"} for user in summary["users"]]
    return json.dumps({**summary, "users": users}, indent=2)
