"""Holds what is known of the users whose states are to be repaired: the partitions, and the offsets that they need.

It knows neither the store nor the input.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from corlld.durable import UserState


@dataclass(frozen=True, slots=True)
class Repair:
    """A user whose state is to be repaired.

    starts: the next offset of the generation before, by `SourcePartition.key`.
    state: that generation; None if an interrupted repair has stored it already.
    token: of the state that can't be read.
    damaged: the disk answers with an error in place of that state, which may pass.
    header_lost: not even the header of that state can be read, so nothing tells the partitions that it alone knew.
    found: an offset before the user's first record in each known partition that `starts` lacks, or that of the record.
    """

    uid: str
    starts: Mapping[str, int]
    state: UserState | None = None
    token: str = ""
    damaged: bool = False
    header_lost: bool = False
    found: dict[str, int] = field(default_factory=dict)

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
    """What a look at the store found. hopeless: a sentence for each user whose state can't be repaired now."""

    repairs: dict[str, Repair] = field(default_factory=dict)
    hopeless: list[str] = field(default_factory=list)

    @property
    def starts(self) -> dict[str, int]:
        """The first offset that any of the users needs, by `SourcePartition.key`."""
        starts: dict[str, int] = {}
        for repair in self.repairs.values():
            for key, offset in repair.places.items():
                starts[key] = min(offset, starts.get(key, offset))
        return starts

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
