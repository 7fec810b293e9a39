"""Makes a file of events the input. Its positions, and its dead letters, lie beside the states."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from corlld.errors import ExitCode, FatalError
from corlld.protocols import DeadLetters, PositionStore, Source
from corlld.records import CommittedRecords, LetterStream, Record
from corlld.settings.sections import Settings
from corlld.sources.jsonl.last_lines import newest_records
from corlld.sources.jsonl.source import JsonlSource
from corlld.sources.letter_file import JsonlDeadLetters, letters_of_file
from corlld.system.durable_files import check_file_permission

GROUP = "jsonl"  # what `store.json` says in place of a consumer group
BY_HAND = """\
no state was repaired: corlld reads no line of a file again, so this is done by hand, in this order:
1. stop the daemon
2. put the state before in place of the damaged one. In a folder (state.path): move the file with the highest number \
out of users/UID. In a bucket (state.url): copy users/UID/previous.safetensors over users/UID/state.safetensors (if \
that is only moved away, the user begins anew). Or take the user's state from a backup: \
`corlld state import FOLDER --replace --uid UID`
3. see its `applied` byte: `corlld state show --uid UID`
4. append the user's lines from that byte on to the file of source.path once more
5. start the daemon: it learns what the state lacks, and nothing twice\
"""


class JsonlInput:
    """Implements `corlld.protocols.Input`. A file has one reader, so that it needs no keys."""

    kind = "jsonl"
    has_keys = False
    can_be_sent_to = False
    group = GROUP
    servers = ()

    def __init__(self, settings: Settings, _problem_seconds: float = 0.0) -> None:
        self._settings = settings

    def problems(self) -> Mapping[str, str]:
        source, letters = self._settings.source, self._settings.dead_letters
        problems = {}
        if source.path is None:
            problems["source.path"] = "not set, needed for source.kind jsonl: the file to read"
        if self._settings.state.url is not None and letters.path is None:
            problems["dead_letters.path"] = "not set, needed for source.kind jsonl if states are in state.url: a file"
        return problems

    def source(self, positions: PositionStore) -> Source:
        return JsonlSource(self._path, follow=self._settings.source.follow, positions=positions)

    def describe(self, source: Source) -> str:
        known = "has committed before" if source.has_commits() else "is new"
        return f"the file can be read; its reader {known}"

    def dead_letters(self, timeout_seconds: float) -> DeadLetters:
        check_file_permission(self._dead_letter_file)  # else the first letter would find out, and wait for ever
        return JsonlDeadLetters(self._dead_letter_file, self._settings.dead_letters)

    def check_dead_letters(self, timeout_seconds: float) -> str:
        file = self._dead_letter_file
        check_file_permission(file)
        return f"file {file}"

    @contextmanager
    def stored_letters(self, since_seconds: float | None, timeout_seconds: float) -> Iterator[LetterStream]:
        if since_seconds is not None:
            raise FatalError("the dead letters of a file have no times: name an offset", ExitCode.USAGE)
        with letters_of_file(self._dead_letter_file) as stream:
            yield stream

    @property
    def grows(self) -> bool:
        return self._settings.source.follow

    def newest_records(
        self, limit: int, timeout_seconds: float, partition: int | None = None
    ) -> Generator[Record, None, None]:
        return newest_records(self._path, limit, follow=self._settings.source.follow)

    def committed_records(
        self, starts: Mapping[str, int], positions: PositionStore, timeout_seconds: float
    ) -> AbstractContextManager[CommittedRecords]:
        raise FatalError(BY_HAND, ExitCode.DATA)

    @property
    def _path(self) -> Path:
        assert self._settings.source.path is not None  # noqa: S101 - there are no `problems`
        return self._settings.source.path

    @property
    def _dead_letter_file(self) -> Path:
        """The dead-letter file: beside the states, unless the settings name another place."""
        return self._settings.dead_letters.path or self._settings.state.path / "dead-letters.jsonl"
