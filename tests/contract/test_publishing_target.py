"""Every publishing target keeps its promises: versions are whole, immutable and numbered upwards (I5)."""

import errno
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
from structlog.testing import capture_logs

from corlld.durable import Head, ModelInfo, ModuleNames, UserState
from corlld.errors import ExitCode, FatalError, PublicationFailed, RetriableError
from corlld.publishing.folder import FolderTarget
from corlld.publishing.peft_format import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE, adapter_files
from corlld.publishing.publisher import AdapterPublisher
from corlld.publishing.target import Target
from tests.support.memory_target import MemoryPlace, MemoryTarget
from tests.support.states import OTHER_UID, SMALL_LAYOUT, UID, released_state, tombstone

MODEL = ModelInfo("served/name", "r1", "fingerprint", supports_messages=False)


class Backend(Protocol):
    """Makes views of one target, as several processes have them, and reaches behind it."""

    def connect(self) -> Target: ...

    def published(self) -> dict[str, bytes]: ...

    def overwrite(self, name: str, data: bytes) -> None: ...

    def remove(self, name: str) -> None: ...

    def let_pass(self, seconds: float) -> None: ...

    def forbid_writing(self, monkeypatch: pytest.MonkeyPatch) -> None: ...


class Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def connect(self) -> Target:
        return FolderTarget(self._folder)

    def published(self) -> dict[str, bytes]:
        return {str(p.relative_to(self._folder)): p.read_bytes() for p in self._folder.rglob("*") if p.is_file()}

    def overwrite(self, name: str, data: bytes) -> None:
        (self._folder / name).write_bytes(data)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink()

    def let_pass(self, seconds: float) -> None:
        for path in self._folder.rglob("*"):
            os.utime(path, times=(path.stat().st_atime, path.stat().st_mtime - seconds))

    def forbid_writing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Refuse writes, as the kernel does to a process without the right. Root, who may run this test, has it."""

        def refuse(*arguments: object, **keywords: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        monkeypatch.setattr(os, "mkdir", refuse)


class Memory:
    def __init__(self) -> None:
        self._place = MemoryPlace()

    def connect(self) -> Target:
        return MemoryTarget(self._place)

    def published(self) -> dict[str, bytes]:
        return dict(self._place.objects)

    def overwrite(self, name: str, data: bytes) -> None:
        self._place.objects[name] = data

    def remove(self, name: str) -> None:
        self._place.remove(name)

    def let_pass(self, seconds: float) -> None:
        self._place.now += seconds

    def forbid_writing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._place.writable = False


@pytest.fixture(params=["folder", "memory"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return Memory() if request.param == "memory" else Folder(tmp_path / "adapters")


@pytest.fixture
def target(backend: Backend) -> Target:
    return backend.connect()


@pytest.fixture
def folder_target(tmp_path: Path) -> FolderTarget:
    return FolderTarget(tmp_path / "adapters")


def files_of(version: int, uid: str = UID) -> dict[str, bytes]:
    return adapter_files(released_state(version, uid=uid), SMALL_LAYOUT, MODEL)


def put(target: Target, versions: Iterable[int], uid: str = UID) -> None:
    for version in versions:
        target.put(uid, version, files_of(version, uid))


def versions_out(backend: Backend, uid: str = UID) -> list[int]:
    names = (name.split("/") for name in backend.published())
    return sorted({int(version[1:]) for user, version, _ in names if user == uid})


def at_once(backend: Backend, contents: Sequence[Mapping[str, bytes]]) -> list[str | PublicationFailed]:
    """Put version 3 with each of the contents, each from a target and a thread of its own."""
    start = threading.Barrier(len(contents), timeout=10)

    def owner(files: Mapping[str, bytes]) -> str | PublicationFailed:
        target = backend.connect()
        start.wait()
        try:
            return target.put(UID, 3, files)
        except PublicationFailed as error:
            return error

    with ThreadPoolExecutor(len(contents)) as pool:
        return list(pool.map(owner, contents))


def test_a_look_changes_nothing_and_says_where_versions_go(backend: Backend, target: Target) -> None:
    place = target.check()
    assert backend.published() == {}
    target.open()
    target.open()
    assert backend.published() == {}
    assert target.check() == place
    assert target.put(UID, 3, files_of(3)).startswith(place)


def test_a_place_that_cannot_be_written_is_refused_by_the_look_and_at_the_start(
    backend: Backend, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.forbid_writing(monkeypatch)
    for refuses in (target.check, target.open):
        with pytest.raises(FatalError, match="can't be written") as caught:
            refuses()
        assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def test_a_version_is_out_whole_and_under_its_name(backend: Backend, target: Target) -> None:
    put(target, [3])
    assert backend.published() == {f"{UID}/v000003/{name}": data for name, data in files_of(3).items()}
    published = target.get(UID, 3)
    assert published is not None
    assert published.manifest == json.loads(files_of(3)[MANIFEST_FILE])
    assert published.location.endswith(f"{UID}/v000003")


def test_what_is_not_out_is_not_found(target: Target) -> None:
    put(target, [3])
    assert target.get(UID, 4) is None
    assert target.get(OTHER_UID, 3) is None


def test_i5_a_version_put_twice_stays_as_it_is(backend: Backend, target: Target) -> None:
    put(target, [3])
    before = backend.published()
    put(backend.connect(), [3])
    assert backend.published() == before


@pytest.mark.parametrize("name", [TENSORS_FILE, MANIFEST_FILE, CONFIG_FILE])
def test_i5_other_content_under_the_same_number_is_an_alarm_and_not_overwritten(
    backend: Backend, target: Target, name: str
) -> None:
    put(target, [3])
    backend.overwrite(f"{UID}/v000003/{name}", b"something else")
    with pytest.raises(PublicationFailed, match=f"integrity alarm: {UID}/v000003: {name}"):
        put(target, [3])
    assert backend.published()[f"{UID}/v000003/{name}"] == b"something else"


@pytest.mark.parametrize("name", [TENSORS_FILE, MANIFEST_FILE, CONFIG_FILE])
def test_i5_a_single_flipped_bit_of_a_version_that_is_out_is_found_when_it_is_put_again(
    backend: Backend, target: Target, name: str
) -> None:
    put(target, [3])
    flipped = bytearray(files_of(3)[name])
    flipped[len(flipped) // 2] ^= 1
    backend.overwrite(f"{UID}/v000003/{name}", bytes(flipped))
    with pytest.raises(PublicationFailed, match=name):
        put(target, [3])


def test_i5_a_version_that_was_moved_away_is_put_again_with_the_same_content(backend: Backend, target: Target) -> None:
    put(target, [3])
    before = backend.published()
    for name in files_of(3):
        backend.remove(f"{UID}/v000003/{name}")
    put(target, [3])
    assert backend.published() == before


@pytest.mark.parametrize("manifest", [b"{", b"\xff", b"[]", b"{}", files_of(4)[MANIFEST_FILE]])
def test_a_manifest_that_is_none_of_its_version_is_the_trouble_of_its_user(
    backend: Backend, target: Target, manifest: bytes
) -> None:
    put(target, [3])
    backend.overwrite(f"{UID}/v000003/{MANIFEST_FILE}", manifest)
    with pytest.raises(PublicationFailed, match=MANIFEST_FILE):
        target.get(UID, 3)


def test_i5_owners_that_put_the_same_version_at_once_all_succeed(backend: Backend) -> None:
    assert [type(result) for result in at_once(backend, [files_of(3)] * 4)] == [str] * 4
    assert backend.published() == {f"{UID}/v000003/{name}": data for name, data in files_of(3).items()}


def test_i5_of_owners_with_different_content_one_wins_whole_and_the_others_raise_the_alarm(backend: Backend) -> None:
    contents = [adapter_files(released_state(3, seed=owner), SMALL_LAYOUT, MODEL) for owner in range(4)]
    results = at_once(backend, contents)
    assert sorted(type(result).__name__ for result in results) == ["PublicationFailed"] * 3 + ["str"]
    [winner] = [content for content, result in zip(contents, results, strict=True) if isinstance(result, str)]
    assert backend.published() == {f"{UID}/v000003/{name}": data for name, data in winner.items()}


@pytest.mark.parametrize("there", [[], [TENSORS_FILE], [TENSORS_FILE, MANIFEST_FILE]])
def test_i5_a_version_that_a_kill_left_half_done_is_not_out_and_is_completed(
    backend: Backend, target: Target, there: list[str]
) -> None:
    put(target, [3])
    for name in files_of(3):
        if name not in there:
            backend.remove(f"{UID}/v000003/{name}")
    assert target.get(UID, 3) is None
    put(target, [3])
    assert backend.published() == {f"{UID}/v000003/{name}": data for name, data in files_of(3).items()}


def test_the_newest_version_is_the_highest_number_also_of_a_partly_published_one(
    backend: Backend, target: Target
) -> None:
    assert target.newest(UID) == 0
    put(target, [9, 10, 11])
    put(target, [20], OTHER_UID)
    assert target.newest(UID) == 11
    backend.remove(f"{UID}/v000011/{CONFIG_FILE}")
    assert target.newest(UID) == 11


def test_only_the_newest_versions_stay(backend: Backend, target: Target) -> None:
    put(target, [8, 9, 10, 11])
    put(target, [4], OTHER_UID)
    target.prune(UID, 2, 0)
    assert {name.rpartition("/")[0] for name in backend.published()} == {
        f"{UID}/v000010",
        f"{UID}/v000011",
        f"{OTHER_UID}/v000004",
    }


def test_the_newest_version_is_never_pruned_also_past_six_digits(target: Target) -> None:
    put(target, [999_999, 1_000_000])
    target.prune(UID, 1, 0)
    assert target.get(UID, 999_999) is None
    assert target.get(UID, 1_000_000) is not None


def test_a_version_that_was_superseded_lately_stays_beyond_the_newest(backend: Backend, target: Target) -> None:
    for version in (8, 9, 10, 11):
        put(target, [version])
        backend.let_pass(100)
    # Superseded 300, 200 and 100 seconds ago; the newest is not superseded.
    target.prune(UID, 1, 350)
    assert versions_out(backend) == [8, 9, 10, 11]
    target.prune(UID, 1, 250)
    assert versions_out(backend) == [9, 10, 11]
    target.prune(UID, 3, 50)
    assert versions_out(backend) == [9, 10, 11]
    backend.let_pass(200)
    target.prune(UID, 1, 250)
    assert versions_out(backend) == [11]


def test_the_newest_version_stays_however_old_it_is(backend: Backend, target: Target) -> None:
    put(target, [8, 9])
    backend.let_pass(1e9)
    target.prune(UID, 1, 3600)
    assert versions_out(backend) == [9]


def test_a_version_that_is_not_whole_supersedes_nothing_and_goes_at_once(backend: Backend, target: Target) -> None:
    put(target, [8])
    backend.let_pass(5000)
    put(target, [9, 10, 11])
    backend.remove(f"{UID}/v000009/{CONFIG_FILE}")  # half pruned, or half published: no engine can load it
    target.prune(UID, 1, 3600)
    assert versions_out(backend) == [8, 10, 11]


def test_of_owners_that_prune_the_same_user_at_once_all_succeed(backend: Backend, target: Target) -> None:
    put(target, range(1, 13))
    start = threading.Barrier(4, timeout=10)

    def owner() -> None:
        view = backend.connect()
        start.wait()
        view.prune(UID, 1, 0)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(owner) for _ in range(4)]:
            done.result()
    assert versions_out(backend) == [12]


def test_the_users_who_have_versions_are_known(backend: Backend, target: Target) -> None:
    target.open()
    assert list(target.uids()) == []
    put(target, [3, 4])
    put(target, [4], OTHER_UID)
    assert sorted(target.uids()) == sorted([UID, OTHER_UID])
    target.withdraw(UID, 99)
    assert list(target.uids()) == [OTHER_UID]


def test_i8_a_withdrawn_user_leaves_nothing(backend: Backend, target: Target) -> None:
    put(target, [3, 4])
    put(target, [4], OTHER_UID)
    backend.remove(f"{UID}/v000003/{CONFIG_FILE}")  # a half-pruned one
    target.withdraw(UID, 99)
    target.withdraw(UID, 99)
    assert all(name.startswith(OTHER_UID) for name in backend.published())
    put(target, [5])
    assert target.get(UID, 5) is not None


# --- the local folder's own -------------------------------------------------------------------------------------------


def test_a_look_makes_no_folder(tmp_path: Path, folder_target: FolderTarget) -> None:
    folder_target.check()
    assert list(tmp_path.iterdir()) == []


def test_each_file_of_a_version_that_is_out_is_read_and_compared_once(
    folder_target: FolderTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder_target, [3])
    read: list[str] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or real(path))
    put(folder_target, [3])
    assert read == [TENSORS_FILE, MANIFEST_FILE, CONFIG_FILE]


def test_the_config_appears_last_and_goes_first(
    tmp_path: Path, folder_target: FolderTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "adapters" / UID / "v000003"
    seen: list[set[str]] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def watched(*arguments: object, **keywords: object) -> object:
            result = real(*arguments, **keywords)
            if folder.is_dir():
                seen.append({path.name for path in folder.iterdir() if not path.name.startswith(".")})
            return result

        monkeypatch.setattr(os, name, watched)

    watch("link")
    watch("unlink")
    put(folder_target, [3])
    folder_target.withdraw(UID, 99)
    whole = {TENSORS_FILE, MANIFEST_FILE, CONFIG_FILE}
    assert whole in seen
    assert {TENSORS_FILE, MANIFEST_FILE} in seen
    assert all(names == whole for names in seen if CONFIG_FILE in names)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027])
def test_published_files_are_for_the_group_not_for_all(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        target = FolderTarget(tmp_path / "shared")
        target.open()
        put(target, [3])
    finally:
        os.umask(before)
    for path in [tmp_path / "shared", *(tmp_path / "shared").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def test_a_full_disk_is_tried_again(
    tmp_path: Path, folder_target: FolderTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RetriableError, match=f"{tmp_path}.*No space left"):
            put(folder_target, [3])
        with pytest.raises(FatalError, match="No space left") as caught:
            FolderTarget(tmp_path / "adapters").open()
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    put(folder_target, [3])
    assert folder_target.get(UID, 3) is not None


def test_a_disk_without_room_for_a_new_file_is_pruned_by_this_machines_clock(
    tmp_path: Path, folder_target: FolderTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder_target, [1, 2, 3])
    os.utime(tmp_path / "adapters" / UID / "v000002" / CONFIG_FILE, (0, time.time() - 3601))

    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    folder_target.prune(UID, 1, 3600)
    assert [path.name for path in sorted((tmp_path / "adapters" / UID).iterdir())] == ["v000002", "v000003"]


# --- the publisher on it ----------------------------------------------------------------------------------------------


def test_a_release_is_published_and_old_versions_go(backend: Backend, target: Target) -> None:
    publisher = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=2, keep_seconds=0)
    for version in (1, 2, 3):
        out = publisher.publish(released_state(version))
    assert out is not None
    published = target.get(UID, 3)
    assert published is not None
    assert (out.uid, out.version, out.location) == (UID, 3, published.location)
    assert out.digest == published.manifest["digest"]
    assert {name.split("/")[1] for name in backend.published()} == {"v000002", "v000003"}


def test_i5_a_version_that_is_out_keeps_its_names_of_modules_if_the_model_gets_others(
    backend: Backend, target: Target
) -> None:
    state = released_state(3)
    AdapterPublisher(target, SMALL_LAYOUT, MODEL, 3, 0).publish(state)
    before = backend.published()
    renamed = replace(MODEL, module_names=ModuleNames("block", "model.block"))
    later = AdapterPublisher(target, SMALL_LAYOUT, renamed, 3, 0)
    later.publish(state)
    assert backend.published() == before
    later.publish(released_state(4, module_names=renamed.module_names))
    configs = [json.loads(backend.published()[f"{UID}/v{version:06d}/{CONFIG_FILE}"]) for version in (3, 4)]
    old, new = (config["target_modules"] for config in configs)
    assert new == [f"model.{name}" for name in old]


def test_a_version_that_an_engine_may_still_ask_for_stays(backend: Backend, target: Target) -> None:
    publisher = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=1, keep_seconds=3600)
    for version in (1, 2, 3):
        publisher.publish(released_state(version))
        backend.let_pass(1000)
    assert versions_out(backend) == [1, 2, 3]
    backend.let_pass(1601)  # now 1 was superseded 3,601 seconds ago, 2 not yet
    publisher.publish(released_state(4))
    assert versions_out(backend) == [2, 3, 4]


def test_a_full_disk_is_freed_by_what_is_due_although_nothing_can_be_put(
    backend: Backend, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=1, keep_seconds=3600)
    for version in (1, 2, 3):
        publisher.publish(released_state(version))
    backend.let_pass(3601)

    def full(uid: str, version: int, files: Mapping[str, bytes]) -> str:
        raise RetriableError("No space left on device")

    def away(uid: str, keep_versions: int, keep_seconds: float) -> None:
        raise RetriableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(target, "put", full)
        with pytest.raises(RetriableError, match="No space left"):
            publisher.publish(released_state(4))
        assert versions_out(backend) == [3]
        patch.setattr(target, "prune", away)
        with pytest.raises(RetriableError, match="No space left"):
            publisher.publish(released_state(4))
    publisher.publish(released_state(4))
    assert versions_out(backend) == [3, 4]


def test_versions_of_another_user_that_can_not_be_pruned_do_not_hold_up_this_one(
    backend: Backend, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=1, keep_seconds=0)
    put(target, [1, 2], OTHER_UID)
    prune = target.prune

    def refuse(uid: str, keep_versions: int, keep_seconds: float) -> None:
        if uid == OTHER_UID:
            raise RetriableError("Directory not empty")
        prune(uid, keep_versions, keep_seconds)

    monkeypatch.setattr(target, "prune", refuse)
    with capture_logs() as logs:
        for version in range(1, 5):
            assert publisher.publish(released_state(version)) is not None
    assert {(line["event"], line["uid"], line["problem"]) for line in logs} == {
        ("prune_failed", OTHER_UID, "Directory not empty")
    }
    assert versions_out(backend) == [4]


def test_what_a_quiet_user_left_goes_while_others_publish_also_after_a_restart(
    backend: Backend, target: Target
) -> None:
    quiet = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=1, keep_seconds=3600)
    for version in (1, 2, 3):
        quiet.publish(released_state(version, uid=OTHER_UID))
    quiet.close(0)
    backend.let_pass(3601)
    restarted = AdapterPublisher(backend.connect(), SMALL_LAYOUT, MODEL, keep_versions=1, keep_seconds=3600)
    users = 2
    for version in range(1, users + 3):
        restarted.publish(released_state(version))
    restarted.close(0)
    assert versions_out(backend, OTHER_UID) == [3]
    assert versions_out(backend) == [1, 2, 3, 4]


def test_a_state_without_a_release_publishes_nothing(backend: Backend, target: Target) -> None:
    publisher = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=2, keep_seconds=0)
    assert publisher.publish(UserState(UID)) is None
    assert publisher.publish(tombstone()) is None
    assert not backend.published()


def test_i8_what_a_killed_late_owner_left_of_an_erased_user_goes_while_others_publish(
    backend: Backend, target: Target
) -> None:
    put(target, [3], OTHER_UID)  # by an owner who was killed before it looked at the head again
    heads = {OTHER_UID: Head(3, erased=True, erased_through=3)}
    publisher = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=2, keep_seconds=3600, head=heads.get)
    users = 2
    for version in range(1, users + 3):
        publisher.publish(released_state(version))
    assert versions_out(backend, OTHER_UID) == []
    assert versions_out(backend) == [1, 2, 3, 4]


def test_i8_what_a_late_owner_publishes_after_an_erasure_is_taken_back(backend: Backend, target: Target) -> None:
    head = Head(3, erased=True, erased_through=3)
    publisher = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=2, keep_seconds=0, head=lambda uid: head)
    assert publisher.publish(released_state(3)) is None
    assert not backend.published()


def test_i8_a_late_owner_leaves_nothing_of_before_the_erasure_although_the_user_came_back(
    backend: Backend, target: Target
) -> None:
    head = Head(4, erased=False, erased_through=3)
    late = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=3, keep_seconds=0, head=lambda uid: head)
    put(target, [4])
    assert late.publish(released_state(3)) is None
    assert {name.split("/")[1] for name in backend.published()} == {"v000004"}


def test_i8_what_a_late_owner_that_was_killed_left_goes_with_the_next_publication(
    backend: Backend, target: Target
) -> None:
    put(target, [3])  # by the late owner, killed before it looked at the head
    back = replace(released_state(4), erased_through=3)
    AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=3, keep_seconds=0).publish(back)
    assert {name.split("/")[1] for name in backend.published()} == {"v000004"}


def test_i8_withdrawing_leaves_what_came_after_the_erasure(backend: Backend, target: Target) -> None:
    put(target, [3, 4])
    target.withdraw(UID, 3)
    assert {name.split("/")[1] for name in backend.published()} == {"v000004"}
