"""Files of other formats are recognised by their first bytes, and lines of JSON never are."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from corlld.errors import ExitCode, FatalError
from corlld.system.formats import other_format, refuse_other_formats

LINE = '{"event_id": "1"}\n'


def zipped(text: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("edits.jsonl", text)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (gzip.compress(LINE.encode()), r"gzip.*gzip -d"),
        (bz2.compress(LINE.encode()), r"bzip2.*bzip2 -d"),
        (lzma.compress(LINE.encode()), r"xz.*xz -d"),
        (b"\x28\xb5\x2f\xfd\x24\x00", r"zstd.*zstd -d"),
        (zipped(LINE), r"zip.*unzip"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"Obj\x01\x04\x14avro.codec", "Avro"),
        (LINE.encode("utf-16"), "UTF-16, not in UTF-8"),
        (LINE.encode("utf-16-le"), "UTF-16LE"),
        (LINE.encode("utf-16-be"), "UTF-16BE"),
        (b"\xfe\xff" + LINE.encode("utf-16-be"), "UTF-16, not in UTF-8"),
        (LINE.encode("utf-32"), "UTF-32, not in UTF-8"),
        (f"[{LINE}]".encode(), "JSON array.*one object per line"),
        (f"\ufeff \r\n\t [\n{LINE}".encode(), "JSON array"),
    ],
    ids=range(14),  # compressed bytes hold the time
)
def test_another_format_is_said_with_what_to_do(content: bytes, sentence: str) -> None:
    file = io.BytesIO(b"before" + content)
    file.seek(6)
    with pytest.raises(FatalError, match=f"^edits: it is .*{sentence}") as refused:
        refuse_other_formats(file, "edits")
    assert refused.value.exit_code is ExitCode.DATA


@pytest.mark.parametrize("content", ["", "\n", LINE, "\ufeff" + LINE, "garbage", "B", "{", ' {"a": [1]}'])
def test_lines_are_no_other_format(content: str) -> None:
    assert other_format(content.encode()) is None
    file = io.BytesIO(content.encode())
    refuse_other_formats(file, "edits")
    assert file.tell() == 0
