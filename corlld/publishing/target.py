"""The protocol of a publishing target: a place where engines find adapter versions.

To add a target, write a class that keeps this protocol in a file of this folder, and choose it in
`assembly.build_target`. The contract suite of publishing targets then runs over it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from corlld.errors import PublicationFailed
from corlld.publishing.peft_format import MANIFEST_FILE, adapter_name
from corlld.system.stored_json import read_json

ANNOUNCED = ("uid", "version", "name", "base_model", "base_revision", "digest")  # of the manifest


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

        A version that is out already is read and compared, tensors included. A version that a kill left half done is
        completed.

        Raises:
            RetriableError: nothing is lost; the call must be repeated.
            PublicationFailed: a file is there with other content (see `integrity_alarm`). It is not touched.
        """

    def get(self, uid: str, version: int) -> PublishedVersion | None:
        """Return the version; None if it is not out, or not wholly.

        Raises RetriableError, PublicationFailed if its manifest can't be understood.
        """

    def newest(self, uid: str) -> int:
        """Return the newest version that is out, wholly or partly; 0 if there is none. Raises RetriableError."""

    def uids(self) -> Iterator[str]:
        """Yield the users who have versions, in any order, without a list of all in memory.

        A user who comes or goes meanwhile may be missing. Raises RetriableError.
        """

    def prune(self, uid: str, keep_versions: int, keep_seconds: float) -> None:
        """Remove the user's versions that are `prunable`, by the target's own clock. Raises RetriableError.

        Two processes may prune the same user at the same time.
        """

    def withdraw(self, uid: str, through: int) -> None:
        """Remove the user's versions up to `through`, also partly published ones. Raises RetriableError."""


def prunable(
    versions: Iterable[int], completed: Callable[[int], float | None], keep_versions: int, superseded_until: float
) -> list[int]:
    """Return the versions of a user that no engine may ask for any more, oldest first.

    Both must hold: the version is not among the newest `keep_versions`, and the next newer one was complete at
    `superseded_until` or before. A version that is not whole counts as a version, but supersedes nothing. No engine can
    load it, so its age does not matter.

    The search ends at the oldest version that must stay: those after it were superseded later. Of the others nothing is
    asked, since a user who writes much has many young ones.

    Args:
        versions: all of the user's, also those that are not whole.
        completed: returns the time at which a version was complete; None if it is not whole.
        keep_versions: at least 1.
        superseded_until: by the clock of `completed`.
    """
    ordered = sorted(versions)
    due: list[int] = []
    waiting: int | None = None  # whole, and due if the next whole one is old enough
    for place, version in enumerate(ordered):
        may_go = place < len(ordered) - keep_versions
        if waiting is None and not may_go:
            break
        complete = completed(version)
        if complete is None:
            due += [version] if may_go else []
            continue
        if waiting is not None:
            if complete > superseded_until:
                break
            due.append(waiting)
        waiting = version if may_go else None
    return sorted(due)


def integrity_alarm(uid: str, version: int, file_name: str) -> PublicationFailed:
    """Return the error for a published file whose content is not what the user's state says."""
    return PublicationFailed(
        f"integrity alarm: {adapter_name(uid, version)}: {file_name} was published with other content than its state "
        "says; nothing was overwritten. To repair: move this version away; the user's next event publishes it again"
    )


def parse_manifest(uid: str, version: int, data: bytes) -> Mapping[str, object]:
    """Return the manifest of a published version. Raises PublicationFailed if it is not one of this version."""
    try:
        manifest = read_json(data)
    except ValueError:
        raise integrity_alarm(uid, version, MANIFEST_FILE) from None
    named = isinstance(manifest, dict) and manifest.keys() >= set(ANNOUNCED)
    if not named or (manifest["uid"], manifest["version"]) != (uid, version):
        raise integrity_alarm(uid, version, MANIFEST_FILE)
    return dict(manifest)
