"""Keeps where a group began to read a topic, beside the states: commits expire, and states do not.

A broker forgets a group's commits some time after its last member left (`offsets.retention.minutes`, 7 days by
default). Then a group looks new that is not, and a start at the end of the topic would skip records. So a group is new
only if nothing is kept here. Otherwise it reads again from where it began: the states pass over what they have applied.
Offsets of single users can't tell a better place, since other users' records before them may be unread.
"""

import hashlib
from collections.abc import Mapping

from corlld.protocols import PositionStore


class FirstOffsets:
    """Keeps one offset per partition. All below it was finished, or was to be left out. From the source's thread.

    positions: where the offsets are stored; None for a reader that keeps no states.
    """

    def __init__(self, positions: PositionStore | None) -> None:
        self._positions = positions
        self._name = ""
        self.known: Mapping[int, int] = {}  # by partition
        self.is_new = True  # the group has never read the topic; known after `load`

    def load(self, topic: str, *, has_commits: bool) -> None:
        """Load the offsets.

        Stores of before there were such offsets have states that tell that the topic was read, and not from where.

        Args:
            topic: the name by which states know it.
            has_commits: the group has commits in the topic.

        Raises RetriableError, FatalError.
        """
        self._name = hashlib.sha256(f"first offsets {topic}".encode()).hexdigest()[:32]
        self.known = self._stored()
        self.is_new = not (has_commits or self.known or self._states_know(topic))

    def note(self, starts: Mapping[int, int]) -> None:
        """Make durable where partitions begin, if that is not known yet, or further on. To be called before they begin.

        The group begins at an earlier offset if somebody reset it. Another member may note its own partitions at the
        same time. If one of the two writes is lost, it is made up for when its partitions begin the next time.

        Raises RetriableError, FatalError.
        """
        if self._positions is None or _with(self.known, starts) == self.known:
            return
        stored = self._stored()
        known = _with(stored, starts)
        if known != stored:
            self._positions.save_position(self._name, {str(partition): known[partition] for partition in known})
        self.known = known

    def _states_know(self, topic: str) -> bool:
        return self._positions is not None and self._positions.has_applied(topic)

    def _stored(self) -> dict[int, int]:
        stored = self._positions.load_position(self._name) if self._positions is not None else None
        return {int(partition): int(offset) for partition, offset in (stored or {}).items()}


def _with(known: Mapping[int, int], starts: Mapping[int, int]) -> dict[int, int]:
    return {**known, **{partition: min(offset, known.get(partition, offset)) for partition, offset in starts.items()}}
