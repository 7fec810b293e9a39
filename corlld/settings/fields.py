"""Parts of the settings' sections: their base class, types that several of them use, words on an unknown key."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0)]
MAX_PORT = 65_535
NonEmpty = Annotated[str, Field(min_length=1)]
Address = Annotated[
    str, Field(pattern=r"^([^\s/:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$", json_schema_extra={"allowed": "`host:port`"})
]
TopicName = Annotated[
    str,
    Field(
        pattern=r"^[a-zA-Z0-9._-]{1,249}$",
        json_schema_extra={"allowed": "at most 249 letters, digits, dots, underscores and hyphens"},
    ),
]
ModulePath = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$",
        json_schema_extra={"allowed": "names of modules, joined by dots: `language_model.model`"},
    ),
]


class Section(BaseModel):
    """A section of the settings: a TOML table."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def problems(self) -> Iterator[str]:
        """Yield the combinations of values that can't work, each as `key: what was found, and what is allowed`."""
        yield from ()

    def is_changed(self, key: str) -> bool:
        """Return whether a setting has another value than its default, which may be written and asks for nothing."""
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    @model_validator(mode="after")
    def _refuse_problems(self) -> Self:
        if problems := list(self.problems()):
            raise ValueError("\n".join(problems))
        return self


def is_to_blame(section: Section, key: str, other: str, *, of: Section | None = None) -> bool:
    """Return whether the first of two settings that do not go together is the one to report.

    It is not if it has its default and the other setting was written: people look at what they wrote.

    Args:
        section: of the first setting.
        key: of the first setting.
        other: key of the second setting.
        of: its section. Default: the same.
    """
    return key in section.model_fields_set or other not in (of or section).model_fields_set


def unknown_key(key: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Report a key that does not exist, with the closest existing one. prefix: stands before the names of both."""
    close = difflib.get_close_matches(key, known := list(known), n=1)
    return f"{prefix}{key}: {unknown(prefix + close[0] if close else None, ', '.join(known))}"


def unknown(meant: str | None, allowed: str) -> str:
    """Say that a name does not exist, and which name was perhaps meant; the allowed names if none is known."""
    return f"unknown (did you mean {meant}?)" if meant else f"unknown, allowed: {allowed}"
