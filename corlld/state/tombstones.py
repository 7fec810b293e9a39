"""Says what a tombstone tells of other states of its user. Pure: it knows neither stores nor files."""

from corlld.durable import UserState


def has_passed(state: UserState, tombstone: UserState) -> bool:
    """Return whether the state has applied the erasure that made the tombstone: the user came back since."""
    applied = tombstone.applied
    return bool(applied) and all(state.applied.get(key, 0) >= offset for key, offset in applied.items())
