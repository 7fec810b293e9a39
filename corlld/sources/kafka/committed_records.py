"""Reads again what a group has committed already, for the repair of states. Joins no group, and commits nothing."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kafka import TopicPartition

from corlld.protocols import PositionStore
from corlld.records import CommittedRecords, Record
from corlld.settings.sections import KafkaSettings
from corlld.sources.kafka.client import TopicLookup
from corlld.sources.kafka.topic_identity import TopicIdentity
from corlld.sources.kafka.whole_reads import TopicReader, reading


@contextmanager
def committed_records(
    settings: KafkaSettings,
    starts: Mapping[str, int],
    positions: PositionStore,
    timeout_seconds: float,
    problem_seconds: float = math.inf,
) -> Iterator[CommittedRecords]:
    """Open the records between some offsets and the group's commits.

    Args:
        settings: name the topic and the group.
        starts: the first offsets, by `SourcePartition.key`, as states have them. Other topics' keys are passed over.
        positions: know how states call the topic.
        timeout_seconds: for each answer of the cluster.
        problem_seconds: for reaching the topic, if it is known what is in the way.

    Raises UnavailableError if broker or topic are not there, ConfigurationError if the broker refuses access, and
    FatalError if a batch can't be unpacked.
    """
    lookup = TopicLookup(settings, settings.topic, settings.group_id, problem_seconds=problem_seconds)
    try:
        view = lookup.wait_for_topic(timeout_seconds)
    finally:
        lookup.close()
    identity = TopicIdentity(settings.topic, positions)
    identity.load(view.topic_id, has_commits=bool(view.committed))
    with reading(settings, settings.topic, timeout_seconds, problem_seconds) as reader:
        beginnings, readable = reader.range(round(1000 * timeout_seconds))
        wanted: dict[TopicPartition, int] = {}
        unread: dict[int, int] = {}
        others: dict[int, int] = {}
        gone: dict[int, int] = {}
        for place, end in readable.items():
            start = starts.get(f"{identity.name}/{place.partition}")
            if end > beginnings[place]:
                (others if start is None else unread)[place.partition] = end
            if start is None:
                continue
            committed = view.committed.get(place.partition, 0)
            if start < committed:
                gone[place.partition] = min(beginnings[place], committed)
                wanted[place] = max(start, beginnings[place])
        ends = {place: view.committed[place.partition] for place in wanted}
        wanted = {place: start for place, start in wanted.items() if start < ends[place]}
        steps = sum(ends[place] - start for place, start in wanted.items())
        records = _records(reader, wanted, ends)
        yield CommittedRecords(identity.name, steps, gone, records, view.committed, unread, others)


def _records(
    reader: TopicReader, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
) -> Iterator[Record]:
    for records in reader.read(starts, ends):
        yield from records
