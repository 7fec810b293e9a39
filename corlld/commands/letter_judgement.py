"""Decides which dead letters go back to the input: those that are valid today, not learnt, and not erased since."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from corlld.commands.out_of_reach import OutOfReach
from corlld.commands.repairs import Repairs
from corlld.durable import UserState
from corlld.errors import InvalidEvent, InvalidReason, RetriableError, StateUnreadable
from corlld.events.decoder import EventDecoder
from corlld.events.pseudonyms import Pseudonyms
from corlld.loop.event_ids import known_ids
from corlld.loop.intake import TRY_AGAIN_HEADER
from corlld.records import EditEvent, EraseEvent, StoredLetter


class Verdict(StrEnum):
    """What becomes of a letter in a replay, as it is printed."""

    SEND = "goes back"
    LEARNT = "learnt already"
    ERASED = "older than an erasure, as far as the user's state tells"
    INVALID = "still invalid"
    NO_PAYLOAD = "kept without its payload"
    UNREADABLE = "the user's state still can't be read"
    OTHER_TOPIC = "of another topic"
    OTHER_IDENTITY = "of another identity.secret"


# Something is left to be done. A replay of the others would change nothing, or bring back what was erased.
UNFINISHED = (Verdict.INVALID, Verdict.NO_PAYLOAD, Verdict.UNREADABLE)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record for the input. Its key is the user's id."""

    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    erases: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """A letter's verdict.

    detail: why, without a text of the user. outgoing: None unless it goes back.
    """

    verdict: Verdict
    detail: str = ""
    outgoing: Outgoing | None = None


class Judge:
    """Judges letters by today's decoder and by the users' states.

    Args:
        decoder: does not ask for keys: a record that had none gets its user's.
        names: makes pseudonyms.
        load_header: returns a user's state without tensors; None to look at no states.
        repairs: None to replay letters as they are. With repairs, `judge` is for letters that have one.
        topic: where the events go back to; None for a file. Another input may share the topic of dead letters.
    """

    def __init__(
        self,
        decoder: EventDecoder,
        names: Pseudonyms,
        load_header: Callable[[str], UserState | None] | None,
        repairs: Repairs | None,
        topic: str | None = None,
    ) -> None:
        self._topic = topic
        self._decoder = decoder
        self._names = names
        self._load_header = load_header
        self._repairs = repairs
        self._out_of_reach = OutOfReach()

    def judge(self, letter: StoredLetter) -> Judged | None:
        """Return the letter's verdict; None if there are repairs, and none is for this letter.

        Raises RetriableError if the store of the states is away, and FatalError if a repair is for another event than
        the letter.
        """
        value, headers = letter.record_value, letter.record_headers
        if self._repairs is not None:
            if (repair := self._repairs.of(letter)) is None:
                return None
            value, headers, event = repair.value, (), repair.event
        if self._topic not in (None, letter.partition.topic):
            return Judged(Verdict.OTHER_TOPIC, letter.partition.topic)
        if self._repairs is None:
            if not letter.has_payload:
                return Judged(Verdict.NO_PAYLOAD, letter.headers.get("corlld.payload", "dead_letters.payload is off"))
            try:
                event = self._decoder.decode(letter.record_key, value, headers)
            except InvalidEvent as error:
                return Judged(Verdict.INVALID, str(error))
            if letter.uid not in (None, self._names.uid(event.user_id)):
                return Judged(Verdict.OTHER_IDENTITY)
        if (known := self._known(letter, event)) is not None:
            return known
        if letter.reason == InvalidReason.CRASHED and not any(name == TRY_AGAIN_HEADER for name, _ in headers):
            headers = (*headers, (TRY_AGAIN_HEADER, b""))
        outgoing = Outgoing(event.user_id.encode(), value, headers, isinstance(event, EraseEvent))
        return Judged(Verdict.SEND, outgoing=outgoing)

    def _known(self, letter: StoredLetter, event: EditEvent | EraseEvent) -> Judged | None:
        """Return the verdict that the user's state asks for, or None."""
        if self._load_header is None:
            return None
        uid = self._names.uid(event.user_id)
        try:
            state = self._load_header(uid)
        except StateUnreadable:
            self._out_of_reach.served()
            return Judged(Verdict.UNREADABLE)
        except RetriableError as error:
            self._out_of_reach.note(uid, error)
            return Judged(Verdict.UNREADABLE, str(error))
        self._out_of_reach.served()
        if state is None:
            return None
        if event.event_id and event.event_id in state.recent_event_ids:  # a tombstone has no id
            return Judged(Verdict.LEARNT)
        if may_be_erased(state, letter, erases=isinstance(event, EraseEvent)):
            return Judged(Verdict.ERASED)
        if event.event_id and known_ids(state, self._names.event_id_hash)(event.event_id):  # erased ids are hashes too
            return Judged(Verdict.LEARNT)
        return None


def may_be_erased(state: UserState, letter: StoredLetter, *, erases: bool) -> bool:
    """Return whether an erasure may have come after the letter's record.

    A tombstone's `applied` is the place behind the erasure. Once the user is back, `applied` moves on, and the state
    tells no more where the erasure was: then everything before `applied` counts as erased, but a wish to be forgotten
    does not. A user who was erased before the first version, and is back, looks like a user who was never erased.
    """
    was_erased = state.erased or (state.erased_through > 0 and not erases)
    applied = state.applied.get(letter.partition.key)  # None: of another topic, or before partitions were added
    return was_erased and (applied is None or letter.offset < applied)
