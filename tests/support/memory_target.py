"""A publishing target in memory. It promises what a target in an object store would promise."""

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from corlld.errors import ExitCode, FatalError
from corlld.publishing.peft_format import CONFIG_FILE, MANIFEST_FILE, adapter_name
from corlld.publishing.target import PublishedVersion, integrity_alarm, parse_manifest, prunable


@dataclass
class MemoryPlace:
    """The place that the targets of several processes share: objects by name, each created by one writer alone."""

    objects: dict[str, bytes] = field(default_factory=dict)
    created: dict[str, float] = field(default_factory=dict)
    now: float = 0.0
    writable: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def create(self, name: str, data: bytes) -> bytes:
        """Create the object unless it is there. Return its content, whoever wrote it."""
        with self.lock:
            self.created.setdefault(name, self.now)
            return self.objects.setdefault(name, bytes(data))

    def names(self, prefix: str) -> list[str]:
        with self.lock:
            return [name for name in self.objects if name.startswith(prefix)]

    def remove(self, name: str) -> None:
        with self.lock:
            self.objects.pop(name, None)
            self.created.pop(name, None)


class MemoryTarget:
    """See `Target`. A version is out once its `adapter_config.json` is there, as for every engine."""

    def __init__(self, place: MemoryPlace | None = None) -> None:
        self._place = MemoryPlace() if place is None else place

    def check(self) -> str:
        if not self._place.writable:
            raise FatalError("the memory can't be written", ExitCode.CANNOT_WRITE)
        return "memory"

    def open(self) -> None:
        self.check()

    def put(self, uid: str, version: int, files: Mapping[str, bytes]) -> str:
        name = adapter_name(uid, version)
        for file, data in files.items():
            if self._place.create(f"{name}/{file}", data) != data:
                raise integrity_alarm(uid, version, file)
        return f"memory/{name}"

    def get(self, uid: str, version: int) -> PublishedVersion | None:
        name = adapter_name(uid, version)
        manifest = self._place.objects.get(f"{name}/{MANIFEST_FILE}")
        if manifest is None or f"{name}/{CONFIG_FILE}" not in self._place.objects:
            return None
        return PublishedVersion(f"memory/{name}", parse_manifest(uid, version, manifest))

    def newest(self, uid: str) -> int:
        return max(self._versions(uid), default=0)

    def uids(self) -> Iterator[str]:
        yield from {name.partition("/")[0] for name in self._place.names("")}

    def prune(self, uid: str, keep_versions: int, keep_seconds: float) -> None:
        configs = {version: f"{adapter_name(uid, version)}/{CONFIG_FILE}" for version in self._versions(uid)}
        completed = {version: self._place.created.get(name) for version, name in configs.items()}
        self._remove(uid, prunable(completed, completed.__getitem__, keep_versions, self._place.now - keep_seconds))

    def withdraw(self, uid: str, through: int) -> None:
        self._remove(uid, [version for version in self._versions(uid) if version <= through])

    def _versions(self, uid: str) -> set[int]:
        return {int(match[1]) for name in self._place.names(f"{uid}/") if (match := re.match(r"\w+/v(\d{6,})/", name))}

    def _remove(self, uid: str, versions: list[int]) -> None:
        for version in versions:
            name = adapter_name(uid, version)
            self._place.remove(f"{name}/{CONFIG_FILE}")  # first: what is left is no adapter to any engine
            for rest in self._place.names(f"{name}/"):
                self._place.remove(rest)
