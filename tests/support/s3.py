"""A real S3 protocol on loopback (moto's server), one bucket per test, and writes that fail."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal
from unittest import mock

import boto3
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store


class Bucket:
    """A bucket of its own, reached behind the store's back."""

    def __init__(self, name: str) -> None:
        self.url = f"s3://{name}/states"
        self._s3 = S3Store.from_url(self.url)

    def stored(self) -> dict[str, bytes]:
        paths = [entry["path"] for chunk in obstore.list(self._s3) for entry in chunk]
        return {path: bytes(obstore.get(self._s3, path).bytes()) for path in paths}

    def overwrite(self, name: str, data: bytes) -> None:
        obstore.put(self._s3, name, data)

    def remove(self, name: str) -> None:
        obstore.delete(self._s3, name)


@contextlib.contextmanager
def s3_server() -> Iterator[None]:
    """Start the server, and point the environment at it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": "127.0.0.1",
    }
    try:
        with mock.patch.dict(os.environ, environment):
            yield
    finally:
        server.stop()


def new_bucket_name() -> str:
    """Make a bucket on the server that the environment points at."""
    name = f"b{uuid.uuid4().hex[:16]}"
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT"], region_name="us-east-1").create_bucket(Bucket=name)
    return name


def keep_versions(bucket: Bucket, status: Literal["Enabled", "Suspended"]) -> None:
    """Have the server keep what objects held before from now on, or no longer."""
    name = bucket.url.split("/")[2]
    s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT"], region_name="us-east-1")
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})


def fail_the_next_put(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    *,
    takes_effect: bool = False,
    before: Callable[[], object] = lambda: None,
) -> None:
    """Have the next write raise the error; those after it work again.

    takes_effect: the object is written all the same, and only the answer is lost.
    before: called first, as for a writer who is faster.
    """
    real = obstore.put

    def put(*arguments: Any, **keywords: Any) -> Any:
        monkeypatch.setattr(obstore, "put", real)
        before()
        if takes_effect:
            real(*arguments, **keywords)
        raise error

    monkeypatch.setattr(obstore, "put", put)
