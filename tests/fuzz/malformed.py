"""Strategies for records as broken producers write them: bytes, keys and headers that start from valid events."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.support.decoding import CANARY, CLOUD, DATA, EDIT

Headers = list[tuple[str, Any]]  # Kafka has headers without a value, whatever the type says
MalformedRecord = tuple[bytes | None, bytes | None, Headers]

CHAT: dict[str, Any] = {
    **{name: value for name, value in EDIT.items() if name != "prompt"},
    "messages": [{"role": "system", "content": CANARY}, {"role": "user", "content": "Reply:"}],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    "chat_template_kwargs": {"enable_thinking": False},
}
ERASE: dict[str, Any] = {"type": "erase", **{name: EDIT[name] for name in ("event_id", "user_id", "occurred_at")}}
EVENTS = (EDIT, CHAT, ERASE, CLOUD, {**CLOUD, "type": "com.example.erase"}, {**CLOUD, "data_base64": "e30="})
BINARY: Headers = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"91"),
    ("ce_source", b"/editor/eu"),
    ("ce_type", b"com.example.edit"),
    ("ce_time", b"2026-03-01T10:00:00Z"),
    ("content-type", b"application/json"),
]

_FIELDS = sorted({name for event in (*EVENTS, DATA) for name in event} | {"adapter_version", "truncated", "type"})
_SURROGATE = "\ud800"
_HOSTILE_TEXTS = ("", "\0", "\r\n", "ann", "ä", "\u202e", "\U0010ffff", "<|im_end|>", "v000012", "../../etc", CANARY)

texts = st.sampled_from((*_HOSTILE_TEXTS, _SURROGATE, CANARY + _SURROGATE)) | st.text(max_size=4)
scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from((0, -1, 2**63, 10**18, -(2**70), 1e308, -0.0, float("inf"), float("nan")))
    | st.integers()
    | texts
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS) | texts, inner, max_size=3),
    max_leaves=4,
)

# JSON that `json.dumps` would not write: nested too deeply, numbers too long to read, keys twice, comments.
raw_values = st.one_of(
    st.builds(
        lambda depth, pair: pair[0] * depth + pair[1] * depth,
        st.integers(1, 20_000),
        st.sampled_from((("[", "]"), ('{"a":', "}"), ("[", ""), ('{"a":[', "]}"))),
    ),
    st.builds(
        lambda sign, digits: sign + "9" * digits, st.sampled_from(("", "-", "1e", "0.", "1e-")), st.integers(1, 10_000)
    ),
    st.sampled_from(
        (
            "NaN",
            "-Infinity",
            "0x10",
            "01",
            "+1",
            "1_000",
            "'a'",
            '"\\ud800"',
            '"\\udc00\\ud800"',
            '"\\q"',
            '"\t"',
            "[1,]",
            '{"a":1,"a":2}',
            "/**/1",
            "True",
            "undefined",
            '"\\u00"',
            "",
        )
    ),
)


def _edited_fields(event: dict[str, Any]) -> st.SearchStrategy[bytes]:
    changes = st.dictionaries(st.sampled_from(_FIELDS), json_values, max_size=2)
    dropped = st.lists(st.sampled_from(_FIELDS), max_size=2)
    return st.builds(
        lambda new, gone: _dump({k: v for k, v in {**event, **new}.items() if k not in gone}), changes, dropped
    )


def _spliced(event: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Return the event with raw JSON as the value of a field."""

    def splice(name: str, raw: str) -> bytes:
        return _dump(event)[:-1] + f',"{name}":{raw}}}'.encode("utf-8", "surrogatepass")

    return st.builds(splice, st.sampled_from(_FIELDS), raw_values)


def _long(event: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Return the event with a text around or over the limits."""
    sizes = st.sampled_from((256, 257, 512, 513, 65_536, 65_537, 300_000))
    names = st.sampled_from(("event_id", "user_id", "prompt", "proposed", "edited", "id", "source"))
    return st.builds(lambda name, size: _dump({**event, name: "w" * size}), names, sizes)


def _dump(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


values = st.sampled_from(EVENTS).flatmap(lambda event: _edited_fields(event) | _spliced(event) | _long(event))
keys = st.sampled_from((b"ann",) * 6 + (None, b"", b"bob", b"ann ", b"\xff\xfe", "ann".encode("utf-16"))) | st.binary(
    max_size=300
)
_header_values = st.sampled_from(
    (None, b"", b"1.0", b"0.3", b"a.edit", b"2026-03-01T09:00:00Z", b"yesterday", b"\xff", b"%41%ZZ", CANARY.encode())
) | st.binary(max_size=12)
_header_names = st.sampled_from(
    (
        "content-type",
        "Content-Type",
        "ce_id",
        "CE_ID",
        "ce-id",
        "ce-type",
        "ce_type",
        "ce_time",
        "ce_source",
        "ce_",
        "ce_specversion",
        "ce_data",
        "ce_datacontenttype",
        "ce_dataschema",
        "ce_subject",
        "ce_my-ext",
        "ce_Ä",
        "",
        CANARY,
    )
)
headers: st.SearchStrategy[Headers] = st.one_of(
    st.just([]),
    st.sampled_from(
        (
            b"application/cloudevents+json",
            b"application/cloudevents-batch+json",
            b"application/cloudevents+avro",
            b"application/json",
            b"text/xml;\xff",
        )
    ).map(lambda kind: [("content-type", kind)]),
    st.lists(st.tuples(_header_names, _header_values), max_size=4),
    st.lists(st.tuples(_header_names, _header_values), max_size=2).map(lambda more: [*BINARY, *more]),
)
malformed_records: st.SearchStrategy[MalformedRecord] = st.tuples(
    keys, values | st.binary(max_size=80) | st.none() | raw_values.map(lambda text: text.encode()), headers
)
_ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-7", "utf-8-sig")
_AROUND = ((b"[", b"]"), (b" ", b"\0"), (b"\0\0\0\0\1", b""), (b"\x1f\x8b", b""), (b"Obj\1", b""), (b'{"data":', b"}"))


_HOSTILE: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**18, 2**70, 1e308, float("inf"), float("nan")),
    *(*_HOSTILE_TEXTS, _SURROGATE, "w" * 257, "w" * 70_000),
    *(
        [],
        {},
        [[]],
        [None],
        [CANARY],
        {CANARY: 1},
        {"role": "user"},
        [{"role": CANARY}],
        [{"role": "", "content": "a"}],
    ),
    *([{"role": "user", "content": [{"type": "image_url"}]}], [{"role": "user", "content": [{"type": "text"}]}]),
    *("2026-02-30T09:00:00Z", "2026-03-01T09:00:00", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"),
)


def variants(record: MalformedRecord, draw: Random) -> Iterator[MalformedRecord]:
    """Return the record and nine others: drawn by hypothesis, each would cost ten times as much.

    With the record's headers and without them there are: its value as it is; its bytes damaged; its bytes in another
    encoding, or inside something else (Avro's and gzip's heads among it); and two events with hostile fields.
    """
    key, value, named = record
    for shown in (named, []):
        yield key, value, shown
        yield b"ann", _hostile_event(draw), shown
        yield key, _hostile_event(draw), shown
        if value is None:
            continue
        at = draw.randrange(len(value) + 1)
        yield key, value[:at] + draw.randbytes(draw.randrange(4)) + value[at + draw.randrange(3) :], shown
        before, after = draw.choice(_AROUND)
        other = value.decode(errors="replace").encode(draw.choice(_ENCODINGS)), before + value + after, value[:at]
        yield key, draw.choice(other), shown


def _hostile_event(draw: Random) -> bytes:
    """Return an event in which one to three fields, of the event or of its data, are gone or hostile."""
    event = dict(draw.choice(EVENTS))
    for _ in range(draw.randint(1, 3)):
        place = event
        if isinstance(event.get("data"), dict) and draw.random() < 0.5:
            place = event["data"] = dict(event["data"])
        name = draw.choice(sorted(place)) if place and draw.random() < 0.7 else draw.choice(_FIELDS)
        if draw.random() < 0.2:
            place.pop(name, None)
        else:
            place[name] = draw.choice(_HOSTILE)
    return _dump(event)
