"""Looks at the first states of a store, where one of many tells what has to be known of all."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from corlld.durable import UserState
from corlld.errors import StateUnreadable

LOOKED_AT = 100  # as good as any others: pseudonyms are random


def any_applied(topic: str, uids: Iterable[str], load_header: Callable[[str], UserState | None]) -> bool:
    """Return whether one of the first states names the topic (a `SourcePartition.topic_id`) in `applied`.

    uids: of the users that have a state. A state that can't be read names none.
    """
    for uid in islice(uids, LOOKED_AT):
        with suppress(StateUnreadable):
            state = load_header(uid)
            if state is not None and any(key.rpartition("/")[0] == topic for key in state.applied):
                return True
    return False
