"""Where adapter versions are made visible: what every target promises."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A whole version at a target. location: what an engine loads it from. manifest: its lineage, as written."""

    location: str
    manifest: Mapping[str, object]


class Target(Protocol):
    """Versions are immutable, and numbered upwards for each user. Thread-safe; every call can be repeated."""

    def put(self, uid: str, version: int, files: Mapping[str, bytes]) -> str:
        """Put a version out, the files in their order. Returns its location.

        Cheap where it is out already; what a kill left half done is completed.

        Raises RetriableError; FatalError where a file is there with other content: it is not touched.
        """

    def get(self, uid: str, version: int) -> PublishedVersion | None:
        """The version, None where it is not, or not wholly, out. Raises RetriableError."""

    def newest(self, uid: str) -> int:
        """The newest version that is out, or partly out; 0 for none. Raises RetriableError."""

    def prune(self, uid: str, keep_versions: int) -> None:
        """Remove all but the newest versions. Raises RetriableError."""

    def withdraw(self, uid: str, through: int) -> None:
        """Remove a user's versions up to `through`. Raises RetriableError."""
