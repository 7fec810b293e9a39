"""Looks at the first states of a store, where one of many tells what has to be known of all."""

from collections.abc import Callable, Iterable
from itertools import islice

from corlld.durable import UserState
from corlld.errors import RetriableError, StateUnreadable

LOOKED_AT = 100  # as good as any others: pseudonyms are random
MAX_OUT_OF_REACH = 3  # more than one user's trouble: each may cost the client's retries


def any_applied(topic: str, uids: Iterable[str], load_header: Callable[[str], UserState | None]) -> bool:
    """Return whether one of the first states names the topic (a `SourcePartition.topic_id`) in `applied`.

    uids: of the users that have a state. A state that is torn names none.

    Raises RetriableError if no state names the topic, and one could not be looked at.
    """
    out_of_reach: list[RetriableError] = []
    for uid in islice(uids, LOOKED_AT):
        try:
            state = load_header(uid)
        except StateUnreadable:
            continue
        except RetriableError as error:  # of this user alone, perhaps: any other state will do
            out_of_reach.append(error)
            if len(out_of_reach) == MAX_OUT_OF_REACH:
                break
            continue
        if state is not None and any(key.rpartition("/")[0] == topic for key in state.applied):
            return True
    if out_of_reach:
        raise out_of_reach[-1]
    return False
