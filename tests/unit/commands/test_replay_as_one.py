"""An archive of many users as the archive of one: what was erased stays out, however often it is delivered."""

from typing import Any

from corlld.commands.replay_as_one import without_erased
from corlld.events.decoder import EventDecoder
from corlld.settings.sections import EventSettings
from tests.support.edits import edit, erasure, lines

DECODER = EventDecoder(EventSettings(), supports_messages=True, key_required=False)


def kept(*events: dict[str, Any]) -> bytes:
    return b"".join(line + b"\n" for line in without_erased(lines(*events).splitlines(), DECODER))


def test_an_edit_that_was_erased_and_is_delivered_again_stays_out() -> None:
    assert kept(edit(1), erasure(), edit(1), edit(2)) == lines(edit(2))
    assert kept(edit(1), erasure(), erasure(), edit(1)) == b""


def test_an_id_is_known_per_user() -> None:
    ann, bob = edit(1), edit(1, "bob", event_id="ann-1")
    assert kept(ann, erasure(), bob, ann, bob) == lines(bob)
