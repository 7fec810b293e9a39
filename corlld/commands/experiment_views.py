"""What `corlld experiment` shows: a table of the arms, sentences, and JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from corlld.durable import DraftFigures
from corlld.experiment.arms import Arms, ArmTerms
from corlld.experiment.confidence import ERROR, interval_of
from corlld.experiment.differences import Comparison, short
from corlld.experiment.tally import ArmFigures, Tally, in_order
from corlld.statistics import FIRST_DRAFTS
from corlld.system.plurals import counted

_USERS = ("user is", "users are")
COLUMNS = ("users", "outcomes", "edit ratio", "first drafts", "accepted", "edits a draft", "repetition", "forgotten")
FEW_COLUMNS = ("users", "outcomes", "edit ratio")  # what fits 80 columns beside the longest name of an arm


def to_json(arms: Arms, tally: Tally, found: Sequence[Comparison], unreadable: int, drafts: int) -> dict[str, Any]:
    """Return everything as JSON. Figures are null if there is nothing to divide by.

    unreadable: number of states that can't be read. drafts: number of drafts that make an outcome.
    """
    return {
        "drafts": drafts,
        "first_drafts": FIRST_DRAFTS,
        "confidence": 1 - ERROR,
        "arms": [_arm(terms, tally.arms[name]) for name, terms in arms.by_name.items()],
        "comparisons": [
            {
                "arm": each.arm,
                "against": each.against,
                "saved": None if each.saved is None else asdict(each.saved),
                "difference": each.difference,
                "users_needed": each.users_needed,
                "days_needed": each.days_needed,
                "sentence": each.sentence,
            }
            for each in found
        ],
        "retired_arms": dict(sorted(tally.retired.items())),
        "users_in_no_arm": tally.in_no_arm,
        "unreadable": unreadable,
    }


def _arm(terms: ArmTerms, figures: ArmFigures) -> dict[str, Any]:
    interval = asdict(interval_of(figures.outcome_array)) if figures.outcomes else None
    return {
        "name": terms.name,
        "share": terms.share,
        "holdout": terms.rule is None,
        "users": figures.users,
        "left_out": figures.left_out,
        "outcomes": len(figures.outcomes),
        "edit_ratio": interval,
        "saved_against_first_drafts": _mean(sum(figures.saved), len(figures.saved)),
        "first_drafts": _drafts(figures.first),
        "later_drafts": _drafts(figures.later),
        "versions": {name: _drafts(figures.versions[name]) for name in in_order(figures.versions)},
        "plain_text_drop_nats": _mean(figures.plain_text_drop_sum, figures.rehearsed_updates),
    }


def _drafts(drafts: DraftFigures) -> dict[str, float | None]:
    return {
        "events": drafts.events,
        "edit_ratio": _mean(drafts.edit_ratio_sum, drafts.events),
        "accepted": _mean(drafts.acceptances, drafts.events),
        "edits_per_draft": _mean(drafts.events - drafts.acceptances, drafts.events),
        "repetition": _mean(drafts.repetition_sum, drafts.events),
    }


def arms_table(arms: Arms, tally: Tally, columns: Sequence[str] = COLUMNS) -> Table:
    """Return a row per arm. Users' outcomes are means by users, all other figures are means by drafts."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name in arms.by_name:
        cells = _cells(tally.arms[name])
        label = f"{name} (no learning)" if name in arms.holdouts else name
        table.add_row(label, *(cells[column] for column in columns))
    return table


def _cells(figures: ArmFigures) -> dict[str, str]:
    """Return the figures of an arm, by column of `COLUMNS`."""
    later = _drafts(figures.later)
    return {
        "users": f"{figures.users:,}",
        "outcomes": f"{len(figures.outcomes):,}",
        "edit ratio": _short(_mean(sum(figures.outcomes), len(figures.outcomes))),
        "first drafts": _short(_drafts(figures.first)["edit_ratio"]),
        "accepted": _short(later["accepted"]),
        "edits a draft": _short(later["edits_per_draft"]),
        "repetition": _short(later["repetition"]),
        "forgotten": _short(_mean(figures.plain_text_drop_sum, figures.rehearsed_updates)),
    }


def findings(tally: Tally, found: Sequence[Comparison], unreadable: int) -> Iterator[str]:
    """Yield what is known, as sentences: each comparison, what it still takes, and who is not compared."""
    for each in found:
        yield f"{each.sentence}; {each.need}"
    yield from not_compared(tally)
    if tally.in_no_arm:
        yield f"{counted(tally.in_no_arm, *_USERS)} in no arm: there before the experiment"
    if unreadable:
        yield f"{counted(unreadable, 'state')} can't be read: `corlld state show` names what is unreadable"


def not_compared(tally: Tally) -> Iterator[str]:
    """Yield a sentence for each change of the settings that took users out of the comparison."""
    for name, figures in tally.arms.items():
        for reason, users in sorted(figures.reasons.items()):
            yield f"{counted(users, f'user of arm {name} is', f'users of arm {name} are')} left out: {reason}"
    for name, users in sorted(tally.retired.items()):
        yield f"{counted(users, *_USERS)} in arm {name}, which is not in the settings: taught by [learning]"


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _short(figure: float | None) -> str:
    return "-" if figure is None else short(figure)
