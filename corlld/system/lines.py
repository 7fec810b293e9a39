"""Lines of a file, however long they are. Memory is bounded, and the position in the file stays exact."""

from collections.abc import Iterator
from typing import IO, NamedTuple

MAX_LINE_BYTES = 16 * 1024 * 1024
SKIP_BYTES = 1024 * 1024
UTF8_MARK = b"\xef\xbb\xbf"  # the byte order mark that programs on Windows write at the beginning of a file


class Line(NamedTuple):
    """A line of a file.

    head: the line with its end, or its first `MAX_LINE_BYTES` + 1 bytes, which the decoder refuses as too large.
    length: bytes that the line takes in the file; 0 at the end of the file. ended: False if the file ends before the
    line does.
    """

    head: bytes
    length: int
    ended: bool

    @property
    def text(self) -> bytes:
        """The line without its end, and without a byte order mark: it begins no JSON, wherever it stands."""
        return self.head.removeprefix(UTF8_MARK).rstrip(b"\r\n")


def read_line(file: IO[bytes]) -> Line:
    """Read the line at the file's position, and move the position behind it."""
    head = file.readline(MAX_LINE_BYTES + 1)
    length, ended = len(head), head.endswith(b"\n")
    while not ended and length > MAX_LINE_BYTES:
        part = file.readline(SKIP_BYTES)
        length, ended = length + len(part), part.endswith(b"\n")
        if not part:
            break
    return Line(head, length, ended)


def texts(file: IO[bytes]) -> Iterator[bytes]:
    """Iterate over the texts of the lines from the file's position on. The end of the file ends the last line."""
    while (line := read_line(file)).length:
        yield line.text
