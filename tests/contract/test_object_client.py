"""The object client against a real S3 server: conditions hold, lost answers are found out, messages name no key."""

from collections.abc import Callable
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError, PreconditionError

from corlld.errors import ConfigurationError, RetriableError, UnavailableError
from corlld.system.object_client import ObjectClient
from tests.support.s3 import Bucket, fail_the_next_put

KEY = "users/a-key/state"


@pytest.fixture
def client(bucket: Bucket) -> ObjectClient:
    return ObjectClient(bucket.url, setting="a.setting", max_retries=0)


def is_exactly(data: bytes) -> Callable[[bytes], bool]:
    return lambda found: found == data


def swap(client: ObjectClient, data: bytes, e_tag: str | None) -> str | None:
    return client.swap(KEY, data, e_tag, is_exactly(data))


def test_what_is_not_there_is_none(client: ObjectClient) -> None:
    assert client.read(KEY) is None
    assert client.read_beginning(KEY, 4) is None
    assert client.e_tag(KEY) is None
    client.remove(KEY)
    assert list(client.keys("users")) == []


def test_objects_are_read_whole_in_part_and_by_their_tag(client: ObjectClient, bucket: Bucket) -> None:
    client.replace(KEY, b"one")
    client.replace(KEY, b"another")
    client.copy(KEY, "copies/of-it")
    assert bucket.stored() == {KEY: b"another", "copies/of-it": b"another"}
    found = client.read(KEY)
    assert found is not None
    assert found.data == b"another"
    assert found.e_tag == client.e_tag(KEY)
    assert (client.read_beginning(KEY, 3), client.read_beginning(KEY, 99)) == ((b"ano", 7), (b"another", 7))
    assert list(client.keys("users")) == [KEY]


def test_an_object_is_created_once(client: ObjectClient, bucket: Bucket) -> None:
    assert client.create(KEY, b"first")
    assert not client.create(KEY, b"second")
    assert bucket.stored() == {KEY: b"first"}


def test_a_swap_needs_the_tag_of_what_is_there(client: ObjectClient, bucket: Bucket) -> None:
    first = swap(client, b"1", None)
    assert first is not None
    assert swap(client, b"2", None) is None
    second = swap(client, b"2", first)
    assert second is not None
    assert second == client.e_tag(KEY)
    assert swap(client, b"3", first) is None
    assert bucket.stored() == {KEY: b"2"}


@pytest.mark.parametrize("error", [GenericError("timed out"), PreconditionError("412, for the repeated request")])
def test_a_swap_whose_answer_was_lost_took_effect(
    client: ObjectClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail_the_next_put(monkeypatch, error, takes_effect=True)
    first = swap(client, b"1", None)
    assert first == client.e_tag(KEY)
    fail_the_next_put(monkeypatch, error, takes_effect=True)
    assert swap(client, b"2", first) == client.e_tag(KEY)


def test_a_swap_that_nobody_made_is_an_error_and_can_be_repeated(
    client: ObjectClient, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    e_tag = None
    for data in (b"1", b"2"):
        before = bucket.stored()
        fail_the_next_put(monkeypatch, GenericError("status code: 503"))
        with pytest.raises(GenericError, match="503"):
            swap(client, data, e_tag)
        assert bucket.stored() == before
        e_tag = swap(client, data, e_tag)
        assert bucket.stored() == {KEY: data}


@pytest.mark.parametrize("there_before", [True, False])
def test_an_unanswered_swap_that_another_writer_overtook_is_lost(
    client: ObjectClient, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, there_before: bool
) -> None:
    e_tag = swap(client, b"1", None) if there_before else None
    fail_the_next_put(monkeypatch, GenericError("timed out"), before=lambda: bucket.overwrite(KEY, b"theirs"))
    assert swap(client, b"2", e_tag) is None
    assert bucket.stored() == {KEY: b"theirs"}


def test_the_probe_of_conditions_changes_nothing(client: ObjectClient, bucket: Bucket) -> None:
    client.create(KEY, b"as it is")
    e_tag = client.e_tag(KEY)
    client.check_conditions(KEY, b"as it is")
    assert bucket.stored() == {KEY: b"as it is"}
    assert client.e_tag(KEY) == e_tag


@pytest.mark.parametrize("ignored", ["create", "e_tag"])
def test_a_bucket_that_ignores_a_condition_is_refused(
    client: ObjectClient, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    client.create(KEY, b"as it is")
    real = obstore.put

    def put(store: Any, path: str, file: bytes, *, mode: Any = None) -> Any:
        return real(store, path, file, mode=None if ignored in (mode or ()) else mode)

    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(ConfigurationError, match=r"a\.setting: .* ignores If-None-Match or If-Match"):
        client.check_conditions(KEY, b"as it is")
    assert bucket.stored() == {KEY: b"as it is"}


def test_failures_become_errors_that_name_no_key(client: ObjectClient, bucket: Bucket) -> None:
    failure = GenericError(f"{KEY}: status code: 503")
    with pytest.raises(RetriableError) as retriable, client.retriable():
        raise failure
    assert str(retriable.value) == f"{bucket.url}: it answered 503"
    with pytest.raises(UnavailableError) as unavailable, client.needed("can't be used"):
        raise failure
    assert str(unavailable.value) == f"{bucket.url} can't be used: it answered 503"
    with pytest.raises(GenericError), client.accepted_credentials():
        raise failure


def test_refused_credentials_are_a_matter_of_settings(client: ObjectClient, bucket: Bucket) -> None:
    with (
        pytest.raises(ConfigurationError) as refused,
        client.needed("can't be used"),
        client.accepted_credentials(),
    ):
        raise PermissionDeniedError(f"{KEY}: status code: 403")
    assert str(refused.value) == f"a.setting: {bucket.url} refuses these credentials: it answered 403"


@pytest.mark.parametrize("url", ["ftp://host/path", "s3://", "/a/folder"])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"a\.setting: only s3://bucket/prefix"):
        ObjectClient(url, setting="a.setting")
