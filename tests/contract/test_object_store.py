"""Tests of the object store only: answers that are lost, refused conditions, credentials, nothing there at all."""

import contextlib
from collections.abc import Callable
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

from corlld.durable import StoreIdentity
from corlld.errors import ConfigurationError, ExitCode, LostSwap, RetriableError, StateUnreadable, UnavailableError
from corlld.state.object_store import ObjectStore
from corlld.state.snapshot import decode, encode
from corlld.system.object_client import ObjectClient, StoredObject
from tests.support.s3 import Bucket, fail_the_next_put, keep_versions
from tests.support.states import UID, released_state, same_state, tombstone

IDENTITY = StoreIdentity("fingerprint", "cluster", "group", "model", "revision", "shape")
STATE, PREVIOUS = f"users/{UID}/state.safetensors", f"users/{UID}/previous.safetensors"


@pytest.fixture
def store(bucket: Bucket) -> ObjectStore:
    store = ObjectStore(bucket.url, max_retries=0)
    store.open(IDENTITY, must_exist=False)
    return store


def test_a_state_that_is_not_as_long_as_its_header_says_is_read_whole_if_that_is_asked_for(
    store: ObjectStore, bucket: Bucket
) -> None:
    assert store.load_header(UID, check_length=True) is None
    store.save(UID, released_state(3), "0")
    header = store.load_header(UID, check_length=True)
    assert header is not None
    assert header.version == 3
    objects = ObjectClient(bucket.url, setting="state.url", max_retries=0)
    found = objects.read(STATE)
    assert found is not None
    objects.replace(STATE, found.data[:-3])
    assert store.load_header(UID) is not None
    with pytest.raises(StateUnreadable):
        store.load_header(UID, check_length=True)


def test_the_state_before_that_is_copied_over_a_torn_one_is_the_state(store: ObjectStore, bucket: Bucket) -> None:
    """As the steps say that `state repair` prints for an input that is a file."""
    token = store.save(UID, released_state(3), "0")
    store.save(UID, released_state(4), token)
    objects = ObjectClient(bucket.url, setting="state.url", max_retries=0)
    objects.copy(PREVIOUS, STATE)
    state, _ = store.load(UID)
    assert state is not None
    assert state.version == 3


@pytest.mark.parametrize("error", [GenericError("timed out"), PreconditionError("412, for the repeated request")])
def test_a_write_whose_answer_was_lost_succeeded(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    token = store.save(UID, released_state(3), "0")
    fail_the_next_put(monkeypatch, error, takes_effect=True)
    token = store.save(UID, released_state(4), token)
    assert store.load(UID)[1] == token
    store.save(UID, released_state(5), token)


def test_a_write_that_did_not_happen_is_tried_again(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, token in ((3, "0"), (4, None)):
        token = token or store.load(UID)[1]
        fail_the_next_put(monkeypatch, GenericError("status code: 503"))
        with pytest.raises(RetriableError, match="it answered 503"):
            store.save(UID, released_state(version), token)
        store.save(UID, released_state(version), token)
    state, _ = store.load(UID)
    assert state is not None
    assert same_state(state, released_state(4))


def test_i6_an_unanswered_write_that_another_owner_overtook_is_lost(
    store: ObjectStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = store.save(UID, released_state(3), "0")
    other = ObjectStore(bucket.url)
    other.open(IDENTITY, must_exist=True)
    fail_the_next_put(monkeypatch, GenericError("timed out"), before=lambda: other.save(UID, released_state(9), token))
    with pytest.raises(LostSwap):
        store.save(UID, released_state(4), token)
    state, _ = store.load(UID)
    assert state is not None
    assert same_state(state, released_state(9))


def test_the_generation_before_is_the_one_before(store: ObjectStore, bucket: Bucket) -> None:
    token = "0"
    for version in (3, 4, 5):
        token = store.save(UID, released_state(version), token)
    with pytest.raises(LostSwap):
        store.save(UID, released_state(99), "stale")
    assert same_state(decode(bucket.stored()[PREVIOUS], UID), released_state(4))


def test_the_head_of_a_state_with_a_long_header_is_read(store: ObjectStore, bucket: Bucket) -> None:
    applied = {f"topic-id/{partition}": partition for partition in range(10_000)}
    state = released_state(3, applied=applied)
    assert len(encode(state)) > 100_000
    store.save(UID, state, "0")
    head = store.load_header(UID)
    assert head is not None
    assert dict(head.applied) == applied
    assert head.adapter is not None
    assert head.adapter.nbytes == 0, "the tensors are not read"


def test_a_bucket_that_is_not_there_is_no_empty_store(store: ObjectStore) -> None:
    with pytest.raises(UnavailableError, match="no such bucket"):
        ObjectStore("s3://not-there-at-all/states", max_retries=0).open(IDENTITY, must_exist=False)
    with pytest.raises(RetriableError):
        ObjectStore("s3://not-there-at-all/states", max_retries=0).load(UID)


def test_a_bucket_that_is_away_is_said_in_a_sentence(
    bucket: Bucket, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    away = ObjectStore(bucket.url, max_retries=0)
    with pytest.raises(UnavailableError, match=f"{bucket.url} can't be used: no answer") as refused:
        away.open(IDENTITY, must_exist=False)
    assert refused.value.exit_code is ExitCode.UNAVAILABLE
    monkeypatch.setattr(away, "_opened", True)  # as if the bucket had gone away later
    with pytest.raises(RetriableError, match="no answer") as caught:
        away.save(UID, released_state(3), "0")
    assert UID not in str(caught.value)


def test_a_store_that_ignores_conditions_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    real = obstore.put
    monkeypatch.setattr(obstore, "put", lambda store, path, file, *, mode=None: real(store, path, file))
    with pytest.raises(ConfigurationError, match="ignores If-None-Match or If-Match"):
        ObjectStore(bucket.url).open(IDENTITY, must_exist=False)
    assert bucket.stored() == {}


@pytest.mark.parametrize("is_new", [True, False])
def test_a_start_survives_a_lost_answer_to_any_of_its_writes(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """The client repeats a request without an answer. The repetition is refused, as the first one took effect."""
    if not is_new:
        ObjectStore(bucket.url).open(IDENTITY, must_exist=False)
    writes = 0
    real = obstore.put

    def put(*arguments: Any, **keywords: Any) -> Any:
        nonlocal writes
        writes += 1
        with contextlib.suppress(AlreadyExistsError, PreconditionError):
            real(*arguments, **keywords)
        return real(*arguments, **keywords)

    monkeypatch.setattr(obstore, "put", put)
    ObjectStore(bucket.url).open(IDENTITY, must_exist=False)
    assert writes
    assert set(bucket.stored()) == {"store.json"}


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("is_new", [True, False])
def test_a_kill_at_any_moment_of_a_start_leaves_nothing_behind(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    ObjectStore(bucket.url).open(IDENTITY, must_exist=False)
    kills = 0
    killed = True
    while killed:
        if is_new:
            bucket.remove("store.json")
        with monkeypatch.context() as patch:
            kill_at_call(patch, kills + 1)
            try:
                ObjectStore(bucket.url).open(IDENTITY, must_exist=False)
                killed = False
            except Killed:
                kills += 1
        assert set(bucket.stored()) <= {"store.json"}
    assert kills > 2
    assert set(bucket.stored()) == {"store.json"}


def kill_at_call(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let the process die at the request of this number, and be dead for those after it."""
    calls = 0

    def killing(real: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise Killed
            return real(*arguments, **keywords)

        return call

    for name in ("put", "get", "head", "delete", "list"):
        patch.setattr(obstore, name, killing(getattr(obstore, name)))


# --- reads beside a writer --------------------------------------------------------------------------------------------


def show_next(
    monkeypatch: pytest.MonkeyPatch, *shown: Callable[[StoredObject], StoredObject | None]
) -> list[StoredObject | None]:
    """Have the next reads of objects show what these make of the real object. Return all that is read."""
    real = ObjectClient.read
    steps = list(shown)
    read: list[StoredObject | None] = []

    def reading(client: ObjectClient, key: str) -> StoredObject | None:
        found = real(client, key)
        read.append(steps.pop(0)(found) if steps and found is not None else found)
        return read[-1]

    monkeypatch.setattr(ObjectClient, "read", reading)
    return read


def half(found: StoredObject) -> StoredObject:
    return StoredObject(found.data[: len(found.data) // 2], found.e_tag)


def half_of_another(found: StoredObject) -> StoredObject:
    return StoredObject(found.data[: len(found.data) // 3], '"another"')


@pytest.mark.parametrize("shown", [[half], [half_of_another], [half, half_of_another], [half, lambda _: None]])
def test_a_part_of_a_state_that_a_bucket_shows_is_read_again(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, shown: list[Callable[[StoredObject], StoredObject | None]]
) -> None:
    token = store.save(UID, released_state(3), "0")
    read = show_next(monkeypatch, *shown)
    state, loaded_token = store.load(UID)
    assert state is not None
    assert same_state(state, released_state(3))
    assert loaded_token == token
    assert len(read) == len(shown) + 1


def test_a_torn_state_is_read_twice_before_it_is_said_to_be_torn(
    store: ObjectStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(UID, released_state(3), "0")
    bucket.overwrite(STATE, bucket.stored()[STATE][:-7])
    read = show_next(monkeypatch)
    with pytest.raises(StateUnreadable, match="state repair"):
        store.load(UID)
    assert [found.data == read[0].data for found in read] == [True, True, False], "then `store.json`: what mends it?"


def test_a_state_that_changes_with_every_read_is_never_said_to_be_torn(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(UID, released_state(3), "0")
    monkeypatch.setattr("corlld.state.object_store.TORN_PAUSE_SECONDS", 0)
    show_next(monkeypatch, *[half, half_of_another] * 10)
    with pytest.raises(RetriableError, match="faster than they can be read"):
        store.load(UID)


def test_another_kind_of_url_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"state\.url: only s3://"):
        ObjectStore("ftp://host/path")


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_i8_a_bucket_that_keeps_old_versions_is_beyond_an_erasure(
    store: ObjectStore, bucket: Bucket, status: str
) -> None:
    token = store.save(UID, released_state(3), "0")
    keep_versions(bucket, "Enabled")
    assert store.out_of_reach() is None
    store.save(UID, released_state(4), token)
    if status == "Suspended":  # the versions from before stay
        keep_versions(bucket, "Suspended")
    assert "an erasure does not reach them" in (store.out_of_reach() or "")


def test_the_copy_of_a_tombstone_that_a_user_who_comes_back_is_about_to_replace_is_nothing_left(
    store: ObjectStore, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = store.save(UID, tombstone(3), store.save(UID, released_state(3), "0"))
    fail_the_next_put(monkeypatch, GenericError("status code: 503"))
    with pytest.raises(RetriableError):
        store.save(UID, released_state(4), token)
    assert decode(bucket.stored()[PREVIOUS], UID).erased
    assert store.left_of_erased(tombstone(3), token) == []
    for left in (encode(released_state(3)), b"torn"):
        bucket.overwrite(PREVIOUS, left)
        assert store.left_of_erased(tombstone(3), token) == [f"{bucket.url}/{PREVIOUS}"]


def test_i8_a_tombstone_has_nothing_before_it(store: ObjectStore, bucket: Bucket) -> None:
    token = "0"
    for version in (3, 4):
        token = store.save(UID, released_state(version), token)
    store.save(UID, tombstone(4), token)
    assert {name for name in bucket.stored() if UID in name} == {STATE}
