"""Attempts in the folder of the states: `attempts/<digest of the partition>.json`, each replaced as a whole."""

from pathlib import Path

from corlld.durable import Attempts
from corlld.errors import AttemptsUnreadable, RetriableError
from corlld.state.attempts_file import attempts_key, decode_attempts, encode_attempts
from corlld.state.damage import damage_raises, read_twice
from corlld.state.store_identity import IDENTITY_NAME
from corlld.system.durable_files import PERSONAL, make_folders, replace, retriable


class FolderAttempts:
    """Implements `corlld.protocols.AttemptStore`.

    Args:
        path: the folder of a state store that was opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity_file = path / IDENTITY_NAME

    def load_attempts(self, partition: str) -> Attempts | None:
        """See the protocol. A folder that is not mounted does not look like a partition without attempts."""
        key = attempts_key(partition)
        with retriable(self._path), damage_raises(self._identity_file, lambda why: AttemptsUnreadable(f"{key}: {why}")):
            try:
                data = read_twice(self._path / key)  # counts that are called unreadable are lost
            except FileNotFoundError:
                self._check_mounted()
                return None
        return decode_attempts(data, partition)

    def save_attempts(self, partition: str, attempts: Attempts) -> None:
        """See the protocol."""
        file = self._path / attempts_key(partition)
        with retriable(self._path):
            if not file.parent.is_dir():
                self._check_mounted()
                make_folders(file.parent, PERSONAL)
            replace(file, encode_attempts(partition, attempts), PERSONAL)

    def _check_mounted(self) -> None:
        if not self._identity_file.exists():
            raise RetriableError(f"{self._path} is not a state store; is the folder mounted?")
