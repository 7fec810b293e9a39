"""Holds what is known of the users whose states are to be repaired: the partitions, and the offsets that they need.

It also counts which of these are gone for good.

It knows neither the store nor the input.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from corlld.durable import UserState
from corlld.records import CommittedRecords
from corlld.system.plurals import counted


@dataclass(frozen=True, slots=True)
class Repair:
    """A user whose state is to be repaired.

    starts: the next offset of the generation before, by `SourcePartition.key`.
    state: that generation; None if an interrupted repair has stored it already.
    token: of the state that can't be read.
    damaged: the disk answers with an error in place of that state, which may pass.
    header_lost: not even the header of that state can be read, so nothing tells the partitions that it alone knew.
    found: an offset before the user's first record in each known partition that `starts` lacks, or that of the record.
    id: names the repair in the state that it stores and in the records that it sends. None for a repair that an older
        corlld has begun.
    repairs: those that the generation before came of, as in the state. What others have sent was erased since.
    problem: names the file that can't be read, and the reason; empty if an interrupted repair has replaced it already.
    """

    uid: str
    starts: Mapping[str, int]
    state: UserState | None = None
    token: str = ""
    damaged: bool = False
    header_lost: bool = False
    found: dict[str, int] = field(default_factory=dict)
    id: str | None = None
    repairs: str | None = None
    problem: str = ""

    @property
    def places(self) -> dict[str, int]:
        """The first offset that the user needs in each known partition of the user's, by `SourcePartition.key`."""
        return {**self.found, **self.starts}

    def note_place(self, key: str, offset: int) -> None:
        """Note that a partition holds something of the user at this offset."""
        if key not in self.starts:
            self.found[key] = min(offset, self.found.get(key, offset))


@dataclass
class Findings:
    """What a look at the store found.

    hopeless: a sentence for each user whose state can't be repaired now.
    stale: why the note of an interrupted repair says nothing of the user's state, by user.
    """

    repairs: dict[str, Repair] = field(default_factory=dict)
    hopeless: list[str] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)

    @property
    def starts(self) -> dict[str, int]:
        """The first offset that any of the users needs, by `SourcePartition.key`."""
        starts: dict[str, int] = {}
        for repair in self.repairs.values():
            for key, offset in repair.places.items():
                starts[key] = min(offset, starts.get(key, offset))
        return starts

    def missing(self, stream: CommittedRecords, before: Mapping[int, int]) -> int:
        """Return how many offsets that the users need are gone from the topic, of all users together.

        A partition that is read from its beginning does not count for a user: nothing tells since when the user is in
        it.

        before: offsets up to these are passed over, by partition.
        """
        starts: dict[str, int] = {}
        for repair in self.repairs.values():
            for key, offset in repair.places.items():
                if offset > 0:
                    starts[key] = min(offset, starts.get(key, offset))
        ends = {partition: (f"{stream.name}/{partition}", end) for partition, end in stream.beginnings.items()}
        return sum(
            max(0, end - max(starts[key], before.get(partition, 0)))
            for partition, (key, end) in ends.items()
            if key in starts
        )

    def take_apart_from(self, keys: Collection[str]) -> "Findings":
        """Take out the repairs of users who are in none of these partitions, by `SourcePartition.key`.

        A user of several partitions waits for all of them: an erasure of the one may come after edits of the other.
        """
        apart = {uid: repair for uid, repair in self.repairs.items() if repair.places.keys().isdisjoint(keys)}
        self.repairs = {uid: repair for uid, repair in self.repairs.items() if uid not in apart}
        return Findings(apart)

    def users_by_partition(self, topic_name: str) -> dict[int, int]:
        """Return the number of users in each partition of the topic, by partition. topic_name: as states call it."""
        users = Counter(key for repair in self.repairs.values() for key in repair.places)
        places = ((key.rpartition("/"), number) for key, number in users.items())
        return dict(sorted((int(partition), number) for (name, _, partition), number in places if name == topic_name))


class Losses:
    """Says what is gone for good, and each loss once, however often the input is read."""

    def __init__(self) -> None:
        self._letters: Counter[str] = Counter()
        self._beginnings: dict[int, int] = {}

    def new(self, findings: Findings, stream: CommittedRecords, letters: Counter[str]) -> Iterator[str]:
        """Yield a sentence on each kind of loss that the last call did not know.

        letters: the number of dead letters without payload whose records are gone, by uid.
        """
        if lost := (letters - self._letters).total():
            yield f"{counted(lost, 'dead letter')} without payload: what they held can't be read from the topic"
        if missing := findings.missing(stream, self._beginnings):
            yield (
                f"{counted(missing, 'offset')} between the states and the commits are gone from the topic, of "
                "all users together: what was theirs is missing for good, but for dead letters"
            )
        self._letters |= letters
        self._beginnings |= stream.beginnings
