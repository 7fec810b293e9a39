"""Batches that can't be unpacked: the error has a place, and comes again at each call, whatever the codec raises."""

from collections.abc import Callable
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import UnsupportedCodecError
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import calc_crc32c

from corlld.sources.kafka.unpacking import CODECS, Batches, UnreadableBatch, missing_packages

PLACE = TopicPartition("edits", 3)
NUMBERS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def batch(codec: str, first_offset: int = 0) -> bytearray:
    """A batch of two records with texts that can be compressed."""
    builder = MemoryRecordsBuilder(2, NUMBERS[codec], 1 << 20, offset=first_offset)
    for number in range(2):
        builder.append(timestamp=1, key=b"ann", value=b"%d" % number * 500)
    builder.close()
    return bytearray(builder.buffer())


def torn(codec: str) -> bytearray:
    """As a disk or a network leaves it: the checksum is wrong."""
    data = batch(codec)
    data[-5] ^= 1
    return data


def senseless(codec: str) -> bytearray:
    """As a wrong producer may send it: the checksum is right, and what it covers can't be unpacked."""
    data = batch(codec)
    size = DefaultRecordBatch.HEADER_STRUCT.size
    data[size:] = bytes(255 for _ in data[size:])
    crc = calc_crc32c(memoryview(data)[DefaultRecordBatch.ATTRIBUTES_OFFSET :])
    data[DefaultRecordBatch.CRC_OFFSET : DefaultRecordBatch.ATTRIBUTES_OFFSET] = crc.to_bytes(4, "big")
    return data


def fetched(data: bytes, offset: int = 0) -> Any:
    return Batches(offset, PLACE, MemoryRecords(bytes(data)))


@pytest.mark.parametrize("codec", NUMBERS)
def test_records_of_every_codec_are_unpacked(codec: str) -> None:
    batches = fetched(batch(codec))
    assert [record.value for record in batches.take(9)] == [b"0" * 500, b"1" * 500]
    assert not batches


@pytest.mark.parametrize("codec", NUMBERS)
@pytest.mark.parametrize("broken", [torn, senseless])
def test_a_batch_that_cannot_be_unpacked_raises_at_each_call(codec: str, broken: Callable[[str], bytearray]) -> None:
    batches = fetched(broken(codec))
    for _ in range(3):
        with pytest.raises(UnreadableBatch) as caught:
            batches.take(9)
        assert (caught.value.partition, caught.value.offset) == (PLACE, 0)
        assert str(caught.value) == "UnreadableBatch"
        assert caught.value.__cause__ is not None


def test_what_was_unpacked_before_is_delivered_first() -> None:
    data = batch("lz4")
    bad = torn("lz4")
    bad[:8] = (2).to_bytes(8, "big")  # its base offset
    batches = fetched(data + bad)
    assert [record.offset for record in batches.take(9)] == [0, 1]
    for _ in range(2):
        with pytest.raises(UnreadableBatch) as caught:
            batches.take(9)
        assert caught.value.offset == 2


@pytest.mark.parametrize("codec", [codec for codec, package in CODECS.items() if package])
def test_a_codec_without_its_package_is_missed_by_name(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_packages() == {}
    monkeypatch.setattr(f"kafka.codec.has_{codec}", lambda: False)
    assert missing_packages() == {codec: CODECS[codec]}
    with pytest.raises(UnreadableBatch) as caught:
        fetched(batch_without_a_look(codec)).take(9)
    assert isinstance(caught.value.__cause__, UnsupportedCodecError)


def batch_without_a_look(codec: str) -> bytearray:
    """A batch that says it is compressed. kafka-python would not write it without the package either."""
    data = batch("none")
    data[DefaultRecordBatch.ATTRIBUTES_OFFSET + 1] |= NUMBERS[codec]
    crc = calc_crc32c(memoryview(data)[DefaultRecordBatch.ATTRIBUTES_OFFSET :])
    data[DefaultRecordBatch.CRC_OFFSET : DefaultRecordBatch.ATTRIBUTES_OFFSET] = crc.to_bytes(4, "big")
    return data
