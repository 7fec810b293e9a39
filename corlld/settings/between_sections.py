"""Combinations of values of two sections that can't work. They are refused whatever the command."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corlld.settings.sections import Settings

ONLY_OF_A_FILE = "set, allowed: only with source.kind jsonl (it is kafka)"


def problems_between_sections(settings: "Settings") -> Iterator[str]:
    """Yield a line for each problem, which begins with the name of a setting and a colon.

    The other way round nothing is refused: `corlld send` and announcements read `kafka` whatever `source.kind` is.
    """
    if settings.source.kind == "kafka" and settings.dead_letters.path is not None:
        yield f"dead_letters.path: {ONLY_OF_A_FILE}"
