"""Tests of the local folder only: kills between any two system calls, full disks, rights, left-over files."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corlld.durable import Attempts, StoreIdentity
from corlld.errors import ConfigurationError, ExitCode, FatalError, LostSwap, RetriableError
from corlld.state.folder_attempts import FolderAttempts
from corlld.state.store import LocalFolderStore
from corlld.system.durable_files import LEFT_OVER_AFTER_SECONDS
from tests.support.bad_disk import refuse
from tests.support.states import OTHER_UID, UID, released_state, same_state, tombstone

IDENTITY = StoreIdentity("fingerprint", "cluster", "group", "model", "revision", "shape")


class Killed(BaseException):
    """Stands for kill -9: nothing that runs on exceptions may rely on it."""


@pytest.fixture
def store(tmp_path: Path) -> LocalFolderStore:
    store = LocalFolderStore(tmp_path)
    store.open(IDENTITY, must_exist=False)
    return store


def _count(monkeypatch: pytest.MonkeyPatch, names: list[str], at: Callable[[int, str], None]) -> None:
    """Call `at` with a running number before each of os's functions `names`."""
    number = 0

    def watch(name: str) -> None:
        real = getattr(os, name)

        def watched(*arguments: object, **keywords: object) -> object:
            nonlocal number
            number += 1
            at(number, name)
            return real(*arguments, **keywords)

        monkeypatch.setattr(os, name, watched)

    for name in names:
        watch(name)


def _calls_of_a_save(tmp_path: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        store = LocalFolderStore(tmp_path / "rehearsal")
        store.open(IDENTITY, must_exist=False)
        token = store.save(UID, released_state(1), "0")
        token = store.save(UID, released_state(2), token)
        calls = 0

        def count(number: int, name: str) -> None:
            nonlocal calls
            calls = number

        _count(patch, SYSTEM_CALLS, count)
        store.save(UID, released_state(3), token)
    return calls


SYSTEM_CALLS = ["open", "fsync", "link", "unlink"]


def test_a_kill_before_any_system_call_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    calls = _calls_of_a_save(tmp_path)
    assert calls >= 7  # open, fsync, link, unlink, open and fsync of the folder, unlink of the oldest
    outcomes = []
    for killed_at in range(1, calls + 1):
        folder = tmp_path / str(killed_at)
        store = LocalFolderStore(folder)
        store.open(IDENTITY, must_exist=False)
        token = store.save(UID, released_state(1), "0")
        token = store.save(UID, released_state(2), token)

        def kill(number: int, name: str, killed_at: int = killed_at) -> None:
            if number >= killed_at:  # nor does anything run afterwards
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            _count(patch, SYSTEM_CALLS, kill)
            with pytest.raises(Killed):
                store.save(UID, released_state(3), token)
        restarted = LocalFolderStore(folder)
        restarted.open(IDENTITY, must_exist=True)
        state, token = restarted.load(UID)
        assert state is not None
        assert same_state(state, released_state(state.version))
        outcomes.append(state.version)
        restarted.save(UID, released_state(state.version + 1), token)
        assert restarted.load(UID)[0] is not None
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {2, 3}


def test_a_power_loss_finds_content_durable_before_its_name_and_the_name_before_the_generation_before_goes(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not made durable may be gone after a power loss, in any order."""
    users = tmp_path / "users"
    done: list[str] = []
    fsync, link, unlink = os.fsync, os.link, os.unlink

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(f"durable {'content' if path.is_file() else path.relative_to(tmp_path)}")

    def noted(what: str, call: Callable[..., None]) -> Callable[..., None]:
        def called(path: Path, *rest: Path) -> None:
            call(path, *rest)
            done.append(f"{what} {[each.name for each in (path, *rest) if each.parent.parent == users]}")

        return called

    token = store.save(UID, released_state(1), "0")
    token = store.save(UID, released_state(2), token)
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted("named", link))
    monkeypatch.setattr(os, "unlink", noted("removed", unlink))
    store.save(UID, released_state(3), token)
    assert [step for step in done if step != "removed []"] == [
        "durable content",
        f"named ['{3:012d}.safetensors']",
        f"durable users/{UID}",
        f"removed ['{1:012d}.safetensors']",
    ]
    done.clear()
    store.save(OTHER_UID, released_state(1, uid=OTHER_UID), "0")
    assert done.index("durable users") < done.index(f"named ['{1:012d}.safetensors']")


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fails_anywhere_in_a_save_is_tried_again_and_nothing_is_doubled(
    tmp_path: Path, problem: int
) -> None:
    calls = _calls_of_a_save(tmp_path)
    for failing in range(1, calls + 1):
        folder = tmp_path / f"{problem}-{failing}"
        store = LocalFolderStore(folder)
        store.open(IDENTITY, must_exist=False)
        token = store.save(UID, released_state(1), "0")
        token = store.save(UID, released_state(2), token)

        def fail(number: int, name: str, failing: int = failing) -> None:
            if number == failing:
                raise OSError(problem, os.strerror(problem), "/a/name")

        with pytest.MonkeyPatch.context() as patch:
            _count(patch, SYSTEM_CALLS, fail)
            if failing == calls:  # it removes the oldest generation: the new one is durable
                store.save(UID, released_state(3), token)
                assert len(list((folder / "users" / UID).iterdir())) == 3
            else:
                with pytest.raises(RetriableError, match=str(folder)) as caught:
                    store.save(UID, released_state(3), token)
                assert UID not in str(caught.value)
        with contextlib.suppress(LostSwap):  # it had taken effect: the loop loads again, and finds its events covered
            store.save(UID, released_state(3), token)
        state, _ = store.load(UID)
        assert state is not None
        assert same_state(state, released_state(3))


def test_what_is_loaded_is_made_durable_first(store: LocalFolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill may have come between the link and its fsync; offsets are committed on the strength of a load."""
    store.save(UID, released_state(3), "0")
    calls: list[str] = []
    _count(monkeypatch, ["fsync"], lambda number, name: calls.append(name))
    store.load(UID)
    assert calls == ["fsync", "fsync"]  # the user's folder, and the one that it lies in


def test_the_generation_before_repairs_a_torn_state(store: LocalFolderStore, tmp_path: Path) -> None:
    token = store.save(UID, released_state(3), "0")
    store.save(UID, released_state(4), token)
    newest = tmp_path / "users" / UID / f"{2:012d}.safetensors"
    newest.rename(tmp_path / "moved-away")
    state, token = store.load(UID)
    assert state is not None
    assert same_state(state, released_state(3))
    store.save(UID, released_state(4), token)


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_states_are_for_the_daemon_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = LocalFolderStore(tmp_path / "made" / "state")
        store.open(IDENTITY, must_exist=False)
        store.save(UID, released_state(3), "0")
        store.save_position("ab", {"next_offset": 1})
    finally:
        os.umask(before)
    made = [tmp_path / "made" / "state", *(tmp_path / "made" / "state").rglob("*")]
    assert len(made) == 9, made  # four folders and the user's, store.json, a generation, a position
    for path in made:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    # What lies above may hold the adapters too, which have other readers.
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o750 & ~umask


def test_left_over_files_go_once_they_are_old(store: LocalFolderStore, tmp_path: Path) -> None:
    live, old = (tmp_path / "temporary" / f"{UID}-{name}" for name in ("live", "old"))
    live.write_bytes(b"being written by another daemon")
    old.write_bytes(b"left by a kill")
    then = time.time() - LEFT_OVER_AFTER_SECONDS - 1
    os.utime(old, (then, then))
    LocalFolderStore(tmp_path).open(IDENTITY, must_exist=True)
    assert live.exists()
    assert not old.exists()


def test_left_overs_beside_store_json_and_of_positions_and_attempts_go_once_they_are_old(
    store: LocalFolderStore, tmp_path: Path
) -> None:
    FolderAttempts(tmp_path).save_attempts("edits/0", Attempts())
    store.save_position("ab", {"offset": 1})
    then = time.time() - LEFT_OVER_AFTER_SECONDS - 1
    kept = sorted(tmp_path.rglob("*"))
    for file in (path for path in kept if path.is_file()):
        os.utime(file, (then, then))
    for folder in ("", "positions", "attempts"):
        old = tmp_path / folder / f".{16 * 'a'}.tmp"
        old.write_bytes(b"left by a kill")
        os.utime(old, (then, then))
        live = tmp_path / folder / f".{16 * 'b'}.tmp"
        live.write_bytes(b"being written by another daemon")
        kept.append(live)
    LocalFolderStore(tmp_path).open(IDENTITY, must_exist=True)
    assert sorted(tmp_path.rglob("*")) == sorted(kept), "and nothing else goes, however old"


@pytest.mark.parametrize("name", ["", "positions", "attempts"])
def test_a_folder_that_can_not_be_listed_does_not_stop_the_start_over_left_overs(
    store: LocalFolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    FolderAttempts(tmp_path).save_attempts("edits/0", Attempts())
    refuse(monkeypatch, [tmp_path / name], ["iterdir"])
    opened = LocalFolderStore(tmp_path)
    opened.open(IDENTITY, must_exist=True)
    opened.save(UID, released_state(3), "0")


def test_i8_a_tombstone_removes_what_kills_left_of_the_user(store: LocalFolderStore, tmp_path: Path) -> None:
    left_over = tmp_path / "temporary" / f"{UID}-left"
    left_over.write_bytes(b"personal")
    other = tmp_path / "temporary" / "another-user"
    other.write_bytes(b"kept")
    store.save(UID, tombstone(), "0")
    assert not left_over.exists()
    assert other.exists()


def test_a_store_on_a_network_filesystem_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"30 22 0:40 / {tmp_path} rw - nfs4 server:/export rw\n")
    monkeypatch.setattr("corlld.state.mounts._MOUNTS", mounts)
    with pytest.raises(ConfigurationError, match=r"network filesystem \(nfs4\)"):
        LocalFolderStore(tmp_path / "state").open(IDENTITY, must_exist=False)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("problem", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_shows_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    def fail(number: int, name: str) -> None:
        raise OSError(problem, os.strerror(problem))

    _count(monkeypatch, ["fsync"], fail)
    with pytest.raises(FatalError, match=f"{tmp_path}.*{os.strerror(problem)}") as caught:
        LocalFolderStore(tmp_path / "state").open(IDENTITY, must_exist=False)
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def test_a_file_in_place_of_the_folder_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    with pytest.raises(FatalError, match="Not a directory") as caught:
        LocalFolderStore(tmp_path / "state").open(IDENTITY, must_exist=False)
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def test_a_corrupt_store_file_or_position_is_never_started_afresh(store: LocalFolderStore, tmp_path: Path) -> None:
    store.save_position("ab", {"next_offset": 1})
    (tmp_path / "positions" / "ab.json").write_text("")
    with pytest.raises(FatalError, match="corrupt"):
        store.load_position("ab")
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(ConfigurationError, match="corrupt"):
        LocalFolderStore(tmp_path).open(IDENTITY, must_exist=True)


def test_a_user_whose_folder_can_not_be_listed_hides_no_others(store: LocalFolderStore, tmp_path: Path) -> None:
    store.save(UID, released_state(1), "0")
    odd = "0" * 32
    (tmp_path / "users" / odd).write_text("not a folder")
    assert list(store.uids()) == [odd, UID]
    with pytest.raises(RetriableError, match="Not a directory"):
        store.head(odd)
