"""The notes on one live tenure's partition: what the journal of attempts knows of it, and what of that is kept."""

from collections.abc import Collection
from dataclasses import dataclass, field

from corlld.durable import Attempts
from corlld.records import Record, Tenure

MARK_RECORDS = 1_000  # the mark is raised by so many records of the size of the last one
MAX_LETTERS = 10_000  # remembered per partition; of others there may be copies
MAX_CRASHED = 1_000  # remembered per partition; the oldest are forgotten first


@dataclass
class PartitionNotes:
    """What is known of a live tenure's partition.

    doubtful_below: the mark that the tenure found. Nothing at it or above was tried before the tenure.
    committed: the committed offset, as last seen.
    crashed: hashes of the ids of events that became dead letters since they ended the process; oldest first.
    paused: reading is paused, since too many records are invalid.
    new_letters: since letters were last looked at.
    changed: since all of it was last saved.
    """

    doubtful_below: int
    tried_below: int
    committed: int
    tries: dict[int, int]
    letters: set[int]
    crashed: dict[bytes, None] = field(default_factory=dict)
    paused: bool = False
    new_letters: bool = False
    changed: bool = False

    @classmethod
    def of(cls, tenure: Tenure, stored: Attempts, ended: Collection[int]) -> "PartitionNotes":
        """Return the notes at the tenure's beginning.

        Args:
            tenure: has just begun.
            stored: what the partition's owners before have kept.
            ended: offsets whose steps have ended since that was kept.
        """
        start = tenure.start_offset
        tries = {offset: count for offset, count in stored.tries.items() if offset >= start and offset not in ended}
        # A group that was set back on purpose wants its records anew, and the letters too.
        letters = {offset for offset in stored.letters if offset >= start} if start >= stored.committed else set()
        return cls(
            doubtful_below=stored.tried_below,
            tried_below=stored.tried_below,
            committed=start,
            tries=tries,
            letters=letters,
            crashed=dict.fromkeys(stored.crashed),
            paused=stored.paused,
            changed=any(offset in ended for offset in stored.tries),
        )

    def content(self) -> Attempts:
        """Return what is kept."""
        return Attempts(
            self.tried_below,
            self.committed,
            dict(self.tries),
            frozenset(self.letters),
            tuple(self.crashed),
            self.paused,
        )

    def trying(self, record: Record) -> bool:
        """Note that a step with the record's event begins. Return whether that must be durable first."""
        counted = record.offset < self.doubtful_below
        if counted:
            self.tries[record.offset] = self.tries.get(record.offset, 0) + 1
        unmarked = record.offset >= self.tried_below
        if unmarked:
            self.tried_below = record.next_offset + MARK_RECORDS * (record.next_offset - record.offset)
        self.changed |= counted or unmarked
        return counted or unmarked

    def not_tried(self, record: Record) -> None:
        """Take back what `trying` has counted: the step with the record's event did not begin."""
        if tries := self.tries.pop(record.offset, 0):
            self.changed = True
            if tries > 1:
                self.tries[record.offset] = tries - 1

    def acknowledged(self, offset: int) -> None:
        """Note that the record's dead letter is acknowledged, unless there are too many already."""
        if len(self.letters) < MAX_LETTERS:
            self.letters.add(offset)
            self.tries.pop(offset, None)
            self.new_letters = True

    def forget_committed_letters(self) -> None:
        """Forget letters below the committed offset. The notes have changed if there were such, or new ones."""
        left = {offset for offset in self.letters if offset >= self.committed}
        self.changed |= len(left) < len(self.letters) or (self.new_letters and bool(left))
        self.letters = left
        self.new_letters = False

    def remember_crashed(self, event_hash: bytes) -> None:
        """Remember an event that became a dead letter since it ended the process."""
        if event_hash not in self.crashed:
            self.crashed[event_hash] = None
            self.changed = True
            if len(self.crashed) > MAX_CRASHED:
                del self.crashed[next(iter(self.crashed))]

    def forget_crashed(self, event_hash: bytes) -> None:
        """Forget such an event: it is tried once more."""
        del self.crashed[event_hash]
        self.changed = True
