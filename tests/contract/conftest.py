"""An S3 server and buckets on it, for the contracts that an object store keeps."""

from collections.abc import Iterator

import pytest

from tests.support.s3 import Bucket, new_bucket_name, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    """Run a server. Meanwhile the environment points at it."""
    with s3_server():
        yield


@pytest.fixture
def bucket(s3: None) -> Bucket:
    return Bucket(new_bucket_name())
