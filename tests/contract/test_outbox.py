"""Every outbox keeps its notes over the end of the process, whole, until somebody removes them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from corlld.durable import OutboxNote, StoreIdentity
from corlld.errors import RetriableError, StateUnreadable
from corlld.publishing.outbox import Outbox
from corlld.state.object_store import ObjectStore
from corlld.state.store import LocalFolderStore
from tests.support.memory_outbox import MemoryOutbox
from tests.support.s3 import Bucket, new_bucket_name
from tests.support.states import OTHER_UID, UID, released_state

IDENTITY = StoreIdentity("fingerprint", "cluster", "group", "model", "revision", "shape")
NOTE = OutboxNote(1_790_000_000.25, (UID, OTHER_UID))

Connect = Callable[[], Outbox]  # as another process


@pytest.fixture(params=["folder", "s3", "memory"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Connect:
    if request.param == "memory":
        outbox = MemoryOutbox()
        return lambda: outbox
    if request.param == "folder":
        return lambda: opened(LocalFolderStore(tmp_path / "state")).outbox
    request.getfixturevalue("s3")
    url = Bucket(new_bucket_name()).url
    return lambda: opened(ObjectStore(url)).outbox


def opened(store: LocalFolderStore | ObjectStore) -> LocalFolderStore | ObjectStore:
    store.open(IDENTITY, must_exist=False)
    return store


def test_a_new_store_has_no_notes(connect: Connect) -> None:
    assert list(connect().names()) == []


def test_a_note_is_read_by_another_process_until_it_is_removed(connect: Connect) -> None:
    name = connect().add(NOTE)
    assert list(connect().names()) == [name]
    assert connect().read(name) == NOTE
    connect().remove(name)
    assert list(connect().names()) == []
    assert connect().read(name) is None


def test_the_same_note_twice_is_two_notes(connect: Connect) -> None:
    outbox = connect()
    names = {outbox.add(NOTE), outbox.add(NOTE)}
    assert len(names) == 2
    assert set(outbox.names()) == names


def test_a_note_that_is_gone_can_be_removed_once_more(connect: Connect) -> None:
    outbox = connect()
    name = outbox.add(NOTE)
    outbox.remove(name)
    outbox.remove(name)
    assert list(outbox.names()) == []


def test_a_note_holds_any_number_of_users(connect: Connect) -> None:
    note = OutboxNote(1.0, tuple(f"{number:032x}" for number in range(10_000)))
    assert connect().read(connect().add(note)) == note


@pytest.mark.parametrize("torn", [b"", b'{"since": 1', b"[]", b'{"since": 1, "uids": ["../etc"]}', b'{"uids": []}'])
def test_a_torn_note_is_reported_and_taken_for_nothing(torn: bytes, s3: None, tmp_path: Path) -> None:
    bucket = Bucket(new_bucket_name())
    folder = opened(LocalFolderStore(tmp_path))
    for outbox, overwrite in (
        (folder.outbox, lambda name: (tmp_path / name).write_bytes(torn)),
        (opened(ObjectStore(bucket.url)).outbox, lambda name: bucket.overwrite(name, torn)),
    ):
        name = outbox.add(NOTE)
        overwrite(f"outbox/{name}.json")
        with pytest.raises(StateUnreadable, match="no note"):
            outbox.read(name)


def test_a_write_that_fails_leaves_no_note(tmp_path: Path) -> None:
    outbox = opened(LocalFolderStore(tmp_path)).outbox
    (tmp_path / "outbox").rmdir()  # as an unmounted folder looks
    with pytest.raises(RetriableError):
        outbox.add(NOTE)
    assert not list(tmp_path.rglob("*note*"))


def test_notes_are_for_the_daemons_own_user_alone(tmp_path: Path) -> None:
    name = opened(LocalFolderStore(tmp_path)).outbox.add(NOTE)
    assert (tmp_path / "outbox" / f"{name}.json").stat().st_mode & 0o777 == 0o600


def test_notes_are_no_users(tmp_path: Path) -> None:
    store = LocalFolderStore(tmp_path)
    store.open(IDENTITY, must_exist=False)
    store.outbox.add(NOTE)
    store.save(UID, released_state(), "0")
    assert list(store.uids()) == [UID]
