"""Reads the dead-letter topic back, from its beginning to its end at the start. Joins no group, and commits nothing."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kafka import TopicPartition
from kafka.errors import UnsupportedCodecError

from corlld.errors import ExitCode, FatalError, UnavailableError
from corlld.records import LetterStream, StoredLetter
from corlld.settings.sections import KafkaSettings
from corlld.sources.dead_letters import read_letter
from corlld.sources.kafka.unpacking import UnreadableBatch
from corlld.sources.kafka.whole_reads import TopicReader, reading

STALLED_SECONDS = 30.0  # without a record: a broker that went away, or a partition without a leader


@contextmanager
def letters_of_topic(
    settings: KafkaSettings,
    topic: str,
    since_seconds: float | None,
    timeout_seconds: float,
    problem_seconds: float = math.inf,
) -> Iterator[LetterStream]:
    """Open the letters of the topic.

    Args:
        settings: how to reach the cluster.
        topic: the dead-letter topic.
        since_seconds: skip letters that the topic took before this time, in seconds since 1970.
        timeout_seconds: for reaching the topic, and for each answer about its offsets.
        problem_seconds: for reaching it, if it is known what is in the way.

    Raises UnavailableError if broker or topic are not there or go away, ConfigurationError if the broker refuses
    access, and FatalError if a batch can't be unpacked.
    """
    with reading(settings, topic, timeout_seconds, problem_seconds) as reader:
        timeout_ms = round(1000 * timeout_seconds)
        starts, ends = reader.range(timeout_ms)
        if since_seconds is not None:
            for place, found in reader.since(since_seconds, timeout_ms).items():
                starts[place] = ends[place] if found is None else max(starts[place], min(found, ends[place]))
        steps = sum(ends[place] - start for place, start in starts.items())
        yield LetterStream(f"topic {topic}", steps, "records", _letters(reader, topic, starts, ends))


def _letters(
    reader: TopicReader, topic: str, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
) -> Iterator[tuple[int, StoredLetter | None]]:
    passed = {place.partition: start for place, start in starts.items()}
    moved_at = time.monotonic()
    try:
        for records in reader.read(starts, ends):
            for record in records:
                number = record.tenure.partition.partition
                steps, passed[number] = record.next_offset - passed[number], record.next_offset
                yield steps, read_letter(record.key, record.value, record.headers, record.timestamp_seconds)
            if records:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > STALLED_SECONDS:
                raise UnavailableError(f"topic {topic} brought nothing for {STALLED_SECONDS:g} s")
    except UnreadableBatch as error:
        if isinstance(error.__cause__, UnsupportedCodecError):
            raise  # `reading` names the package
        batch = f"the batch at offset {error.offset} of {topic}:{error.partition.partition}"
        raise FatalError(
            f"{batch} is damaged: --since with a later time reads what comes behind it", ExitCode.DATA
        ) from None
