"""Series from the rows of the study `tastes`, by user, by mark and by cell. Pure.

A row has a `part` (long, cell), a `method`, a `kind` (round, held-out, plain), a `user` and a `seed`.
"""

import statistics
from collections.abc import Sequence

from corlld.simulation.drawing import running_mean
from corlld.simulation.studies.contract import Row
from corlld.simulation.studies.rows import chosen, names_in

DEFAULT = "default"  # name of the method with the daemon's settings
WINDOW = 20  # edits of a running mean: as in the demo's test of soundness


def users_of(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """Return seed and name of each user, in the order of their first rows."""
    return list(dict.fromkeys((int(row["seed"]), str(row["user"])) for row in rows))


def by_user(rows: Sequence[Row], column: str) -> dict[tuple[int, str], list[float]]:
    """Return the values of a column by user, in order. Rows without the column are left out."""
    return {
        (seed, user): [float(row[column]) for row in chosen(rows, seed=seed, user=user) if column in row]
        for seed, user in users_of(rows)
    }


def running(rows: Sequence[Row], column: str) -> dict[tuple[int, str], list[float]]:
    """Return by user the mean of the last `WINDOW` edits after each round; the first means are of fewer edits."""
    size = rounds_in_window(rows)
    return {user: running_mean(values, size) for user, values in by_user(rows, column).items()}


def largest_running(rows: Sequence[Row], column: str) -> float:
    """Return the largest running mean of any user, once a window is full."""
    size = rounds_in_window(rows)
    return max(max(values[size - 1 :]) for values in running(rows, column).values())


def rounds_in_window(rows: Sequence[Row]) -> int:
    """Return the rounds of a window: at most half of all rounds, so that the first and last window never overlap."""
    edits = sorted({int(row["edits"]) for row in rows})
    return max(1, min(WINDOW // edits[0], len(edits) // 2))


def marks(rows: Sequence[Row]) -> list[int]:
    """Return the numbers of edits at which the long run was measured."""
    return sorted({int(row["edits"]) for row in chosen(rows, part="long", kind="held-out")})


def at_mark(rows: Sequence[Row], column: str, edits: int, kind: str = "held-out") -> list[float]:
    """Return the mean of a column at a mark of the long run, one value per user."""
    found = by_user(chosen(rows, part="long", kind=kind, edits=edits), column)
    return [statistics.fmean(values) for values in found.values()]


def cell_names(rows: Sequence[Row]) -> list[str]:
    """Return the names of the cells, in the order in which they ran."""
    return names_in(chosen(rows, part="cell"), "method")


def cell_rows(rows: Sequence[Row], name: str) -> list[Row]:
    """Return the rows of a cell. The rows of the default are the same users' first edits in the long run."""
    cells = chosen(rows, part="cell")
    if name != DEFAULT:
        return chosen(cells, method=name)
    users, edits = set(users_of(cells)), max(int(row["edits"]) for row in cells)
    return [
        row
        for row in chosen(rows, part="long")
        if (int(row["seed"]), str(row["user"])) in users
        and (0 < int(row["edits"]) <= edits if row["kind"] == "round" else row["edits"] == edits)
    ]


def late_ratios(rows: Sequence[Row], name: str) -> list[float]:
    """Return the edit ratio of each round and user in the later half of a cell."""
    rounds = chosen(cell_rows(rows, name), kind="round")
    half = max(int(row["edits"]) for row in rounds) / 2
    late = by_user([row for row in rounds if int(row["edits"]) > half], "edit_ratio")
    return [value for _, values in sorted(late.items()) for value in values]


def held_out_distances(rows: Sequence[Row], name: str) -> list[float]:
    """Return the distance on each held-out prompt of each user at the end of a cell."""
    found = chosen(cell_rows(rows, name), kind="held-out")
    found.sort(key=lambda row: (int(row["seed"]), str(row["user"]), int(row["prompt"])))
    return [float(row["distance"]) for row in found]
