"""One user that the loop works on."""

from dataclasses import dataclass, field
from enum import Enum, auto

from corlld.loop.memory.unsaved import Unsaved
from corlld.loop.transitions import Selection
from corlld.records import EditEvent, UserState


class Phase(Enum):
    """Where a claimed user is. A claim has at most one job under way, so a user has at most one load or write."""

    PREFETCHING = auto()  # loading, before anything is due
    LOADING = auto()
    READY = auto()
    TRAINING = auto()
    STORING = auto()  # until it is out as well


@dataclass
class Claim:
    """A user that the loop is working on, until its state rests in host memory again.

    state: unsaved updates included. selection: the arrivals of the micro-batch that trains, or all that the state that
    is being stored settles. unsaved: the updates before this micro-batch that are not stored.
    """

    uid: str
    phase: Phase
    state: UserState | None = None
    token: str = ""
    selection: Selection = field(default_factory=Selection)
    unsaved: Unsaved | None = None
    stale: bool = False  # an assignment ended meanwhile: forget the state afterwards, another owner may write it

    @property
    def edits(self) -> tuple[EditEvent, ...]:
        """What is new in the micro-batch, in order."""
        return tuple(a.event for a in self.selection.fresh if isinstance(a.event, EditEvent))
