"""Figures of a replay: shares and means over edits, with intervals over commits. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from corlld.simulation.studies.contract import Figure, Row
from corlld.simulation.studies.intervals import blocked_mean_figure
from corlld.statistics import correct_share

Key = tuple[int, str, int]  # seed, editor, place of the edit
Values = Mapping[Key, float]
Commits = Mapping[tuple[str, int], int]  # by editor and place of the edit


def values(rows: Iterable[Row], of: Callable[[Row], float]) -> dict[Key, float]:
    """One value for each row, by its key."""
    return {(int(row["seed"]), str(row["editor"]), int(row["edit"])): of(row) for row in rows}


def correct(row: Row) -> float:
    """Whether the adapter preferred the text that was given as the edited one, ties one half."""
    return correct_share(float(row["margin"]))


def truly_correct(row: Row) -> float:
    """Whether it preferred what the editor did write, also where a coin had told it otherwise."""
    return correct_share(float(row["margin"]) * (-1 if row["flipped"] else 1))


def base_correct(row: Row) -> float:
    """Whether the base model itself thinks the edited text more likely than the proposed one."""
    return correct_share(float(row["base_margin"]))


def preferred(row: Row) -> float:
    """Whether base model and adapter together think the edited text more likely than the proposed one."""
    return correct_share(float(row["base_margin"]) + float(row["margin"]))


def number(column: str) -> Callable[[Row], float]:
    """The numbers of a column."""
    return lambda row: float(row[column])


def like(known: Values, by_edit: Mapping[tuple[str, int], float]) -> dict[Key, float]:
    """What a rule without a seed made of the very edits that have a value in `known`."""
    return {(seed, editor, edit): by_edit[editor, edit] for seed, editor, edit in known}


def common(*methods: Values) -> list[dict[Key, float]]:
    """Each method's values on the edits that all of them judged: only there can they be compared."""
    keys = [key for key in methods[0] if all(key in other for other in methods[1:])]
    return [{key: method[key] for key in keys} for method in methods]


def mean(found: Values, commits: Commits, meaning: str) -> Figure:
    """The mean with its 95 % interval, commits being drawn again. Raises ValueError where there is no value."""
    return blocked_mean_figure(blocks(found, commits), meaning)


def difference(ours: Values, theirs: Values, commits: Commits, meaning: str) -> Figure:
    """The mean of ours - theirs on the edits that both judged, edit by edit."""
    mine, other = common(ours, theirs)
    return mean({key: value - other[key] for key, value in mine.items()}, commits, meaning)


def cumulative(found: Values, commits: Commits, ends: Sequence[int]) -> list[Figure]:
    """The mean over each editor's edits before each of `ends`."""
    return [mean({key: value for key, value in found.items() if key[2] < end}, commits, "") for end in ends]


def blocks(found: Values, commits: Commits) -> list[list[float]]:
    """Values of edits that were made together, of all seeds."""
    together: dict[tuple[str, int], list[float]] = {}
    for (_, editor, edit), value in found.items():
        together.setdefault((editor, commits[editor, edit]), []).append(value)
    return list(together.values())
