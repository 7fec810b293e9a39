"""Every state store keeps its promises: compare-and-swap, nothing stale ever wins, nothing torn is taken for new."""

import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Protocol

import pytest
import structlog

from corlld.durable import Head, StoreIdentity, UserState
from corlld.errors import ConfigurationError, ExitCode, LostSwap, NewerFormat, RetriableError, StateUnreadable
from corlld.state.object_store import ObjectStore
from corlld.state.snapshot import Moments
from corlld.state.store import LocalFolderStore
from corlld.state.store_format import FORMAT
from tests.support import format_1
from tests.support.newer_format import NEWER, newer_program
from tests.support.s3 import Bucket, new_bucket_name
from tests.support.states import OTHER_UID, SMALL_LAYOUT, UID, released_state, same_state, tombstone

IDENTITY = StoreIdentity("fingerprint", "cluster", "group", "model", "revision", "shape")


Store = LocalFolderStore | ObjectStore


class Backend(Protocol):
    """Makes views of one store, as other processes have them, and reaches behind it."""

    def connect(self, moments: Moments = "float32") -> Store: ...

    def stored(self) -> dict[str, bytes]: ...

    def overwrite(self, name: str, data: bytes) -> None: ...

    def remove(self, name: str) -> None: ...


class Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def connect(self, moments: Moments = "float32") -> Store:
        return LocalFolderStore(self._folder, moments)

    def stored(self) -> dict[str, bytes]:
        return {str(p.relative_to(self._folder)): p.read_bytes() for p in self._folder.rglob("*") if p.is_file()}

    def overwrite(self, name: str, data: bytes) -> None:
        (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_bytes(data)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink()


class S3(Bucket):
    def connect(self, moments: Moments = "float32") -> Store:
        return ObjectStore(self.url, moments=moments)


@pytest.fixture(params=["folder", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "folder":
        return Folder(tmp_path / "state")
    request.getfixturevalue("s3")
    return S3(new_bucket_name())


@pytest.fixture
def store(backend: Backend) -> Store:
    return opened(backend)


def opened(backend: Backend) -> Store:
    store = backend.connect()
    store.open(IDENTITY, must_exist=False)
    return store


def state_files(backend: Backend, uid: str = UID) -> list[str]:
    return sorted(name for name in backend.stored() if f"/{uid}" in f"/{name}" and not name.endswith(".json"))


# --- load and save ----------------------------------------------------------------------------------------------------


def test_moments_are_written_as_asked_for_and_read_whatever_is_asked_for_now(backend: Backend) -> None:
    asked: dict[str, Moments] = {UID: "float32", OTHER_UID: "bfloat16"}
    for uid, moments in asked.items():
        writer = backend.connect(moments)
        writer.open(IDENTITY, must_exist=False)
        writer.save(uid, released_state(uid=uid), "0")
    nbytes = {uid: sum(len(data) for name, data in backend.stored().items() if uid in name) for uid in asked}
    assert nbytes[UID] - nbytes[OTHER_UID] > 3 * SMALL_LAYOUT.size, "two bytes for each of two moments"
    for moments in asked.values():
        reader = backend.connect(moments)
        exact, _ = reader.load(UID)
        rounded, _ = reader.load(OTHER_UID)
        assert exact is not None
        assert rounded is not None
        assert same_state(exact, released_state())
        assert not same_state(rounded, released_state(uid=OTHER_UID))
        assert replace(rounded, adapter=None) == replace(released_state(uid=OTHER_UID), adapter=None)


def test_a_user_without_a_state_is_new(store: Store) -> None:
    assert store.load(UID) == (None, "0")
    assert store.head(UID) is None
    assert list(store.uids()) == []


def test_what_was_saved_is_loaded_also_by_another_process(backend: Backend, store: Store) -> None:
    token = store.save(UID, released_state(3), "0")
    state, loaded_token = opened(backend).load(UID)
    assert state is not None
    assert same_state(state, released_state(3))
    assert loaded_token == token


def test_it_is_known_when_a_state_was_stored(store: Store) -> None:
    before = time.time()
    assert store.stored_at(UID) is None
    token = store.save(UID, released_state(1), "0")
    first = store.stored_at(UID)
    store.save(UID, released_state(2), token)
    second = store.stored_at(UID)
    assert first is not None
    assert second is not None
    assert before - 2 <= first <= second <= time.time() + 2  # clocks of files and buckets are coarse


def test_a_chain_of_saves_goes_on_from_token_to_token(store: Store) -> None:
    token = "0"
    for version in range(1, 6):
        token = store.save(UID, released_state(version), token)
    state, newest = store.load(UID)
    assert newest == token
    assert state is not None
    assert same_state(state, released_state(5))


def test_users_do_not_meet(store: Store) -> None:
    store.save(UID, released_state(3), "0")
    store.save(OTHER_UID, released_state(8, uid=OTHER_UID), "0")
    assert store.head(UID) == Head(3, erased=False)
    assert store.head(OTHER_UID) == Head(8, erased=False)
    assert list(store.uids()) == sorted([UID, OTHER_UID])


def test_only_a_uid_can_name_a_state(store: Store) -> None:
    for name in ("../../etc", "u1", UID.upper(), UID + "\n"):
        with pytest.raises(ValueError, match="32 hex digits"):
            store.load(name)


# --- compare and swap (I6) --------------------------------------------------------------------------------------------


def test_i6_a_stale_owner_never_overwrites_newer_state(backend: Backend, store: Store) -> None:
    """However far the others have moved on: the number after a stale token may be free again by then."""
    stale = opened(backend)
    tokens = ["0"]
    for version in range(1, 8):
        tokens.append(store.save(UID, released_state(version), tokens[-1]))
    for token in tokens[:-1]:
        with pytest.raises(LostSwap):
            stale.save(UID, released_state(99), token)
        assert store.load(UID)[1] == tokens[-1]
    state, _ = store.load(UID)
    assert state is not None
    assert same_state(state, released_state(7))
    assert store.save(UID, released_state(8), tokens[-1]) not in tokens


def test_of_racing_owners_exactly_one_wins_each_round(backend: Backend) -> None:
    owners = [opened(backend) for _ in range(4)]
    start = threading.Barrier(len(owners), timeout=10)

    def race(owner: int, version: int, token: str) -> str | None:
        start.wait()
        try:
            return owners[owner].save(UID, released_state(version, seed=owner), token)
        except LostSwap:
            return None

    token = "0"
    with ThreadPoolExecutor(len(owners)) as pool:
        for version in range(1, 9):
            races = [pool.submit(race, owner, version, token) for owner in range(len(owners))]
            [(winner, won)] = [(owner, new) for owner, run in enumerate(races) if (new := run.result()) is not None]
            state, token = owners[0].load(UID)
            assert token == won
            assert state is not None
            assert same_state(state, released_state(version, seed=winner))


def test_the_generation_before_is_kept_and_older_ones_are_not(backend: Backend, store: Store) -> None:
    token = "0"
    kept = []
    for version in range(1, 5):
        token = store.save(UID, released_state(version), token)
        kept.append(len(state_files(backend)))
    assert kept == [1, 2, 2, 2]


# --- erasure (I8) -----------------------------------------------------------------------------------------------------


def test_i8_beside_a_tombstone_no_generation_is_left(backend: Backend, store: Store) -> None:
    token = "0"
    for version in range(1, 4):
        token = store.save(UID, released_state(version), token)
    assert any(b"event-one" in data for data in backend.stored().values())
    token = store.save(UID, tombstone(3), token)
    assert store.load(UID) == (tombstone(3), token)
    assert store.head(UID) == Head(3, erased=True, erased_through=3)
    assert list(store.uids()) == [UID]
    assert len(state_files(backend)) == 1
    assert not any(b"event-one" in data for name, data in backend.stored().items() if UID in name)


@pytest.fixture
def left_by_a_kill(backend: Backend, store: Store) -> set[str]:
    """The names of what a kill left beside the tombstone of the user."""
    token = store.save(UID, released_state(2), "0")
    token = store.save(UID, released_state(3), token)
    before = {name: data for name, data in backend.stored().items() if UID in name}
    store.save(UID, tombstone(3), token)
    removed = set(before) - set(backend.stored())
    assert removed
    for name in removed:
        backend.overwrite(name, before[name])
    return removed


def test_i8_what_a_kill_left_beside_a_tombstone_goes_with_the_next_load(
    backend: Backend, store: Store, left_by_a_kill: set[str]
) -> None:
    _, token = store.load(UID)
    assert len(state_files(backend)) == 1
    assert store.left_of_erased(tombstone(3), token) == []


def test_i8_who_only_reads_is_told_what_a_kill_left_and_removes_nothing(
    backend: Backend, left_by_a_kill: set[str]
) -> None:
    reader, before = backend.connect(), backend.stored()
    _, token = reader.load(UID)
    left = reader.left_of_erased(tombstone(3), token)
    assert {Path(file).name for file in left} == {Path(name).name for name in left_by_a_kill}
    assert backend.stored() == before


def test_a_user_comes_back_after_an_erasure(store: Store) -> None:
    token = store.save(UID, tombstone(3), "0")
    token = store.save(UID, replace(tombstone(3), erased=False), token)
    assert store.head(UID) == Head(3, erased=True, erased_through=3)  # nothing to announce yet
    store.save(UID, released_state(4), token)
    assert store.head(UID) == Head(4, erased=False)


# --- torn states ------------------------------------------------------------------------------------------------------


def _newest(backend: Backend, before: dict[str, bytes]) -> str:
    """The object that changed last: the newest generation."""
    [name] = [name for name, data in backend.stored().items() if before.get(name) != data and b'version\\":4' in data]
    return name


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: d[:-1] + b"\x55"])
def test_a_torn_state_is_unreadable_for_ever_and_never_passed_over(
    backend: Backend, store: Store, damage: Callable[[bytes], bytes]
) -> None:
    token = store.save(UID, released_state(3), "0")
    before = backend.stored()
    store.save(UID, released_state(4), token)
    name = _newest(backend, before)
    torn = damage(backend.stored()[name])
    backend.overwrite(name, torn)
    for _ in range(2):
        with pytest.raises(StateUnreadable, match="state repair"):
            store.load(UID)
    assert backend.stored()[name] == torn
    assert list(store.uids()) == [UID]


@pytest.mark.parametrize(
    ("cluster", "is_mended", "advice"),
    [
        ("cluster", True, "`corlld state repair` mends it"),
        (
            "jsonl",
            False,
            "; the input file is not read again by itself: first stop the daemon, then put .*, "
            "then append the user's lines .*, and start the daemon",
        ),
    ],
)
def test_what_mends_a_torn_state_depends_on_the_input(
    backend: Backend, cluster: str, is_mended: bool, advice: str
) -> None:
    """A file is not read again: `state repair` can't send what the generation before lacks."""
    writer = backend.connect()
    writer.open(replace(IDENTITY, cluster_id=cluster), must_exist=False)
    writer.save(UID, released_state(3), "0")
    [name] = state_files(backend)
    backend.overwrite(name, backend.stored()[name][:100])
    for reader in (writer, backend.connect()):
        with pytest.raises(StateUnreadable) as unreadable:
            reader.load(UID)
        assert re.search(advice, str(unreadable.value))
        assert ("state repair" in str(unreadable.value)) == is_mended


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"cluster_id": 3}'])
def test_a_torn_state_stays_the_trouble_of_its_user_whatever_the_store_file_holds(
    backend: Backend, store: Store, content: bytes | None
) -> None:
    store.save(UID, released_state(3), "0")
    [name] = state_files(backend)
    backend.overwrite(name, backend.stored()[name][:100])
    backend.remove("store.json") if content is None else backend.overwrite("store.json", content)
    with pytest.raises(StateUnreadable):
        store.load(UID)


# --- repairs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def torn_token(backend: Backend, store: Store) -> str:
    """Leave version 3 as the generation before, and version 4 torn. The token of version 4."""
    token = store.save(UID, released_state(2), "0")
    token = store.save(UID, released_state(3), token)
    before = backend.stored()
    store.save(UID, released_state(4), token)
    name = _newest(backend, before)
    backend.overwrite(name, backend.stored()[name][:-3])
    return store.newest_token(UID)


def found_before(store: Store) -> UserState:
    found, _ = store.previous(UID)
    assert found is not None
    return found


def test_a_repair_that_is_broken_off_leaves_the_generation_before_as_it_is(
    backend: Backend, store: Store, torn_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr("os.link", fail)
        patch.setattr("obstore.put", fail)
        with pytest.raises((RetriableError, OSError)):
            store.restore(UID, found_before(store), torn_token)
    assert store.previous(UID)[1] == torn_token
    assert same_state(found_before(store), released_state(3))
    token = store.restore(UID, found_before(store), torn_token)
    state, loaded = opened(backend).load(UID)
    assert state is not None
    assert same_state(state, released_state(3))
    assert loaded == token


def test_a_restored_state_has_a_sound_generation_before_it_and_saves_go_on(
    backend: Backend, store: Store, torn_token: str
) -> None:
    token = store.restore(UID, found_before(store), torn_token)
    assert same_state(found_before(store), released_state(3))
    assert len(state_files(backend)) == 2
    store.save(UID, released_state(5), token)
    assert same_state(found_before(store), released_state(3))
    assert len(state_files(backend)) == 2


def test_of_two_repairs_at_once_the_later_one_is_lost(backend: Backend, store: Store, torn_token: str) -> None:
    token = opened(backend).restore(UID, found_before(store), torn_token)
    store.save(UID, released_state(5), token)
    with pytest.raises(LostSwap):
        store.restore(UID, released_state(3), torn_token)
    state, _ = store.load(UID)
    assert state is not None
    assert same_state(state, released_state(5))


def test_i8_beside_a_restored_tombstone_no_generation_is_left(backend: Backend, store: Store, torn_token: str) -> None:
    token = store.restore(UID, tombstone(3), torn_token)
    assert store.load(UID) == (tombstone(3), token)
    assert len(state_files(backend)) == 1


def test_a_restored_state_raises_the_format_of_the_store(store_of_format_1: Backend) -> None:
    uid = format_1.STATES["released"].uid
    store = opened_again(store_of_format_1)
    store.restore(uid, format_1.STATES["released"], store.newest_token(uid))
    assert json.loads(store_of_format_1.stored()["store.json"])["format"] == FORMAT


def test_a_store_that_was_not_opened_is_read_and_never_written(backend: Backend, store: Store) -> None:
    """Else a state in today's format could lie in a store whose file still names an older one."""
    token = store.save(UID, released_state(3), "0")
    before, reader = backend.stored(), backend.connect()
    assert reader.newest_token(UID) == token
    assert reader.newest_token(OTHER_UID) == "0"
    for write in (reader.save, reader.restore):
        with pytest.raises(RuntimeError, match="only an opened store"):
            write(UID, released_state(4), token)
    assert backend.stored() == before


def test_a_state_from_an_older_backup_is_not_taken_for_an_erased_user(store: Store) -> None:
    """It has the number of the newest version that is out, and no release: what is out must not be withdrawn."""
    token = store.save(UID, replace(released_state(3), version=5, release=None), "0")
    assert store.head(UID) == Head(5, erased=False)
    store.save(UID, replace(released_state(3), version=5, release=None, erased_through=2), token)
    assert store.head(UID) == Head(5, erased=False, erased_through=2)


# --- older formats ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store_of_format_1(backend: Backend) -> Backend:
    file = f"{1:012d}.safetensors" if isinstance(backend, Folder) else "state.safetensors"
    backend.overwrite("store.json", format_1.STORE_FILE)
    for name, state in format_1.STATES.items():
        backend.overwrite(f"users/{state.uid}/{file}", format_1.state_file(name))
    return backend


def test_a_store_of_format_1_is_read_as_it_is_and_changes_with_the_first_state_that_is_stored(
    store_of_format_1: Backend,
) -> None:
    before = store_of_format_1.stored()
    store = store_of_format_1.connect()
    store.open(format_1.IDENTITY, must_exist=True)
    tokens = {}
    for state in format_1.STATES.values():
        found, tokens[state.uid] = store.load(state.uid)
        assert found is not None
        assert same_state(found, state)
        head = store.head(state.uid)
        assert head is not None
        assert head.version == state.version
    assert store_of_format_1.stored() == before
    first, *others = format_1.STATES.values()
    store.save(first.uid, replace(first, version=4), tokens[first.uid])
    raised = json.loads(store_of_format_1.stored()["store.json"])
    assert raised == {**json.loads(format_1.STORE_FILE), "format": FORMAT}
    for state in (replace(first, version=4), *others):
        found, _ = opened_again(store_of_format_1).load(state.uid)
        assert found is not None
        assert same_state(found, state)


def opened_again(backend: Backend) -> Store:
    store = backend.connect()
    store.open(format_1.IDENTITY, must_exist=True)
    return store


def test_the_program_of_format_1_refuses_the_store_once_a_state_was_stored_and_not_before(
    store_of_format_1: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would pass over the fields that it does not know, and lose them with the next state."""

    def old_program_opens() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("corlld.state.store_format.FORMAT", 1)
            opened_again(store_of_format_1)

    store = opened_again(store_of_format_1)
    old_program_opens()
    store.save(OTHER_UID, released_state(1, uid=OTHER_UID), "0")
    with pytest.raises(NewerFormat, match=rf"store\.json is in format {FORMAT}, .* knows formats up to 1\.") as refused:
        old_program_opens()
    assert refused.value.exit_code is ExitCode.CONFIGURATION


# --- newer formats ----------------------------------------------------------------------------------------------------


def test_a_store_in_a_newer_format_is_refused_at_its_opening(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        newer_program(patch)
        opened(backend)
    before = backend.stored()
    older = backend.connect()
    with pytest.raises(
        NewerFormat, match=rf"store\.json is in format {NEWER}, .* Use the newer corlld again"
    ) as refused:
        older.open(IDENTITY, must_exist=True)
    assert refused.value.exit_code is ExitCode.CONFIGURATION
    with pytest.raises(NewerFormat):
        older.secret_fingerprint()
    assert backend.stored() == before


def test_a_newer_program_raises_the_format_of_the_store_before_it_writes_a_state_and_no_earlier(
    backend: Backend, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(UID, released_state(3), "0")
    was = json.loads(backend.stored()["store.json"])
    with monkeypatch.context() as patch:
        newer_program(patch)
        newer = opened(backend)
        newer.load(OTHER_UID)
        assert json.loads(backend.stored()["store.json"]) == was
    opened(backend)
    with monkeypatch.context() as patch:
        newer_program(patch)
        with pytest.raises(LostSwap):  # no state is written, and the format is raised already
            newer.save(UID, released_state(4), "0")
    assert json.loads(backend.stored()["store.json"]) == {**was, "format": NEWER}
    with pytest.raises(NewerFormat):
        backend.connect().open(IDENTITY, must_exist=True)


def test_a_store_that_went_away_gets_no_new_store_file(
    backend: Backend, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer_program(monkeypatch)
    newer = opened(backend)
    backend.remove("store.json")
    with pytest.raises(RetriableError, match=r"store\.json is not there"):
        newer.save(UID, released_state(3), "0")
    assert backend.stored() == {}


def test_a_state_in_a_newer_format_is_never_taken_for_a_torn_one(
    backend: Backend, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a rolling upgrade: the older program had opened the store before."""
    with monkeypatch.context() as patch:
        newer_program(patch)
        opened(backend).save(UID, released_state(3), "0")
    for read in (store.load, store.head, store.load_header):
        with pytest.raises(NewerFormat, match=f"state of user {UID} is in format {NEWER}"):
            read(UID)


def test_a_flipped_bit_in_a_states_format_stays_the_trouble_of_its_user(backend: Backend, store: Store) -> None:
    store.save(UID, released_state(3), "0")
    [name] = state_files(backend)
    data = backend.stored()[name]
    backend.overwrite(name, data.replace(f'format\\":{FORMAT}'.encode(), b'format\\":9'))
    for read in (store.load, store.head, store.load_header):
        with pytest.raises(StateUnreadable, match="state repair"):
            read(UID)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"format": "1"}', b'{"format": 0}'])
def test_a_corrupt_store_file_is_refused(backend: Backend, store: Store, content: bytes) -> None:
    backend.overwrite("store.json", content)
    with pytest.raises(ConfigurationError, match=r"store\.json is corrupt"):
        backend.connect().open(IDENTITY, must_exist=True)


# --- whom the store belongs to ----------------------------------------------------------------------------------------


def test_a_store_opens_again_for_the_same_settings(backend: Backend, store: Store) -> None:
    store.save(UID, released_state(3), "0")
    again = backend.connect()
    again.open(IDENTITY, must_exist=True)
    assert again.head(UID) == Head(3, erased=False)


@pytest.mark.parametrize("field", [each.name for each in fields(StoreIdentity) if each.name != "start_adapter"])
def test_a_store_of_other_settings_is_refused_by_what_differs(backend: Backend, store: Store, field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        backend.connect().open(replace(IDENTITY, **{field: "another"}), must_exist=True)
    assert f"was {getattr(IDENTITY, field)!r} and is now 'another'" in str(caught.value)
    assert str(caught.value).count("is now") == 1
    assert ("PEFT was replaced" in str(caught.value)) is (field == "adapter_fingerprint")
    assert "use another state.path" in str(caught.value) or field == "adapter_fingerprint"


@pytest.mark.parametrize(("was", "now"), [(None, "a"), ("a", "b"), ("a", None)])
def test_another_start_adapter_is_told_and_written_down_before_the_next_state_and_no_state_is_touched(
    backend: Backend, store: Store, was: str | None, now: str | None
) -> None:
    token = store.save(UID, released_state(3), "0")
    if was is not None:
        first = backend.connect()
        first.open(replace(IDENTITY, start_adapter=was), must_exist=True)
        token = first.save(UID, released_state(3), token)
    found = backend.stored()
    assert json.loads(found["store.json"]).get("start_adapter") == was
    with structlog.testing.capture_logs() as logs:
        store = backend.connect()
        store.open(replace(IDENTITY, start_adapter=now), must_exist=True)
    assert [(log["event"], log["was"], log["now"]) for log in logs] == [("start_adapter_changed", was, now)]
    assert backend.stored() == found
    loaded, token = store.load(UID)
    assert loaded is not None
    assert same_state(loaded, released_state(3))
    store.save(UID, released_state(4), token)
    fields_before, fields_now = (json.loads(stored["store.json"]) for stored in (found, backend.stored()))
    assert fields_now.pop("start_adapter", None) == now
    fields_before.pop("start_adapter", None)
    assert fields_now == fields_before
    with structlog.testing.capture_logs() as logs:
        backend.connect().open(replace(IDENTITY, start_adapter=now), must_exist=True)
    assert logs == []


def test_a_store_with_adapters_of_other_modules_may_be_of_another_corlld_or_peft(
    backend: Backend, store: Store
) -> None:
    with pytest.raises(ConfigurationError, match=r"corlld or PEFT was replaced.*`corlld check` lists.*new state\.path"):
        backend.connect().open(replace(IDENTITY, adapter_fingerprint="another"), must_exist=True)
    # Another base model has other adapters: the setting is to blame.
    other_model = replace(IDENTITY, adapter_fingerprint="another", base_revision="another")
    with pytest.raises(ConfigurationError) as caught:
        backend.connect().open(other_model, must_exist=True)
    assert "was replaced" not in str(caught.value)


def test_a_missing_store_must_not_look_like_new_users(backend: Backend) -> None:
    with pytest.raises(ConfigurationError, match="must not look like new users"):
        backend.connect().open(IDENTITY, must_exist=True)
    assert backend.stored() == {}


def test_states_without_a_store_file_are_not_adopted(backend: Backend, store: Store) -> None:
    store.save(UID, released_state(3), "0")
    backend.remove("store.json")
    with pytest.raises(ConfigurationError, match="must not look like new users"):
        backend.connect().open(IDENTITY, must_exist=False)


def test_a_store_that_went_away_does_not_make_users_new(backend: Backend, store: Store) -> None:
    store.save(UID, released_state(3), "0")
    for name in list(backend.stored()):
        backend.remove(name)
    with pytest.raises(RetriableError, match=r"store\.json"):
        store.load(UID)


# --- positions --------------------------------------------------------------------------------------------------------


def test_a_topic_is_found_in_the_states_that_have_applied_it(backend: Backend) -> None:
    assert not backend.connect().has_applied("topic-id"), "there is no store yet"
    store = opened(backend)
    assert not store.has_applied("topic-id")
    store.save(OTHER_UID, tombstone(3, OTHER_UID), "0")
    assert backend.connect().has_applied("topic-id"), "an erased user has read it too; no store is opened that early"
    assert not store.has_applied("topic")
    assert not store.has_applied("topic-id/0")
    (state,) = [name for name in backend.stored() if OTHER_UID in name]
    backend.overwrite(state, b"torn")
    assert not store.has_applied("topic-id")
    store.save(UID, released_state(), "0")
    assert store.has_applied("topic-id"), "one torn state is passed over"


def test_a_topic_is_found_though_a_state_answers_with_an_error_for_ever(
    backend: Backend, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But no topic is taken for new because of it."""
    load_header = store.load_header

    def failing(uid: str) -> UserState | None:
        if uid == UID:
            raise RetriableError("Input/output error")
        return load_header(uid)

    monkeypatch.setattr(store, "load_header", failing)
    for uid in (UID, OTHER_UID):
        store.save(uid, released_state(3, uid=uid), "0")
    assert UID < OTHER_UID
    assert store.has_applied("topic-id")
    with pytest.raises(RetriableError):
        store.has_applied("another")


def test_a_position_is_kept_and_replaced(backend: Backend, store: Store) -> None:
    assert store.load_position("ab12") is None
    store.save_position("ab12", {"file": "x", "next_offset": 7})
    store.save_position("ab12", {"file": "x", "next_offset": 9})
    assert opened(backend).load_position("ab12") == {"file": "x", "next_offset": 9}
    with pytest.raises(ValueError, match="hex"):
        store.load_position("../store")


def test_a_new_user_without_a_release_is_stored_as_well(store: Store) -> None:
    state = UserState(UID, applied={"t/0": 4}, recent_event_ids=("e",))
    store.save(UID, state, "0")
    assert store.load(UID)[0] == state
    assert store.head(UID) == Head(0, erased=False)


def test_an_opened_store_knows_the_secret_of_its_pseudonyms(backend: Backend, store: Store) -> None:
    assert store.secret_fingerprint() == IDENTITY.secret_fingerprint
