"""An oracle for the ownership protocol: from the records that were sent it works out what may be stored, and when.

It knows records, states and published versions. It knows nothing of the loop, and uses none of its rules.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from corlld.durable import UserState
from tests.support.fakes import Applied


@dataclass(frozen=True)
class Sent:
    """A record of the input. kind: edit, acceptance, erase, tombstone or malformed. A tombstone has no event id."""

    kind: str
    user: str
    event_id: str = ""

    @property
    def erases(self) -> bool:
        return self.kind in ("erase", "tombstone")

    @property
    def is_valid(self) -> bool:
        return self.kind != "malformed"


Events = tuple[Sent, ...]


@dataclass
class Known:
    """What is known of a user from the states that were stored.

    possible: the events that the state may consist of. There are several while two partitions hold records of the user.
    covered: next offset by partition. needs: by partition and offset, the version that had to be out before a commit.
    seen: ids of all events that reached the state.
    """

    possible: set[Events] = field(default_factory=lambda: {()})
    covered: dict[int, int] = field(default_factory=dict)
    needs: dict[tuple[int, int], int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    was_erased: bool = False
    newest: UserState | None = None
    newest_out: int = 0
    contents: dict[int, tuple[str, ...]] = field(default_factory=dict)  # of stored versions


class Ledger:
    """Judges what daemons store, publish, set aside and commit. Each fault becomes a sentence in `problems`.

    topic: the records of each partition. names: user by uid.
    """

    def __init__(self, topic: list[list[Sent]], names: Mapping[str, str], topic_id: str) -> None:
        self._topic = topic
        self._names = names
        self._topic_id = topic_id
        self.users = {user: Known() for user in names.values()}
        self.committed = [0] * len(topic)
        self.letters: set[tuple[int, int]] = set()
        self.files: dict[str, set[tuple[int, str]]] = {user: set() for user in names.values()}
        self.problems: list[str] = []
        self._broken_off: set[tuple[str, int]] = set()

    def saved(self, state: UserState) -> None:
        """Judge a state that replaced the one before."""
        user = self._names[state.uid]
        known = self.users[user]
        covered = {number: state.applied.get(f"{self._topic_id}/{number}", 0) for number in range(len(self._topic))}
        if any(covered.get(number, 0) < offset for number, offset in known.covered.items()):
            self._report(f"I6: {user}: a state that covers {covered} replaced one that covers {known.covered}")
            return
        if known.newest is not None and state.version < known.newest.version:
            self._report(f"I5: {user}: version {state.version} was stored after {known.newest.version}")
        runs = {number: self._run(user, number, known.covered.get(number, 0), covered[number]) for number in covered}
        known.was_erased |= any(sent.erases for run in runs.values() for _, sent in run)
        orders = tuple(tuple(sent for _, sent in run) for run in runs.values() if run)
        after = outcomes(known.possible, known.seen, orders)
        known.possible = {events for events in after if self._matches(state, events, erased=known.was_erased)}
        if not known.possible:
            self._report(f"I2, I3: {user}: the state has {ids_of(state)}, and may have {sorted(map(edits_of, after))}")
        known.seen |= {sent.event_id for order in orders for sent in order}
        self._judge_version(user, known, state)
        kept = {sent.event_id for events in known.possible for sent in events}
        if gone := {sent.event_id for sent in self._sent(user) if not sent.erases} & {*state.recent_event_ids} - kept:
            self._report(f"I8: {user}: the state still has the ids {gone}")
        version = state.release.version if state.release else 0
        known.needs |= {(number, offset): version for number, run in runs.items() for offset, _ in run}
        known.covered, known.newest = covered, state

    def published(self, uid: str, version: int, content: tuple[str, ...]) -> None:
        """Judge a version that came out, perhaps once more."""
        user = self._names[uid]
        known = self.users[user]
        if known.contents.get(version) != content:
            self._report(f"I5: {user}: version {version} has {content}, stored was {known.contents.get(version)}")
        known.newest_out = max(known.newest_out, version)

    def appeared(self, uid: str, version: int, file: str) -> None:
        """Note that a file of a version is at the target."""
        self.files[self._names[uid]].add((version, file))

    def removed(self, uid: str, version: int, file: str) -> None:
        """Note that a file of a version is there no more."""
        self.files[self._names[uid]].discard((version, file))

    def broke_off(self, state: UserState) -> None:
        """Note that a version's publication failed for now, or was killed.

        A late owner who is killed while it publishes what was erased meanwhile leaves files of it behind. The
        user's next load removes them, or the round that each publication takes one user further. They are not judged.
        """
        known = self.users[self._names[state.uid]]
        if state.release and known.newest and state.release.version <= known.newest.erased_through:
            self._broken_off.add((self._names[state.uid], state.release.version))

    def came_through(self, state: UserState) -> None:
        """Note that a publication has ended well: if the version was erased, it was removed again."""
        if state.release:
            self._broken_off.discard((self._names[state.uid], state.release.version))

    def acknowledged(self, partition: int, offset: int) -> None:
        """Judge a dead letter."""
        if self._topic[partition][offset].is_valid:
            self._report(f"I1: a valid record became a dead letter: {self._topic[partition][offset]}")
        self.letters.add((partition, offset))

    def commits(self, partition: int, offset: int) -> None:
        """Judge a commit. All before it must be durable and visible, or set aside."""
        if offset > len(self._topic[partition]):
            self._report(f"I1: offset {offset} of partition {partition} was committed, which is beyond its end")
        for below in range(min(offset, len(self._topic[partition]))):
            if (why := self._unfinished(partition, below)) is not None:
                self._report(f"I1: offset {offset} of partition {partition} was committed, but {below} is {why}")
        self.committed[partition] = offset

    def judge_erasures(self) -> None:
        """Judge what is out of users whose erasure is committed. To be called while no call is half done."""
        for user, known in self.users.items():
            last = [at for at in known.needs if self._topic[at[0]][at[1]].erases]
            is_committed = bool(last) and all(offset < self.committed[number] for number, offset in last)
            if is_committed and (left := self._left(user, known)):
                self._report(f"I8: {user} was erased, and {left} are out")

    def judge_end(self) -> None:
        """Judge what there is once nothing is left to do."""
        ends = [len(records) for records in self._topic]
        if self.committed != ends:
            self._report(f"committed are {self.committed} of {ends}")
        for user, known in self.users.items():
            state = known.newest
            if state is None:
                continue
            if left := self._left(user, known):
                self._report(f"I8: {user}: {left} are out")
            newest = max((version for version, _ in self.files[user]), default=0)
            if state.release is not None and newest != state.release.version:
                self._report(f"I5: {user}: out is {newest}, stored is {state.release.version}")

    # --- parts --------------------------------------------------------------------------------------------------------

    def _report(self, problem: str) -> None:
        self.problems.append(problem)

    def _run(self, user: str, partition: int, first: int, end: int) -> list[tuple[int, Sent]]:
        records = enumerate(self._topic[partition][first:end], first)
        return [(offset, sent) for offset, sent in records if sent.user == user and sent.is_valid]

    def _matches(self, state: UserState, events: Events, *, erased: bool) -> bool:
        return (
            ids_of(state) == edits_of(events)
            and state.statistics.events == len(events)
            and state.erased == (erased and not events)
        )

    def _judge_version(self, user: str, known: Known, state: UserState) -> None:
        """Hold each version to one content, and new ones above all before."""
        if state.release is None:
            return
        version, content = state.release.version, ids_of(state)
        if version not in known.contents and version <= max(known.contents, default=0):
            self._report(f"I5: {user}: version {version} is new, and not above {max(known.contents)}")
        if known.contents.setdefault(version, content) != content:
            self._report(f"I5: {user}: version {version} is {content}, it was {known.contents[version]}")

    def _unfinished(self, partition: int, offset: int) -> str | None:
        sent = self._topic[partition][offset]
        if not sent.is_valid:
            return None if (partition, offset) in self.letters else "malformed, and no letter is acknowledged"
        known = self.users[sent.user]
        if known.covered.get(partition, 0) <= offset:
            return "in no stored state"
        erased_through = known.newest.erased_through if known.newest else 0
        if erased_through < known.needs[partition, offset] > known.newest_out:
            return f"in version {known.needs[partition, offset]}, which never was out"
        return None

    def _sent(self, user: str) -> list[Sent]:
        return [sent for records in self._topic for sent in records if sent.user == user]

    def _left(self, user: str, known: Known) -> list[tuple[int, str]]:
        """Return the files of erased versions that are still there."""
        through = known.newest.erased_through if known.newest else 0
        judged = {(version, file) for version, file in self.files[user] if (user, version) not in self._broken_off}
        return sorted((version, file) for version, file in judged if version <= through)


def ids_of(state: UserState) -> tuple[str, ...]:
    """Return the ids of the edits that the state's tensors were made of."""
    if state.adapter is None:
        return ()
    assert isinstance(state.adapter, Applied)
    return state.adapter.event_ids


def edits_of(events: Events) -> tuple[str, ...]:
    """Return the ids of those events that are learnt."""
    return tuple(sent.event_id for sent in events if sent.kind == "edit")


def outcomes(starts: Iterable[Events], seen: set[str], orders: tuple[Events, ...]) -> set[Events]:
    """Return what a state may consist of after new records. Each partition is in order, and they may alternate."""
    reached = {(events, (0,) * len(orders)) for events in starts}
    ends = tuple(len(order) for order in orders)
    for _ in range(sum(ends)):
        reached = {
            (_with(events, orders[which][places[which]], seen | _before(orders, places)), _moved(places, which))
            for events, places in reached
            for which in range(len(orders))
            if places[which] < ends[which]
        }
    return {events for events, _ in reached}


def _with(events: Events, sent: Sent, seen: set[str]) -> Events:
    if sent.event_id and sent.event_id in seen:
        return events  # a duplicate, whatever it is
    return () if sent.erases else (*events, sent)


def _before(orders: tuple[Events, ...], places: tuple[int, ...]) -> set[str]:
    return {sent.event_id for order, place in zip(orders, places, strict=True) for sent in order[:place]}


def _moved(places: tuple[int, ...], which: int) -> tuple[int, ...]:
    return tuple(place + (number == which) for number, place in enumerate(places))
