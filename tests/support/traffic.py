"""Edit events of made-up users, good and bad, the same for the same seed; knows what must become of each."""

import json
import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaProducer

WORDS = tuple(
    word
    for line in (
        "a the our their new old short plain report letter answer draft team plan week result says shows needs gives",
        "clear early late soon often again better simple longer please thanks regards update meeting number figure",
    )
    for word in line.split()
)
MAX_TEXT_CHARS = 4_000  # of the daemons under test; shorter than the default, so that a text can pass it
OCCURRED_AT = "2026-03-04T05:06:07+01:00"


@dataclass(frozen=True)
class Sent:
    """A record to send. `reason`: why it must be set aside; None for a good one."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    reason: str | None = None


def users(count: int) -> list[str]:
    return [f"user-{number}@example.org" for number in range(count)]


def partition_of(user_id: str, partitions: int) -> int:
    """The partition that owns the user. Checksums of the users' names reach every partition."""
    return zlib.crc32(user_id.encode()) % partitions


def edits(count: int, user_ids: Sequence[str], partitions: int, *, seed: int) -> list[Sent]:
    """`count` records of made-up edits, mixed by `mixed`; users are drawn at random, so some are busier than others."""
    draw = random.Random(seed)
    bodies = (event(draw, f"event-{seed}-{number:04d}", draw.choice(user_ids)) for number in range(count))
    return mixed(count, bodies, partitions, seed=seed)


def mixed(count: int, bodies: Iterable[dict[str, Any]], partitions: int, *, seed: int) -> list[Sent]:
    """`count` records: 5% malformed, 10 acceptances, 10 duplicates, the rest edits; one in eight a CloudEvent.

    Args:
        count: all records together, at least 60.
        bodies: fields of edits, at least `count` of them.
        partitions: of the topic.
        seed: the same seed gives the same records.
    """
    draw = random.Random(seed)
    bad, acceptances, duplicates = count * 5 // 100, 10, 10
    kinds = ["bad"] * bad + ["acceptance"] * acceptances + ["edit"] * (count - bad - acceptances - duplicates)
    draw.shuffle(kinds)
    reasons = _bad_kinds(draw)
    records: list[Sent] = []
    good: list[Sent] = []
    for body, kind in zip(bodies, kinds, strict=False):
        user_id = body["user_id"]
        place = partition_of(user_id, partitions)
        if kind == "acceptance":
            body = body | {"edited": body["proposed"]}
        if kind == "bad":
            records.append(next(reasons)(place, user_id, body))
        else:
            good.append(_good(draw, place, user_id, body))
            records.append(good[-1])
    for again in draw.sample(good, duplicates):
        # Somewhere after the first copy: a producer that did not hear the acknowledgement.
        records.insert(draw.randint(records.index(again) + 1, len(records)), again)
    return records


def event(draw: random.Random, event_id: str, user_id: str) -> dict[str, Any]:
    """The fields of one edit: a few words of the draft are exchanged, dropped or put in."""
    proposed = draw.choices(WORDS, k=draw.randint(4, 14))
    edited = list(proposed)
    while edited == proposed:
        for _ in range(draw.randint(1, 4)):
            edited[draw.randrange(len(edited))] = draw.choice(WORDS)
        if draw.random() < 0.5:
            edited.insert(draw.randint(0, len(edited)), draw.choice(WORDS))
    return {
        "event_id": event_id,
        "user_id": user_id,
        "occurred_at": OCCURRED_AT,
        "prompt": " ".join(draw.choices(WORDS, k=draw.randint(2, 10))),
        "proposed": " ".join(proposed),
        "edited": " ".join(edited),
    }


def plain(place: int, user_id: str, body: dict[str, Any], reason: str | None = None) -> Sent:
    return Sent(place, user_id.encode(), json.dumps(body).encode(), reason=reason)


def _good(draw: random.Random, place: int, user_id: str, body: dict[str, Any]) -> Sent:
    form = draw.randrange(16)
    if form > 1:
        return plain(place, user_id, body)
    data = {name: value for name, value in body.items() if name not in ("event_id", "occurred_at")}
    about = {
        "specversion": "1.0",
        "id": body["event_id"],
        "source": "/editor",
        "type": "org.example.edit",
        "time": body["occurred_at"],
    }
    if form == 0:
        structured = {**about, "datacontenttype": "application/json", "data": data}
        structured_mode = ("content-type", b"application/cloudevents+json")
        return Sent(place, user_id.encode(), json.dumps(structured).encode(), (structured_mode,))
    attributes = ((f"ce_{name}", value.encode()) for name, value in about.items())
    headers = (*attributes, ("content-type", b"application/json"))
    return Sent(place, user_id.encode(), json.dumps(data).encode(), headers)


def _bad_kinds(draw: random.Random) -> Iterator[Any]:
    """Ways to be wrong, over and over."""

    def without(name: str) -> Any:
        return lambda place, user, body: plain(
            place, user, {k: v for k, v in body.items() if k != name}, "missing_field"
        )

    def with_(reason: str, **fields: Any) -> Any:
        return lambda place, user, body: plain(place, user, body | fields, reason)

    kinds = [
        lambda place, user, body: Sent(place, user.encode(), json.dumps(body).encode()[:-7], (), "not_json"),
        lambda place, user, body: Sent(place, user.encode(), b"\xff\xfe\x00", (), "not_json"),
        lambda place, user, body: Sent(place, user.encode(), json.dumps([body]).encode(), (), "not_an_object"),
        lambda place, user, body: Sent(place, b"someone-else", json.dumps(body).encode(), (), "key_mismatch"),
        lambda place, user, body: Sent(place, None, json.dumps(body).encode(), (), "key_missing"),
        lambda place, user, body: Sent(place, user.encode(), None, (), "no_value"),
        without("edited"),
        without("event_id"),
        with_("invalid_field", proposed=17),
        with_("invalid_field", occurred_at="yesterday"),
        with_("unknown_type", type="applause"),
        with_("too_large", edited="much too long " * (MAX_TEXT_CHARS // 14 + 1)),
        with_("not_cloudevents", specversion="0.9"),
    ]
    draw.shuffle(kinds)
    while True:
        yield from kinds


class Producer:
    """Sends records and learns where they came to lie."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, allow_auto_create_topics=False
        )
        self._topic = topic
        self.records = 0
        self.bad: dict[str, str] = {}  # reason by "partition/offset"

    def send(self, records: Sequence[Sent]) -> None:
        """Returns once all are acknowledged."""
        futures = [
            (sent, self._producer.send(self._topic, sent.value, sent.key, list(sent.headers), sent.partition))
            for sent in records
        ]
        for sent, future in futures:
            metadata = future.get(timeout=30)
            self.records += 1
            if sent.reason is not None:
                self.bad[f"{metadata.partition}/{metadata.offset}"] = sent.reason

    def close(self) -> None:
        self._producer.close()
