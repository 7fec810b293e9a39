"""Any bytes give an event or an InvalidEvent that quotes nothing."""

import json

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from corlld.errors import InvalidEvent
from corlld.events.decoder import EventDecoder
from corlld.records import EditEvent, EraseEvent
from corlld.settings.sections import EventSettings
from tests.support.decoding import CANARY, CLOUD, EDIT

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(CANARY) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just(CANARY), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([*EDIT, *CLOUD, "messages", "adapter_version", "truncated", "data_base64", "type", CANARY])
changed_events = st.tuples(st.sampled_from([EDIT, CLOUD]), st.dictionaries(names, json_values, max_size=4)).map(
    lambda pair: json.dumps({**pair[0], **pair[1]}).encode()
)
header_names = st.sampled_from(["content-type", "ce_id", "ce_time", "ce_source", "ce_type", "ce_specversion", CANARY])
header_values = st.binary(max_size=20) | st.sampled_from(
    [b"1.0", b"a.edit", b"2026-03-01T09:00:00Z", b"application/cloudevents+json", CANARY.encode()]
)


# The first inputs are slow: the alphabet of every text is made then.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    key=st.none() | st.just(b"ann") | st.binary(max_size=8),
    value=st.none() | st.binary(max_size=60) | changed_events,
    headers=st.lists(st.tuples(header_names, header_values), max_size=6),
    tombstones_erase=st.booleans(),
)
@example(
    key=b"ann", value=json.dumps({**EDIT, "edited": CANARY, "proposed": 5}).encode(), headers=[], tombstones_erase=True
)
def test_any_bytes_give_an_event_or_an_invalid_event_that_quotes_nothing(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], tombstones_erase: bool
) -> None:
    decoder = EventDecoder(EventSettings(tombstones_erase=tombstones_erase), supports_messages=True)
    event, error = outcome(decoder, key, value, headers)
    if event is None:
        assert error is not None
        assert CANARY not in f"{error!r} {error} {error.field} {error.detail}"
        assert error.__context__ is None
    else:
        assert key == event.user_id.encode()
        assert event.event_id or value is None


def outcome(
    decoder: EventDecoder, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
) -> tuple[EditEvent | EraseEvent | None, InvalidEvent | None]:
    try:
        return decoder.decode(key, value, headers), None
    except InvalidEvent as error:
        return None, error
