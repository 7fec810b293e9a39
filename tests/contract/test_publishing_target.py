"""What every publishing target promises: versions are whole, immutable and numbered upwards (I5)."""

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from corlld.errors import ExitCode, FatalError, RetriableError
from corlld.publishing.folder import FolderTarget
from corlld.publishing.peft_format import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE, adapter_files
from corlld.publishing.publisher import AdapterPublisher
from corlld.records import Head, ModelInfo, UserState
from tests.support.states import OTHER_UID, SMALL_LAYOUT, UID, released_state, tombstone

MODEL = ModelInfo("served/name", "r1", "fingerprint", supports_messages=False)


class Backend:
    """Makes views of one target, and reaches behind it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def connect(self) -> FolderTarget:
        return FolderTarget(self._folder)

    def published(self) -> dict[str, bytes]:
        return {str(p.relative_to(self._folder)): p.read_bytes() for p in self._folder.rglob("*") if p.is_file()}

    def overwrite(self, name: str, data: bytes) -> None:
        (self._folder / name).write_bytes(data)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink()


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return Backend(tmp_path / "adapters")


@pytest.fixture
def target(backend: Backend) -> FolderTarget:
    return backend.connect()


def files_of(version: int, uid: str = UID) -> dict[str, bytes]:
    return adapter_files(released_state(version, uid=uid), SMALL_LAYOUT, MODEL)


def put(target: FolderTarget, versions: Iterable[int], uid: str = UID) -> None:
    for version in versions:
        target.put(uid, version, files_of(version, uid))


def test_a_version_is_out_whole_and_under_its_name(backend: Backend, target: FolderTarget) -> None:
    put(target, [3])
    assert backend.published() == {f"{UID}/v000003/{name}": data for name, data in files_of(3).items()}
    published = target.get(UID, 3)
    assert published is not None
    assert published.manifest == json.loads(files_of(3)[MANIFEST_FILE])
    assert published.location.endswith(f"{UID}/v000003")


def test_what_is_not_out_is_not_found(target: FolderTarget) -> None:
    put(target, [3])
    assert target.get(UID, 4) is None
    assert target.get(OTHER_UID, 3) is None


def test_i5_a_version_put_twice_stays_as_it_is(backend: Backend, target: FolderTarget) -> None:
    put(target, [3])
    before = backend.published()
    put(backend.connect(), [3])
    assert backend.published() == before


@pytest.mark.parametrize("name", [TENSORS_FILE, MANIFEST_FILE, CONFIG_FILE])
def test_i5_other_content_under_the_same_number_is_an_alarm_and_not_overwritten(
    backend: Backend, target: FolderTarget, name: str
) -> None:
    put(target, [3])
    backend.overwrite(f"{UID}/v000003/{name}", b"something else")
    if name != MANIFEST_FILE:
        backend.remove(f"{UID}/v000003/{MANIFEST_FILE}")  # as a kill would: then everything is compared
    with pytest.raises(FatalError, match=f"integrity alarm: version 3 of {UID}: {name}") as caught:
        put(target, [3])
    assert caught.value.exit_code == ExitCode.INTERNAL
    assert backend.published()[f"{UID}/v000003/{name}"] == b"something else"


@pytest.mark.parametrize("there", [[], [TENSORS_FILE], [TENSORS_FILE, MANIFEST_FILE]])
def test_i5_a_version_that_a_kill_left_half_done_is_not_out_and_is_completed(
    backend: Backend, target: FolderTarget, there: list[str]
) -> None:
    put(target, [3])
    for name in files_of(3):
        if name not in there:
            backend.remove(f"{UID}/v000003/{name}")
    assert target.get(UID, 3) is None
    put(target, [3])
    assert backend.published() == {f"{UID}/v000003/{name}": data for name, data in files_of(3).items()}


def test_only_the_newest_versions_stay(backend: Backend, target: FolderTarget) -> None:
    put(target, [8, 9, 10, 11])
    put(target, [4], OTHER_UID)
    target.prune(UID, 2)
    assert {name.rpartition("/")[0] for name in backend.published()} == {
        f"{UID}/v000010",
        f"{UID}/v000011",
        f"{OTHER_UID}/v000004",
    }


def test_the_newest_version_is_never_pruned_also_past_six_digits(target: FolderTarget) -> None:
    put(target, [999_999, 1_000_000])
    target.prune(UID, 1)
    assert target.get(UID, 999_999) is None
    assert target.get(UID, 1_000_000) is not None


def test_i8_a_withdrawn_user_leaves_nothing(backend: Backend, target: FolderTarget) -> None:
    put(target, [3, 4])
    put(target, [4], OTHER_UID)
    backend.remove(f"{UID}/v000003/{CONFIG_FILE}")  # a half-pruned one
    target.withdraw(UID, 99)
    target.withdraw(UID, 99)
    assert all(name.startswith(OTHER_UID) for name in backend.published())
    put(target, [5])
    assert target.get(UID, 5) is not None


# --- the local folder's own -------------------------------------------------------------------------------------------


def test_a_version_that_is_out_is_not_read_again(
    backend: Backend, target: FolderTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(target, [3])
    read: list[str] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or real(path))
    put(target, [3])
    assert read == [MANIFEST_FILE]


def test_the_config_appears_last_and_goes_first(
    tmp_path: Path, target: FolderTarget, monkeypatch: pytest.MonkeyPatch
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
    put(target, [3])
    target.withdraw(UID, 99)
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


def test_a_full_disk_is_tried_again(tmp_path: Path, target: FolderTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RetriableError, match=f"{tmp_path}.*No space left"):
            put(target, [3])
        with pytest.raises(FatalError, match="No space left") as caught:
            FolderTarget(tmp_path / "adapters").open()
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
    put(target, [3])
    assert target.get(UID, 3) is not None


# --- the publisher on it ----------------------------------------------------------------------------------------------


def test_a_release_is_published_and_old_versions_go(backend: Backend, target: FolderTarget) -> None:
    publisher = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=2)
    for version in (1, 2, 3):
        out = publisher.publish(released_state(version))
    assert out is not None
    published = target.get(UID, 3)
    assert published is not None
    assert (out.uid, out.version, out.location) == (UID, 3, published.location)
    assert out.digest == published.manifest["digest"]
    assert {name.split("/")[1] for name in backend.published()} == {"v000002", "v000003"}


def test_a_state_without_a_release_publishes_nothing(backend: Backend, target: FolderTarget) -> None:
    publisher = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=2)
    assert publisher.publish(UserState(UID)) is None
    assert publisher.publish(tombstone()) is None
    assert not backend.published()


def test_i8_what_a_late_owner_publishes_after_an_erasure_is_taken_back(backend: Backend, target: FolderTarget) -> None:
    head = Head(3, erased=True, erased_through=3)
    publisher = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=2, head=lambda uid: head)
    assert publisher.publish(released_state(3)) is None
    assert not backend.published()


def test_i8_a_late_owner_leaves_nothing_of_before_the_erasure_although_the_user_came_back(
    backend: Backend, target: FolderTarget
) -> None:
    head = Head(4, erased=False, erased_through=3)
    late = AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=3, head=lambda uid: head)
    put(target, [4])
    assert late.publish(released_state(3)) is None
    assert {name.split("/")[1] for name in backend.published()} == {"v000004"}


def test_i8_what_a_late_owner_that_was_killed_left_goes_with_the_next_publication(
    backend: Backend, target: FolderTarget
) -> None:
    put(target, [3])  # by the late owner, killed before it looked at the head
    back = replace(released_state(4), erased_through=3)
    AdapterPublisher(target, SMALL_LAYOUT, MODEL, keep_versions=3).publish(back)
    assert {name.split("/")[1] for name in backend.published()} == {"v000004"}


def test_i8_withdrawing_leaves_what_came_after_the_erasure(backend: Backend, target: FolderTarget) -> None:
    put(target, [3, 4])
    target.withdraw(UID, 3)
    assert {name.split("/")[1] for name in backend.published()} == {"v000004"}
