"""S3 servers whose conditional writes are atomic: versitygw and MinIO.

`make test-crash` builds both from their sources.
"""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3

from tests.support.waiting import wait_until

ACCESS_KEY, SECRET_KEY = "storm", "storm-secret-key"
START_SECONDS = 20.0


@dataclass(frozen=True)
class Server:
    """A program that serves files below a folder.

    arguments: from the address, `127.0.0.1:PORT`, and the folder. environ: of the process, its account among it.
    """

    program: str
    arguments: Callable[[str, str], tuple[str, ...]]
    environ: dict[str, str]

    def find(self) -> str | None:
        """Return the path of the program; None if it is not installed."""
        built = Path(os.environ.get("CORLLD_TEST_S3_SERVERS", ""), self.program)
        return str(built.absolute()) if built.is_file() else shutil.which(self.program)

    @contextlib.contextmanager
    def running(self, folder: Path) -> Iterator[str]:
        """Start the server on files below `folder`. Yields its endpoint, `http://127.0.0.1:PORT`."""
        program = self.find()
        assert program is not None, f"{self.program} is not installed"
        port, objects, log = free_port(), folder / "objects", folder / f"{self.program}.log"
        objects.mkdir(parents=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, *self.arguments(f"127.0.0.1:{port}", str(objects))],
                env=os.environ | self.environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        try:
            wait_until(lambda: is_listening(port), self.program, START_SECONDS, report=lambda: log.read_text())
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


SERVERS = {
    each.program: each
    for each in (
        Server(
            "versitygw",
            lambda address, folder: ("--quiet", "--port", address, "posix", folder),
            {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
        ),
        Server(
            "minio",
            lambda address, folder: ("server", "--quiet", "--address", address, folder),
            {
                "MINIO_ROOT_USER": ACCESS_KEY,
                "MINIO_ROOT_PASSWORD": SECRET_KEY,
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
            },
        ),
    )
}


def environment(endpoint: str) -> dict[str, str]:
    """Return what a daemon's environment must have to use a server."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": "127.0.0.1",
    }


def make_bucket(endpoint: str, name: str) -> None:
    boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    ).create_bucket(Bucket=name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
