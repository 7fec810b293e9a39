"""Every attempt store keeps what was tried of a partition, for whoever owns the partition next."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Protocol

import pytest

from corlld.durable import Attempts, StoreIdentity
from corlld.errors import AttemptsUnreadable, RetriableError
from corlld.protocols import AttemptStore
from corlld.state.folder_attempts import FolderAttempts
from corlld.state.object_attempts import ObjectAttempts
from corlld.state.object_store import ObjectStore
from corlld.state.store import LocalFolderStore
from tests.support.bad_disk import refuse
from tests.support.s3 import Bucket, new_bucket_name

IDENTITY = StoreIdentity("fingerprint", "cluster", "group", "model", "revision", "shape")
PARTITION = "topic/../id/3"
SOME = Attempts(
    tried_below=1017,
    committed=9,
    tries={12: 2, 14: 1},
    letters=frozenset({10, 13}),
    crashed=(b"\xff\x00234567", b"\x00\xff234567"),
    paused=True,
)
OF_BEFORE = {  # as programs wrote it that kept neither crashed events nor pauses
    "format": 1,
    "partition": PARTITION,
    "tried_below": 1017,
    "committed": 9,
    "tries": {"12": 2},
    "letters": [10],
}


class Backend(Protocol):
    """Makes views of one store, as other processes have them, and reaches behind it."""

    def connect(self) -> AttemptStore: ...

    def stored(self) -> dict[str, bytes]: ...

    def overwrite(self, name: str, data: bytes) -> None: ...

    def take_away(self) -> None: ...


class Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        LocalFolderStore(folder).open(IDENTITY, must_exist=False)

    def connect(self) -> AttemptStore:
        return FolderAttempts(self._folder)

    def stored(self) -> dict[str, bytes]:
        return {str(p.relative_to(self._folder)): p.read_bytes() for p in self._folder.rglob("*") if p.is_file()}

    def overwrite(self, name: str, data: bytes) -> None:
        (self._folder / name).write_bytes(data)

    def take_away(self) -> None:
        """As an unmounted folder: the mount point is still there."""
        shutil.rmtree(self._folder)
        self._folder.mkdir()


class S3(Bucket):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        ObjectStore(self.url).open(IDENTITY, must_exist=False)

    def connect(self) -> AttemptStore:
        return ObjectAttempts(self.url, max_retries=0)

    def take_away(self) -> None:
        self.url = "s3://no-such-bucket/states"


@pytest.fixture(params=["folder", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "folder":
        return Folder(tmp_path / "state")
    request.getfixturevalue("s3")
    return S3(new_bucket_name())


def test_a_partition_without_attempts_has_none(backend: Backend) -> None:
    assert backend.connect().load_attempts(PARTITION) is None


def test_what_was_saved_last_is_loaded_also_by_another_process(backend: Backend) -> None:
    store = backend.connect()
    store.save_attempts(PARTITION, Attempts(tried_below=5))
    store.save_attempts(PARTITION, SOME)
    assert backend.connect().load_attempts(PARTITION) == SOME


def test_partitions_do_not_meet(backend: Backend) -> None:
    store = backend.connect()
    store.save_attempts(PARTITION, SOME)
    store.save_attempts("other/3", Attempts(tried_below=7))
    assert store.load_attempts(PARTITION) == SOME
    assert store.load_attempts("other/3") == Attempts(tried_below=7)
    assert sum(name.startswith("attempts/") for name in _below_the_store(backend)) == 2


def test_attempts_of_before_are_loaded_and_programs_of_before_find_what_they_read(backend: Backend) -> None:
    store = backend.connect()
    store.save_attempts(PARTITION, SOME)
    (name,) = (name for name in backend.stored() if "attempts/" in name)
    content = json.loads(backend.stored()[name])
    assert content["format"] == OF_BEFORE["format"]
    assert content.keys() > OF_BEFORE.keys()
    backend.overwrite(name, json.dumps(OF_BEFORE).encode())
    assert store.load_attempts(PARTITION) == Attempts(1017, 9, {12: 2}, frozenset({10}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"format": 2}',
        b'{"format": 1, "partition": "other/3"}',
        json.dumps(OF_BEFORE | {"crashed": ["no hex"]}).encode(),
    ],
    ids=["empty", "torn", "list", "nothing", "newer", "another", "hash"],
)
def test_corrupt_attempts_are_never_taken_for_none(backend: Backend, content: bytes) -> None:
    backend.connect().save_attempts(PARTITION, SOME)
    (name,) = (name for name in backend.stored() if "attempts/" in name)
    backend.overwrite(name, content)
    with pytest.raises(AttemptsUnreadable):
        backend.connect().load_attempts(PARTITION)


def test_a_store_that_went_away_is_tried_again_and_gets_no_attempts(backend: Backend) -> None:
    backend.take_away()
    with pytest.raises(RetriableError):
        backend.connect().save_attempts(PARTITION, SOME)


@pytest.mark.parametrize("disk_fails", [False, True], ids=["the file alone", "the disk"])
def test_a_file_that_answers_with_an_error_counts_as_corrupt_unless_all_of_the_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk_fails: bool
) -> None:
    store = Folder(tmp_path / "state").connect()
    store.save_attempts(PARTITION, SOME)
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if disk_fails or path.parent.name == "attempts":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(RetriableError if disk_fails else AttemptsUnreadable, match="Input/output error"):
            store.load_attempts(PARTITION)
    store.save_attempts(PARTITION, Attempts(tried_below=5))
    assert store.load_attempts(PARTITION) == Attempts(tried_below=5)


def test_counts_are_not_lost_by_an_error_of_the_disk_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Folder(tmp_path / "state").connect()
    store.save_attempts(PARTITION, SOME)
    read, failures = Path.read_bytes, iter(range(1))

    def failing(path: Path) -> bytes:
        if path.parent.name == "attempts" and next(failures, None) is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    assert store.load_attempts(PARTITION) == SOME


def test_a_folder_that_is_not_mounted_has_attempts_that_can_not_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Folder(tmp_path / "state")
    store = backend.connect()
    store.save_attempts(PARTITION, SOME)
    (name,) = (name for name in backend.stored() if "attempts/" in name)
    backend.take_away()
    with pytest.raises(RetriableError, match="mounted"):
        store.load_attempts(PARTITION)
    refuse(monkeypatch, [tmp_path / "state" / name])
    with pytest.raises(RetriableError, match="No such file"):
        store.load_attempts(PARTITION)


def _below_the_store(backend: Backend) -> list[str]:
    return [name.removeprefix("states/") for name in backend.stored()]
