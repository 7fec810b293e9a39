"""Recognise files that are no lines of JSON by their first bytes, and say so in a sentence."""

from typing import IO

from corlld.errors import ExitCode, FatalError
from corlld.system.lines import UTF8_MARK

HEAD_BYTES = 4096  # a JSON array may begin with blanks

_NOT_UTF8 = "it is in {}, not in UTF-8: `iconv -f {} -t UTF-8` converts it"
_COMPRESSED = "it is compressed ({}): unpack it first, for example with `{}`"
_SIGNATURES = {
    b"\x1f\x8b": _COMPRESSED.format("gzip", "gzip -d"),
    b"\x28\xb5\x2f\xfd": _COMPRESSED.format("zstd", "zstd -d"),
    b"\xfd7zXZ\x00": _COMPRESSED.format("xz", "xz -d"),
    b"BZh": _COMPRESSED.format("bzip2", "bzip2 -d"),
    b"PK\x03\x04": _COMPRESSED.format("zip", "unzip"),
    b"PAR1": "it is a Parquet file: write its rows as lines of JSON first",
    b"Obj\x01": "it is an Avro file: write its rows as lines of JSON first",
    # UTF-32 comes first: its mark begins with that of UTF-16.
    b"\xff\xfe\x00\x00": _NOT_UTF8.format("UTF-32", "UTF-32"),
    b"\x00\x00\xfe\xff": _NOT_UTF8.format("UTF-32", "UTF-32"),
    b"\xff\xfe": _NOT_UTF8.format("UTF-16", "UTF-16"),
    b"\xfe\xff": _NOT_UTF8.format("UTF-16", "UTF-16"),
    # Without a mark: the first letter, `{`, has a byte of zeros beside it.
    b"{\x00": _NOT_UTF8.format("UTF-16", "UTF-16LE"),
    b"\x00{": _NOT_UTF8.format("UTF-16", "UTF-16BE"),
}
_ARRAY = "it is a JSON array: write one object per line, for example with `jq -c '.[]'`"


def other_format(head: bytes) -> str | None:
    """Return what a file is, and what to do, if its first bytes can't begin lines of JSON objects; otherwise None."""
    for signature, sentence in _SIGNATURES.items():
        if head.startswith(signature):
            return sentence
    return _ARRAY if head.removeprefix(UTF8_MARK).lstrip().startswith(b"[") else None


def refuse_other_formats(file: IO[bytes], name: str) -> None:
    """Look at the bytes at the file's position, and leave the position where it is.

    Args:
        file: open for reading, and seekable.
        name: of the file, for the message.

    Raises FatalError if they can't begin lines of JSON objects.
    """
    start = file.tell()
    problem = other_format(file.read(HEAD_BYTES))
    file.seek(start)
    if problem is not None:
        raise FatalError(f"{name}: {problem}", ExitCode.DATA)
