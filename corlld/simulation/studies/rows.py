"""Selections from the rows of a study. Pure."""

from collections.abc import Sequence

from corlld.simulation.studies.contract import Row


def chosen(rows: Sequence[Row], **equal: object) -> list[Row]:
    """Return the rows with these values, in order."""
    return [row for row in rows if all(row.get(name) == value for name, value in equal.items())]


def column(rows: Sequence[Row], name: str, **equal: object) -> list[float]:
    """Return one column of the rows with these values, in order. Raises KeyError for a row without that column."""
    return [float(row[name]) for row in chosen(rows, **equal)]


def names_in(rows: Sequence[Row], column: str) -> list[str]:
    """Return the distinct values of a column, in order of their first row."""
    return list(dict.fromkeys(str(row[column]) for row in rows))
