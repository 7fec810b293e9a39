"""Users who are not announced yet: in which order, since when, and which notes of the outbox name them.

It does no I/O and knows no threads: the announcer locks it, and gives the time.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping

from corlld.durable import OutboxNote


class Backlog:
    """Each user once, however often an announcement was asked for.

    A note names users who must be announced after a restart. It is done, and can be removed, once each of them was
    announced after it was written. A user who is asked for again needs another note: whoever reads the old one may
    have read the head, announced the version before, and remove the note now.

    Attributes:
        done: the names of notes that can be removed; the announcer removes them.
    """

    def __init__(self) -> None:
        self._asked: OrderedDict[str, None] = OrderedDict()  # by this process; longest waiting first
        self._adopted: OrderedDict[str, None] = OrderedDict()  # only named by notes of other lives
        self._own: set[str] = set()  # asked for by this process and not announced
        self._since: dict[str, float] = {}  # unix seconds; all users that are not announced
        self._asks = 0
        self._unnoted: dict[str, int] = {}  # the newest ask of users whom no note names since then
        self._partitions: dict[str, Collection[str]] = {}  # of these users
        self._left: dict[str, set[str]] = {}  # by note: its users who are not announced
        self._notes_of: dict[str, set[str]] = {}  # by user
        self._others: set[str] = set()  # notes of other lives
        self.done: list[str] = []

    @property
    def users(self) -> int:
        """The number of users who are not announced."""
        return len(self._since)

    @property
    def oldest_since(self) -> float | None:
        """Since when the longest waiting user is not announced, in unix seconds; None if all are."""
        return min(self._since.values(), default=None)

    @property
    def has_next(self) -> bool:
        return bool(self._asked or self._adopted)

    @property
    def unnoted(self) -> Mapping[str, int]:
        """Users whom no note names since they were last asked for, with the number of that ask."""
        return self._unnoted

    @property
    def unnoted_partitions(self) -> Collection[str]:
        """The partitions of the users whom no note names since they were last asked for."""
        return set().union(*self._partitions.values())

    def ask(self, uid: str, now: float, partitions: Collection[str] = ()) -> None:
        """Note that the user's newest state must be announced. It has events of these partitions. `now`: unix seconds.

        A commit in one of them would lose the announcement in a crash, until a note names the user.
        """
        self._asks += 1
        self._unnoted[uid] = self._asks
        self._partitions[uid] = partitions
        self._own.add(uid)
        self._since.setdefault(uid, now)
        self._adopted.pop(uid, None)
        self._asked.setdefault(uid)

    def take(self) -> str | None:
        """Take the user whose turn it is; None if there is none. Users of other lives come last."""
        for queue in (self._asked, self._adopted):
            if queue:
                return queue.popitem(last=False)[0]
        return None

    def put_back(self, uid: str) -> None:
        """Give a user who was taken another turn."""
        (self._asked if uid in self._own else self._adopted).setdefault(uid)

    def settle(self, uid: str, *, announced: bool) -> None:
        """Note that a user who was taken has nothing more to be announced here, unless it was asked for meanwhile.

        announced: False if there was nothing: the owner of a newer version announces it. Another daemon's note stays
            then: the version may be out at that daemon's target alone.
        """
        if uid in self._asked:
            return
        del self._since[uid]
        self._own.discard(uid)
        self._unnoted.pop(uid, None)
        self._partitions.pop(uid, None)
        notes = self._notes_of.pop(uid, set())
        for name in notes if announced else notes - self._others:
            self._left[name].discard(uid)
            self._finish(name)
        if not announced and (stay := notes & self._others):
            self._notes_of[uid] = stay

    # --- notes --------------------------------------------------------------------------------------------------------

    def since_of(self, uids: Iterable[str]) -> float:
        """Return since when the longest waiting of these users is not announced, in unix seconds."""
        return min(self._since[uid] for uid in uids)

    def noted(self, name: str, asks: Mapping[str, int]) -> None:
        """Note that a note is durable. asks: its users, with the asks that it was written for (see `unnoted`)."""
        for uid, ask in asks.items():
            if self._unnoted.get(uid) == ask:
                del self._unnoted[uid], self._partitions[uid]
        self._name(name, (uid for uid in asks if uid in self._since))

    def adopt(self, name: str, note: OutboxNote) -> None:
        """Take over a note that another life of the daemon, or another daemon, has written."""
        if name in self._left:
            return
        for uid in note.uids:
            if uid not in self._since:
                self._adopted.setdefault(uid)
            self._since[uid] = min(note.since, self._since.get(uid, note.since))
        self._others.add(name)
        self._name(name, note.uids)

    def knows(self, name: str) -> bool:
        """Return whether users of this note are still to be announced, or its removal is."""
        return name in self._left or name in self.done

    def forget_others(self, names: Iterable[str]) -> None:
        """Forget notes of others that are no longer among `names`: somebody else has announced their users."""
        for name in self._others - set(names):
            for uid in self._left[name]:
                notes = self._notes_of[uid]
                notes.discard(name)
                if not notes and uid not in self._own:
                    del self._notes_of[uid]
                    self._since.pop(uid, None)
                    self._adopted.pop(uid, None)
            del self._left[name]
            self._others.discard(name)

    def try_all_again(self) -> None:
        """Give another turn to users whose state could not be read. To be called while no user is taken."""
        for uid in self._since:
            self.put_back(uid)

    def _name(self, name: str, uids: Iterable[str]) -> None:
        self._left[name] = set(uids)
        for uid in self._left[name]:
            self._notes_of.setdefault(uid, set()).add(name)
        self._finish(name)

    def _finish(self, name: str) -> None:
        """Note that the note is done if no user of it is left."""
        if not self._left[name]:
            del self._left[name]
            self._others.discard(name)
            self.done.append(name)
