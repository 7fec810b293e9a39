"""Lines of a file, however long they are: memory is bounded, and the place in the file stays exact."""

from typing import IO, NamedTuple

MAX_LINE_BYTES = 16 * 1024 * 1024
SKIP_BYTES = 1024 * 1024


class Line(NamedTuple):
    """head: the line with its end, or the first `MAX_LINE_BYTES` + 1 of it: the decoder finds that too large.

    length: bytes that the line takes in the file; 0 at its end. ended: False where the file ends before the line does.
    """

    head: bytes
    length: int
    ended: bool


def read_line(file: IO[bytes]) -> Line:
    """The line at the file's position, which moves behind it."""
    head = file.readline(MAX_LINE_BYTES + 1)
    length, ended = len(head), head.endswith(b"\n")
    while not ended and length > MAX_LINE_BYTES:
        part = file.readline(SKIP_BYTES)
        length, ended = length + len(part), part.endswith(b"\n")
        if not part:
            break
    return Line(head, length, ended)
