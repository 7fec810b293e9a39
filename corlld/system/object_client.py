"""Objects in an S3 bucket: conditional writes, and failures as the errors of this project.

A write can take effect although its answer is lost, or although the repeated request is answered "precondition
failed". So `swap` reads back an object whose write failed, and its caller recognises the own content by a random id.

This module knows neither what the objects hold nor how their keys are made. No message names a key: it holds a user's
pseudonym.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from corlld.errors import ConfigurationError, RetriableError, UnavailableError

if TYPE_CHECKING:
    from obstore import PutMode

_STATUS = re.compile(r"status code: (\d{3})")


class StoredObject(NamedTuple):
    """The content of an object, and the ETag that names this content in conditions."""

    data: bytes
    e_tag: str


class ObjectClient:
    """Objects below one URL. Credentials, region and endpoint come from the environment, under AWS's names.

    The methods raise obstore's errors; the context managers at the end translate them.

    Args:
        url: `s3://bucket/prefix`.
        setting: name of the setting that holds the URL, for messages.
        max_retries: how often a request is repeated within one call.

    Raises:
        ConfigurationError: the URL can't be used.
    """

    def __init__(self, url: str, *, setting: str, max_retries: int = 3) -> None:
        self.url = url.rstrip("/")
        self._setting = setting
        if not self.url.startswith("s3://"):
            raise ConfigurationError(f"{setting}: only s3://bucket/prefix is known")
        try:
            self._s3 = S3Store.from_url(
                self.url, retry_config={"max_retries": max_retries, "retry_timeout": timedelta(seconds=30)}
            )
        except BaseError as error:
            raise ConfigurationError(f"{setting}: {self.url} can't be used: {_reason(error)}") from None

    def read(self, key: str) -> StoredObject | None:
        """Return the object, None if there is none."""
        try:
            result = obstore.get(self._s3, key)
            return StoredObject(bytes(result.bytes()), result.meta["e_tag"] or "")
        except FileNotFoundError:
            return None

    def read_beginning(self, key: str, length: int) -> tuple[bytes, int] | None:
        """Return the first `length` bytes of the object, or all if it is shorter, and how many bytes it has.

        None if there is no object.
        """
        try:
            found = obstore.get(self._s3, key, options={"range": (0, length)})
            return bytes(found.bytes()), found.meta["size"]
        except FileNotFoundError:
            return None

    def e_tag(self, key: str) -> str | None:
        """Return the ETag of the object without reading it, None if there is no object."""
        try:
            return obstore.head(self._s3, key)["e_tag"]
        except FileNotFoundError:
            return None

    def modified_at(self, key: str) -> float | None:
        """Return when the object was written, by the server's clock, in unix time; None if there is no object."""
        try:
            return obstore.head(self._s3, key)["last_modified"].timestamp()
        except FileNotFoundError:
            return None

    def version(self, key: str) -> str | None:
        """Return the id of the object's version. None if the bucket never kept old versions, or there is no object."""
        try:
            return obstore.head(self._s3, key)["version"]
        except FileNotFoundError:
            return None

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the key of every object in the folder `prefix`."""
        for chunk in obstore.list(self._s3, prefix=prefix):
            for entry in chunk:
                yield entry["path"]

    def create(self, key: str, data: bytes) -> bool:
        """Write a new object. Return False, with nothing changed, if there is an object already."""
        try:
            obstore.put(self._s3, key, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def replace(self, key: str, data: bytes) -> None:
        """Write the object, whatever is there."""
        obstore.put(self._s3, key, data)

    def swap(self, key: str, data: bytes, e_tag: str | None, is_own: Callable[[bytes], bool]) -> str | None:
        """Write the object if nobody else wrote it meanwhile.

        The error of the write is raised if nothing was written: then the call can be repeated. If the read-back fails,
        its error is raised, and the outcome is unknown: a repeated call then sees the write of this one as another's.

        Args:
            key: of the object.
            data: the new content, with a random id of this write in it.
            e_tag: of the content to replace; None if there must be no object yet.
            is_own: tells whether a content holds the id of this write.

        Returns:
            The new ETag; None if another writer was first.
        """
        try:
            result = obstore.put(self._s3, key, data, mode="create" if e_tag is None else {"e_tag": e_tag})
            return result["e_tag"] or ""
        except BaseError as error:
            found = self.read(key)
            if found is not None and is_own(found.data):
                return found.e_tag
            refused = isinstance(error, PreconditionError | AlreadyExistsError)
            if refused or (found is not None and found.e_tag != e_tag):
                return None
            raise

    def copy(self, source: str, destination: str) -> None:
        """Copy an object inside the bucket, over what is there."""
        obstore.copy(self._s3, source, destination)

    def remove(self, key: str) -> None:
        """Remove the object if there is one."""
        with contextlib.suppress(FileNotFoundError):
            obstore.delete(self._s3, key)

    def check_conditions(self, key: str, data: bytes) -> None:
        """Check that the bucket refuses writes whose condition does not hold. Else a stale writer would win.

        The object is written as it is. So nothing changes, whatever the bucket does, and whenever this process ends. A
        request that the client repeats, as its answer was lost, is answered as the first one was.

        Args:
            key: of an object that is there.
            data: its content.

        Raises ConfigurationError.
        """
        refusals: tuple[tuple[PutMode, type[Exception]], ...] = (
            ("create", AlreadyExistsError),
            ({"e_tag": '"another"'}, PreconditionError),
        )
        for mode, refusal in refusals:
            try:
                obstore.put(self._s3, key, data, mode=mode)
            except refusal:
                continue
            raise ConfigurationError(
                f"{self._setting}: {self.url} ignores If-None-Match or If-Match: "
                "two writers would overwrite each other's objects"
            )

    # --- errors -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def retriable(self) -> Iterator[None]:
        """Raise RetriableError if a request fails: it may work later."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise RetriableError(f"{self.url}: {_reason(error)}") from None

    @contextlib.contextmanager
    def needed(self, problem: str) -> Iterator[None]:
        """Raise UnavailableError, which says `problem` ("can't be used"), if a request fails."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise UnavailableError(f"{self.url} {problem}: {_reason(error)}") from None

    @contextlib.contextmanager
    def accepted_credentials(self) -> Iterator[None]:
        """Raise ConfigurationError if the credentials are refused. Other failures pass."""
        try:
            yield
        except (UnauthenticatedError, PermissionDeniedError) as error:
            raise ConfigurationError(
                f"{self._setting}: {self.url} refuses these credentials: {_reason(error)}"
            ) from None


def _reason(error: Exception) -> str:
    """Return the failure in a few words. obstore's own messages name keys."""
    status = _STATUS.search(str(error))
    if isinstance(error, FileNotFoundError) or (status and status[1] == "404"):
        return "it has no such bucket or object"
    return f"it answered {status[1]}" if status else f"no answer ({type(error).__name__})"
