"""Judgements of replayed edits: values per edit, and their means with intervals over commits. Pure.

In every mean each editor counts the same, however many edits there are of it.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.intervals import grouped_mean_figure
from corlld.statistics import correct_share

Key = tuple[int, str, int]  # seed, editor, place of the edit
Values = Mapping[Key, float]
Commits = Mapping[tuple[str, int], int]  # by editor and place of the edit


def values(rows: Iterable[Row], of: Callable[[Row], float]) -> dict[Key, float]:
    """Return one value per row, by its key."""
    return {(int(row["seed"]), str(row["editor"]), int(row["edit"])): of(row) for row in rows}


def correct(row: Row) -> float:
    """Return 1 if the adapter preferred the text that it was given as the edited text, 0.5 for a tie, else 0."""
    return correct_share(float(row["margin"]))


def truly_correct(row: Row) -> float:
    """Return 1 if the adapter preferred what the editor wrote, even if a coin has flipped the label."""
    return correct_share(float(row["margin"]) * (-1 if row["flipped"] else 1))


def base_correct(row: Row) -> float:
    """Return 1 if the edited text is more likely than the proposed text under the base model."""
    return correct_share(float(row["base_margin"]))


def preferred(row: Row) -> float:
    """Return 1 if the edited text is more likely than the proposed text under the adapter."""
    return correct_share(float(row["base_margin"]) + float(row["margin"]))


def number(column: str) -> Callable[[Row], float]:
    """Return a function that gives a row's number in this column."""
    return lambda row: float(row[column])


def like(known: Values, by_edit: Mapping[tuple[str, int], float]) -> dict[Key, float]:
    """Return the values of a rule without a seed, for the edits that have a value in `known`."""
    return {(seed, editor, edit): by_edit[editor, edit] for seed, editor, edit in known}


def common(*methods: Values) -> list[dict[Key, float]]:
    """Return each method's values on the edits that all methods judged. Only there can they be compared."""
    keys = [key for key in methods[0] if all(key in other for other in methods[1:])]
    return [{key: method[key] for key in keys} for method in methods]


def mean(found: Values, commits: Commits, meaning: str) -> Figure:
    """Return the mean with its 95 % interval, where whole commits are drawn again. Raises ValueError without values."""
    return grouped_mean_figure(list(blocks(found, commits).values()), meaning)


def difference(ours: Values, theirs: Values, commits: Commits, meaning: str) -> Figure:
    """Return the mean of ours - theirs over the edits that both judged. Raises ValueError if there are none."""
    mine, other = common(ours, theirs)
    return mean({key: value - other[key] for key, value in mine.items()}, commits, meaning)


def cumulative(found: Values, commits: Commits, ends: Sequence[int]) -> list[Figure]:
    """Return for each of `ends` the mean over each editor's edits before it."""
    return [mean({key: value for key, value in found.items() if key[2] < end}, commits, "") for end in ends]


def of_editors(found: Values) -> dict[str, float]:
    """Return each editor's mean."""
    own: dict[str, list[float]] = {}
    for (_, editor, _), value in found.items():
        own.setdefault(editor, []).append(value)
    return {editor: statistics.fmean(each) for editor, each in own.items()}


def blocks(found: Values, commits: Commits) -> dict[str, list[list[float]]]:
    """Return the values of all seeds by editor, in blocks of edits that were made together."""
    together: dict[str, dict[int, list[float]]] = {}
    for (_, editor, edit), value in found.items():
        together.setdefault(editor, {}).setdefault(commits[editor, edit], []).append(value)
    return {editor: list(own.values()) for editor, own in together.items()}
