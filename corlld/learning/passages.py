"""The plain text that is to be rehearsed, as the settings name it. It needs neither torch nor a model."""

import re
from pathlib import Path

from corlld.errors import ConfigurationError
from corlld.settings.sections import LearningSettings

PLAIN_ENGLISH = Path(__file__).with_name("plain_english.txt")
_EMPTY_LINES = re.compile(r"\n\s*\n")  # a line of spaces looks empty


def passages(learning: LearningSettings) -> tuple[str, ...]:
    """Return the passages that the settings have rehearsed: none if `rehearsal_weight` is 0.

    Raises:
        ConfigurationError: see `read_passages`.
    """
    return read_passages(learning.rehearsal_path or PLAIN_ENGLISH) if learning.rehearsal_weight else ()


def check_passages(learning: LearningSettings) -> None:
    """Read the file that the settings name, if they name one. An arm may rehearse it where `learning` does not.

    Raises:
        ConfigurationError: see `read_passages`.
    """
    if learning.rehearsal_path is not None:
        read_passages(learning.rehearsal_path)


def read_passages(path: Path) -> tuple[str, ...]:
    """Return a file's passages. Empty lines divide them; line breaks inside a passage become spaces.

    Raises:
        ConfigurationError: the file can't be read, is not UTF-8, or has no passage.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"learning.rehearsal_path: {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"learning.rehearsal_path: {path} is not UTF-8 text") from None
    passages = tuple(" ".join(part.split()) for part in _EMPTY_LINES.split(text) if part.strip())
    if not passages:
        raise ConfigurationError(f"learning.rehearsal_path: {path} has no passage")
    return passages
