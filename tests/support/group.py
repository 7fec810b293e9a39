"""A topic and its consumer group in memory: partitions, commits, assignments, members that may hear of them late."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count

from corlld.records import Polled, Record, SourcePartition, Tenure
from tests.support.fakes import ScriptedSource

TOPIC_ID = "topic-id"
RECORDS_PER_POLL = 3  # of each partition

KeyAndValue = tuple[bytes | None, bytes | None]


@dataclass(frozen=True, eq=False)
class Assignment:
    """A partition that is a member's until the next rebalance that moves it. Each one is another."""

    partition: int
    member: "Member"


@dataclass
class Group:
    """What the broker knows. It takes a commit from a partition's present owner alone.

    committing: called with partition and offset before a commit takes effect.
    commit_faults: of the next commits. "refused": it has no effect. "unheard": only its answer is lost.
    """

    committing: Callable[[int, int], None]
    partitions: list[list[KeyAndValue]] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)
    assignments: dict[int, Assignment] = field(default_factory=dict)
    commit_faults: list[str] = field(default_factory=list)

    def add_partition(self) -> None:
        """Add a partition. It has no owner before the next rebalance."""
        self.partitions.append([])
        self.committed.append(0)

    def assign(self, owners: Mapping[int, "Member"], *, eager: bool) -> None:
        """Give each partition to a member. eager: also partitions that stay with their member get a new tenure."""
        for number, member in owners.items():
            before = self.assignments.get(number)
            if eager or before is None or before.member is not member:
                self.assignments[number] = Assignment(number, member)

    def commit(self, assignment: Assignment, offset: int) -> bool:
        """Commit, if the assignment still holds. Return whether the member is answered."""
        fault = self.commit_faults.pop() if self.commit_faults else None
        if fault == "refused" or self.assignments[assignment.partition] is not assignment:
            return False
        self.committing(assignment.partition, offset)
        self.committed[assignment.partition] = offset
        return fault is None


class Member(ScriptedSource):
    """A daemon's source. Once it is `deaf` it reads on without hearing of rebalances, as a member that was cut off."""

    numbers = count(1)

    def __init__(self, group: Group) -> None:
        super().__init__([], finite=False)
        self._group = group
        self._live: dict[Tenure, Assignment] = {}
        self._read: dict[Tenure, int] = {}
        self._known: dict[Tenure, int] = {}
        self.deaf = False

    def poll(self, timeout_seconds: float) -> Polled:
        """Return the group's news, and records of the partitions that were assigned before."""
        ended: tuple[Tenure, ...] = ()
        begun: list[Tenure] = []
        if not self.deaf:
            held = self._group.assignments
            ended = tuple(t for t, old in self._live.items() if held[old.partition] is not old)
            for tenure in ended:
                del self._live[tenure], self._read[tenure], self._known[tenure]
        delivered = () if self.paused else tuple(self._deliver())
        if not self.deaf:
            begun = [self._begin(new) for new in self._group.assignments.values() if self._is_news(new)]
        return Polled(delivered, ended, tuple(begun))

    def positions(self) -> Mapping[Tenure, int]:
        return dict(self._read)

    def ends(self) -> Mapping[Tenure, int]:
        return {tenure: len(self._group.partitions[held.partition]) for tenure, held in self._live.items()}

    def committed(self) -> Mapping[Tenure, int]:
        return dict(self._known)

    def commit(self, next_offsets: Mapping[Tenure, int]) -> bool:
        for tenure, offset in next_offsets.items():
            if tenure in self._live and self._group.commit(self._live[tenure], offset):
                self._known[tenure] = offset
        return True

    def close(self, next_offsets: Mapping[Tenure, int], timeout_seconds: float) -> None:
        self.commit(next_offsets)

    def _is_news(self, assignment: Assignment) -> bool:
        return assignment.member is self and assignment not in self._live.values()

    def _begin(self, assignment: Assignment) -> Tenure:
        start = self._group.committed[assignment.partition]
        tenure = Tenure(SourcePartition("edits", TOPIC_ID, assignment.partition), next(self.numbers), start)
        self._live[tenure] = assignment
        self._read[tenure] = self._known[tenure] = start
        return tenure

    def _deliver(self) -> Iterable[Record]:
        for tenure, position in list(self._read.items()):
            records = self._group.partitions[tenure.partition.partition]
            end = min(len(records), position + RECORDS_PER_POLL)
            yield from (Record(tenure, offset, offset + 1, *records[offset]) for offset in range(position, end))
            self._read[tenure] = end
