"""Adapter versions in a local folder: `<path>/<uid>/v<NNNNNN>/`, each file written once."""

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from corlld.publishing.peft_format import CONFIG_FILE, MANIFEST_FILE, adapter_name
from corlld.publishing.target import PublishedVersion, integrity_alarm, parse_manifest, prunable
from corlld.system.durable_files import (
    SHARED,
    check_permission,
    check_writable,
    create,
    fsync_folder,
    make_folders,
    retriable,
)

_UID = re.compile(r"[0-9a-f]{32}")  # not `lost+found`, say, which may not be read
_VERSION = re.compile(r"v(\d{6,})")


class FolderTarget:
    """See `Target`. A version is out once its `adapter_config.json` is there.

    Args:
        path: the folder; `open` makes it if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> str:
        """See `Target`. Makes no folder, and writes no bytes: a full disk shows in `open`."""
        check_permission(self._path)
        return str(self._path)

    def open(self) -> None:
        """See `Target`."""
        check_writable(self._path, SHARED)

    def put(self, uid: str, version: int, files: Mapping[str, bytes]) -> str:
        """See `Target`."""
        folder = self._folder(uid, version)
        with retriable(self._path):
            make_folders(folder, SHARED)
            for name, data in files.items():
                if not _put_file(folder / name, data):
                    raise integrity_alarm(uid, version, name)
        return str(folder)

    def get(self, uid: str, version: int) -> PublishedVersion | None:
        """See `Target`."""
        folder = self._folder(uid, version)
        with retriable(self._path):
            manifest = _content(folder / MANIFEST_FILE) if (folder / CONFIG_FILE).exists() else None
        return None if manifest is None else PublishedVersion(str(folder), parse_manifest(uid, version, manifest))

    def newest(self, uid: str) -> int:
        """See `Target`."""
        with retriable(self._path):
            return max((version for version, _ in _versions(self._path / uid)), default=0)

    def uids(self) -> Iterator[str]:
        """See `Target`. Nobody has versions in a folder that is not there."""
        with retriable(self._path), contextlib.suppress(FileNotFoundError), os.scandir(self._path) as entries:
            for entry in entries:
                if _UID.fullmatch(entry.name):
                    yield entry.name

    def prune(self, uid: str, keep_versions: int, keep_seconds: float) -> None:
        """See `Target`. A version was complete when its config was written."""
        with retriable(self._path):
            folders = dict(_versions(self._path / uid))
            if len(folders) <= keep_versions:
                return

            def completed(version: int) -> float | None:
                return _modified(folders[version] / CONFIG_FILE)

            for version in prunable(folders, completed, keep_versions, self._now() - keep_seconds):
                _remove(folders[version])

    def withdraw(self, uid: str, through: int) -> None:
        """See `Target`."""
        with retriable(self._path):
            versions = _versions(self._path / uid)
            for version, folder in versions:
                if version <= through:
                    _remove(folder)
            if all(version <= through for version, _ in versions):
                with contextlib.suppress(FileNotFoundError):
                    (self._path / uid).rmdir()
                    fsync_folder(self._path)

    def _folder(self, uid: str, version: int) -> Path:
        return (self._path / adapter_name(uid, version)).absolute()

    def _now(self) -> float:
        """Return the time by the clock that also dates the versions: a file server's may differ from this machine's.

        By this machine's clock if the disk is too full for a new file: only pruning makes room.
        """
        try:
            with tempfile.TemporaryFile(dir=self._path) as new:
                return os.fstat(new.fileno()).st_mtime
        except OSError:
            return time.time()


def _put_file(path: Path, data: bytes) -> bool:
    """Write the file unless it is there. Return whether its content is `data` now."""
    if not path.exists():
        # Another owner may be faster: it makes the same version of the same state.
        with contextlib.suppress(FileExistsError):
            create(path, data, SHARED)
            return True
    return path.read_bytes() == data


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _versions(folder: Path) -> list[tuple[int, Path]]:
    """Return the user's versions with their folders, also partly published ones, oldest first."""
    try:
        return sorted((int(match[1]), path) for path in folder.iterdir() if (match := _VERSION.fullmatch(path.name)))
    except FileNotFoundError:
        return []


def _remove(folder: Path) -> None:
    """Remove a version, its config first: what a kill leaves is no adapter to any engine."""
    with contextlib.suppress(FileNotFoundError):  # another process removes it too, and was faster
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        fsync_folder(folder)
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()
        fsync_folder(folder.parent)
