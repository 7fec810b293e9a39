"""Paths as people write them: `~` is a home folder, and a relative path begins in the working folder.

Settings and arguments become absolute here, once, so that every message names the place that was meant.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_SURELY_PATHS = ("~", "./", "../")


def absolute_path(path: str | Path) -> Path:
    """Return the absolute path, with the home folder in place of `~` or `~user`. Symbolic links stay.

    Raises ValueError for an empty path, a user without a home folder, or a working folder that is gone.
    """
    if not str(path) or "\0" in str(path):
        raise ValueError("empty, or with a character that no path can have")
    try:
        return Path(path).expanduser().absolute()
    except (RuntimeError, OSError) as error:
        raise ValueError(str(error)) from None


def _absolute(value: object) -> object:
    # A text, not a Path: a strict check of JSON takes nothing else.
    return str(absolute_path(value)) if isinstance(value, str | Path) else value


def absolute_if_path(name: str) -> str:
    """Return the name with `~`, `./` and `../` resolved; any other name as it is. Raises ValueError as above."""
    return str(absolute_path(name)) if name.startswith(_SURELY_PATHS) else name


# The type of every setting that is a path.
SettingPath = Annotated[Path, BeforeValidator(_absolute), Field(json_schema_extra={"allowed": "a path"})]

# The type of a name that may be a path too: `org/model` may be on the hub, and stays as it is.
NameOrPath = Annotated[str, Field(min_length=1), AfterValidator(absolute_if_path)]
