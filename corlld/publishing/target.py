"""The protocol of a publishing target: a place where engines find adapter versions.

To add a target, write a class that keeps this protocol in a file of this folder, and choose it in
`assembly.build_target`. The contract suite of publishing targets then runs over it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from corlld.errors import FatalError


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """A whole version at a target. location: what an engine loads it from. manifest: its lineage, as written."""

    location: str
    manifest: Mapping[str, object]


class Target(Protocol):
    """Versions are immutable, and numbered upwards for each user.

    Thread-safe, also with other processes at the same place. Every call can be repeated.
    """

    def check(self) -> str:
        """Check as far as possible without a change that versions can be published, for `corlld check`.

        Returns the place in words. Raises FatalError.
        """

    def open(self) -> None:
        """Make the place if it is missing, and check with a real write that versions can be published.

        Called once, before the first `put`. Raises FatalError.
        """

    def put(self, uid: str, version: int, files: Mapping[str, bytes]) -> str:
        """Publish a version: its files appear in their order. Returns its location.

        Cheap if the version is out already. A version that a kill left half done is completed.

        Raises:
            RetriableError: nothing is lost; the call must be repeated.
            FatalError: a file is there with other content (see `integrity_alarm`). It is not touched.
        """

    def get(self, uid: str, version: int) -> PublishedVersion | None:
        """Return the version; None if it is not out, or not wholly. Raises RetriableError."""

    def newest(self, uid: str) -> int:
        """Return the newest version that is out, wholly or partly; 0 if there is none. Raises RetriableError."""

    def prune(self, uid: str, keep_versions: int) -> None:
        """Remove all but the newest versions of the user. Raises RetriableError."""

    def withdraw(self, uid: str, through: int) -> None:
        """Remove the user's versions up to `through`, also partly published ones. Raises RetriableError."""


def integrity_alarm(uid: str, version: int, file_name: str) -> FatalError:
    """Return the error for a published file whose content is not what the user's state says."""
    return FatalError(
        f"integrity alarm: version {version} of {uid}: {file_name} was published with other content than its state "
        "says; nothing was overwritten"
    )
