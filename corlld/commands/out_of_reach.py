"""Tells the trouble of a single user from a store that is away, for commands that go through many users."""

from corlld.errors import RetriableError

IN_A_ROW = 5  # users; each may cost the client's retries, and a disk's bad spot rarely holds so many


class OutOfReach:
    """Lets a command go on if a call failed for one user. It does not know what is called."""

    def __init__(self) -> None:
        self._in_a_row: dict[str, RetriableError] = {}  # by uid
        self._anybody = False

    def served(self) -> None:
        """Note that a call worked, or that the user's state was found to be torn."""
        self._in_a_row.clear()
        self._anybody = True

    def note(self, uid: str, error: RetriableError) -> str:
        """Note that a call failed for the user. Return a sentence on it.

        Raises the error if calls failed for too many users in a row.
        """
        self._in_a_row[uid] = error
        if len(self._in_a_row) >= IN_A_ROW:
            raise error
        return f"{uid}: {error}"

    def finish(self) -> None:
        """Raise the last error if no call worked for anybody."""
        if self._in_a_row and not self._anybody:
            raise list(self._in_a_row.values())[-1]
