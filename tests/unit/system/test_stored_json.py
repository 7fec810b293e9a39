"""What was stored is JSON, or a ValueError."""

from collections.abc import Callable

import pytest

from corlld.errors import AttemptsUnreadable, ConfigurationError, PublicationFailed, StateUnreadable
from corlld.publishing.target import parse_manifest
from corlld.state.attempts_file import decode_attempts
from corlld.state.folder_outbox import decode_note
from corlld.state.keys import parse_position
from corlld.state.store_identity import identity_of
from corlld.system.stored_json import read_json
from tests.support.states import UID

DEEP = b"[" * 100_000


def test_json_is_read_and_anything_else_is_a_value_error() -> None:
    assert read_json(b'{"a": [1]}') == read_json('{"a": [1]}') == {"a": [1]}
    for data in (b"", b"{", b"\xff", DEEP, DEEP.decode()):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever its words are, nobody shows them
            read_json(data)


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda: parse_manifest(UID, 3, DEEP), PublicationFailed),
        (lambda: decode_attempts(DEEP, "t/0"), AttemptsUnreadable),
        (lambda: decode_note(DEEP, "a note"), StateUnreadable),
        (lambda: identity_of(DEEP, where="store.json"), ConfigurationError),
    ],
)
def test_a_damaged_file_is_the_trouble_of_what_it_belongs_to(
    read: Callable[[], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        read()
    assert parse_position(DEEP) is None
