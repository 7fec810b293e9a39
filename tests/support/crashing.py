"""Lives of a daemon in memory whose learner ends the process at a guilty event.

A crash is an exception of the learner: nothing of that life is committed or stored afterwards. The next life begins
at the offset that was committed last, with the stores as they were left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from corlld.records import Polled, Record, Tenure, TrainingBatch
from tests.support.daemon_parts import Parts, records, value
from tests.support.fakes import ListingLearner, ScriptedSource, tenure

KEY = tenure().partition.key
MAX_CRASHES = 3  # the default
USERS = ("ann", "bob", "cid")


class Crash(BaseException):
    """The process ends."""


@dataclass
class Site:
    """What outlives a daemon: the topic, its stores, and the offset that was committed last.

    guilty: each step with these events ends the process, whatever else is in it.
    """

    delivered: tuple[Record, ...]
    guilty: Sequence[str] = ()
    parts: Parts = field(default_factory=lambda: Parts(batching={"max_events": 8}))
    committed: int = 0
    steps: list[list[list[str]]] = field(default_factory=list)  # the event ids by user of each step, over all lives

    def live(self) -> bool:
        """Run a daemon to its end. Return whether it ended by itself."""
        begins = tenure(number=1, start_offset=self.committed)
        left = [r for r in self.delivered if r.offset >= self.committed]
        moved = tuple(replace(r, tenure=begins) for r in left)
        self.parts.learner = ListingLearner(self._step)
        source = ScriptedSource([Polled(moved, begun=(begins,))])
        try:
            self.parts.daemon(source).run()
        except Crash:
            self._take(source.commits[-1] if source.commits else {})
            return False
        self._take(source.final or {})
        return True

    def lives_until_it_stands(self, at_most: int) -> int:
        """Return how many lives crashed before one ended by itself."""
        for crashed in range(at_most):
            if self.live():
                return crashed
        raise AssertionError(f"{at_most} lives, and none ended by itself")

    def letters(self) -> list[tuple[int, str]]:
        return [(letter.record.offset, letter.error.reason.value) for letter in self.parts.dead_letters.letters]

    def _step(self, batches: Sequence[TrainingBatch]) -> None:
        step = [[event.event_id for event in batch.events] for batch in batches]
        self.steps.append(step)
        if any(event_id in self.guilty for ids in step for event_id in ids):
            raise Crash

    def _take(self, commits: dict[Tenure, int]) -> None:
        self.committed = max([self.committed, *commits.values()])


def edits(*event_ids: str) -> tuple[Record, ...]:
    """Records at offsets 0, 1, ... The user is the beginning of the event's id."""
    return tuple(
        records(value(event_id, user=event_id.split("-")[0]), user=event_id.split("-")[0], first=offset)[0]
        for offset, event_id in enumerate(event_ids)
    )
