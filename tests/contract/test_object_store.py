"""Tests of the object store only: answers that are lost, refused conditions, credentials, nothing there at all."""

import obstore
import pytest
from obstore.exceptions import GenericError, PreconditionError

from corlld.errors import ConfigurationError, LostSwap, RetriableError, UnavailableError
from corlld.records import StoreIdentity
from corlld.state.object_store import ObjectStore
from corlld.state.snapshot import decode, encode
from tests.support.s3 import Bucket, fail_the_next_put
from tests.support.states import UID, released_state, same_state, tombstone

IDENTITY = StoreIdentity("fingerprint", "cluster", "group", "model", "revision", "shape")
STATE, PREVIOUS = f"users/{UID}/state.safetensors", f"users/{UID}/previous.safetensors"


@pytest.fixture
def store(bucket: Bucket) -> ObjectStore:
    store = ObjectStore(bucket.url, max_retries=0)
    store.open(IDENTITY, must_exist=False)
    return store


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


def test_a_bucket_that_is_not_there_is_no_empty_store(store: ObjectStore) -> None:
    with pytest.raises(UnavailableError, match="no such bucket"):
        ObjectStore("s3://not-there-at-all/states", max_retries=0).open(IDENTITY, must_exist=False)
    with pytest.raises(RetriableError):
        ObjectStore("s3://not-there-at-all/states", max_retries=0).load(UID)


def test_an_endpoint_that_does_not_answer_is_said_in_a_sentence(
    bucket: Bucket, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    away = ObjectStore(bucket.url, max_retries=0)
    with pytest.raises(UnavailableError, match=f"{bucket.url} can't be used: no answer"):
        away.open(IDENTITY, must_exist=False)
    with pytest.raises(RetriableError, match="no answer") as caught:
        away.save(UID, released_state(3), "0")
    assert UID not in str(caught.value)


def test_a_store_that_ignores_conditions_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    real = obstore.put
    monkeypatch.setattr(obstore, "put", lambda store, path, file, *, mode=None: real(store, path, file))
    with pytest.raises(ConfigurationError, match="ignores If-None-Match or If-Match"):
        ObjectStore(bucket.url).open(IDENTITY, must_exist=False)


def test_another_kind_of_url_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"state\.url: only s3://"):
        ObjectStore("ftp://host/path")


def test_i8_a_tombstone_has_nothing_before_it(store: ObjectStore, bucket: Bucket) -> None:
    token = "0"
    for version in (3, 4):
        token = store.save(UID, released_state(version), token)
    store.save(UID, tombstone(4), token)
    assert {name for name in bucket.stored() if UID in name} == {STATE}
