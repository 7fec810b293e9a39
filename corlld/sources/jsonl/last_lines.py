"""Reads the newest lines of a file of events. Locks nothing, and keeps no position."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import IO

from corlld.errors import ConfigurationError
from corlld.records import Record, SourcePartition, Tenure
from corlld.sources.jsonl.source import TOPIC
from corlld.system.formats import refuse_other_formats
from corlld.system.lines import read_line

BLOCK_BYTES = 1024 * 1024
MAX_SCANNED_BYTES = 1024 * BLOCK_BYTES  # lines before the last GiB are not searched


def newest_records(path: Path, limit: int, *, follow: bool) -> Generator[Record, None, None]:
    """Yield the last `limit` lines, or all if there are fewer. Skips blank lines.

    Args:
        follow: skip a last line without its end, as the source does that waits for it.

    Raises ConfigurationError if the file can't be read, FatalError if it is in another format.
    """
    tenure = Tenure(SourcePartition(TOPIC, "", 0), 0, 0)
    try:
        with path.open("rb") as file:
            refuse_other_formats(file, str(path))
            offset = _start_of_last_lines(file, limit, with_open_line=not follow)
            file.seek(offset)
            while (line := read_line(file)).ended or (line.length and not follow):
                if line.text.strip():
                    yield Record(tenure, offset, offset + line.length, key=None, value=line.text)
                offset += line.length
    except OSError as error:
        raise ConfigurationError(f"source.path = {path} can't be read: {error.strerror}") from None


def _start_of_last_lines(file: IO[bytes], limit: int, *, with_open_line: bool) -> int:
    """Return the offset of the last `limit` lines: it is the end of the line before them.

    with_open_line: a last line without its end is one of them.
    """
    size = at = os.fstat(file.fileno()).st_size
    ends_to_pass = limit + 1
    if with_open_line and size:
        file.seek(size - 1)
        ends_to_pass -= file.read(1) != b"\n"
    while at > 0 and size - at < MAX_SCANNED_BYTES:
        at, before = max(0, at - BLOCK_BYTES), at
        file.seek(at)
        block = file.read(before - at)
        if (ends := block.count(b"\n")) >= ends_to_pass:
            place = len(block)
            for _ in range(ends_to_pass):
                place = block.rindex(b"\n", 0, place)
            return at + place + 1
        ends_to_pass -= ends
    return at
