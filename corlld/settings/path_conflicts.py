"""Paths of the settings that would harm each other: what one part keeps there, another would remove or misread.

Symbolic links are followed. Folders that lie in each other without harm are allowed.
"""

import re
from collections.abc import Iterator
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING

from corlld.settings.fields import is_to_blame

if TYPE_CHECKING:
    from corlld.settings.sections import Settings

# What the state store makes in its folder, removes files from, and lists. Nothing else may lie in these.
NAMES_OF_THE_STORE = frozenset({"store.json", "users", "temporary", "positions", "outbox", "attempts"})
_UID = re.compile(r"[0-9a-f]{32}")


def problems_of_paths(settings: "Settings") -> Iterator[str]:
    """Yield a line for each problem, which begins with the name of a setting and a colon."""
    paths = dict(_used(settings))
    state, adapters = paths.get("state.path"), paths.get("publishing.path")
    yield from _same_folder(settings, state, adapters)
    yield from _same_file(settings, paths)
    for name, path in paths.items():
        if (part := _first_part(path, state)) in NAMES_OF_THE_STORE:
            yield f"{name}: found a place in {state}/{part}, which is the state store's alone, allowed: another place"
        if (part := _first_part(path, adapters)) and _UID.fullmatch(part):
            yield (
                f"{name}: found a place in {adapters}/{part}, where a user's old versions are removed, allowed: "
                "another place"
            )


def _used(settings: "Settings") -> Iterator[tuple[str, Path]]:
    """Yield the folders and files that the settings name for a run, by setting, without symbolic links."""
    model = Path(settings.model.name or "")
    found = {
        "state.path": settings.state.path if settings.state.url is None else None,
        "publishing.path": settings.publishing.path if settings.publishing.enabled else None,
        "dead_letters.path": settings.dead_letters.path,
        "source.path": settings.source.path,
        "learning.rehearsal_path": settings.learning.rehearsal_path,
        "adapter.start_path": settings.adapter.start_path,
        "model.cache_folder": settings.model.cache_folder,
        "model.name": model if model.is_absolute() else None,
    }
    yield from ((name, Path(realpath(path))) for name, path in found.items() if path is not None)


def _same_folder(settings: "Settings", state: Path | None, adapters: Path | None) -> Iterator[str]:
    if state is not None and state == adapters:
        names = ("publishing.path", "state.path")
        first = is_to_blame(settings.publishing, "path", "path", of=settings.state)
        wrong, other = names if first else reversed(names)
        yield f"{wrong}: found the path of {other}, allowed: another folder"


def _same_file(settings: "Settings", paths: dict[str, Path]) -> Iterator[str]:
    """Yield a line if dead letters would be appended to a file that is read."""
    letters = paths.get("dead_letters.path")
    if letters is None and "source.path" in paths and "state.path" in paths:  # a topic has no such file
        letters = paths["state.path"] / "dead-letters.jsonl"
    for name in ("source.path", "learning.rehearsal_path", "model.name"):
        if letters is None or letters != paths.get(name):
            continue
        if "dead_letters.path" in paths:
            yield f"dead_letters.path: found the path of {name}, allowed: another file"
        else:
            yield f"{name}: found the file of dead letters (dead_letters.path), allowed: another file"


def _first_part(path: Path, folder: Path | None) -> str | None:
    """Return the name in the folder below which the path lies; None if it does not lie in the folder."""
    if folder is None or not path.is_relative_to(folder):
        return None
    return next(iter(path.relative_to(folder).parts), None)
