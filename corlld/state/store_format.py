"""The format of a state store: one number for `store.json` and for every state beside it.

A later format keeps two things, so that an older program can tell what is newer from what is torn. `store.json` is a
JSON object with the number as `format`. A state is a safetensors file with the metadata that `snapshot` names: the
state's text with its `format`, and the checksum over that text and all bytes after the header.
"""

from corlld.errors import NewerFormat

FORMAT = 2  # of what is written; `migrations` reads the older ones


def is_newer(found: object) -> bool:
    """Return whether this is the number of a format that only a newer corlld knows."""
    return isinstance(found, int) and found > FORMAT


def newer_format(what: str, found: object) -> NewerFormat:
    """Return the error for something in a newer format. what: a file or a state, in words."""
    return NewerFormat(
        f"{what} is in format {found}, of a newer corlld; this one knows formats up to {FORMAT}. Nothing was changed "
        "or set aside. Use the newer corlld again, or a backup of the store from before the upgrade"
    )
