"""No user text and no raw user id in anything that a run writes, but in the dead letters' payloads (I7)."""

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import oracle
from tests.support.daemon_process import Launcher, Site, http_get, http_port, tail
from tests.support.kafka.broker import KafkaCluster
from tests.support.tiny_models import make_tiny_model
from tests.support.traffic import MAX_TEXT_CHARS, Producer, Sent

CANARY = "kanari7731"  # plain letters and digits: escaping in JSON or URLs leaves it as it is
USER = f"{CANARY}-user@example.org"
OWN_HEADERS = ("__connect.errors.", "corlld.")  # of dead letters; the others are the record's
RECORD_KEY_HEADER = "corlld.record.key"


def encodings(text: str) -> set[bytes]:
    """The text as it might be met in a file: plain, hex, UTF-16, and base64 at each of its three alignments."""
    raw = text.encode()
    found = {raw, raw.hex().encode(), text.encode("utf-16-le")}
    for shift in range(3):
        # What surrounds the text decides the outermost base64 digits; those in between are the text's alone.
        first = -(-shift * 8 // 6)
        last = (shift + len(raw)) * 8 // 6
        found.add(base64.b64encode(b"\0" * shift + raw)[first:last])
    return found


def canaries_in(data: bytes) -> set[bytes]:
    lowered = data.lower()
    return {needle for needle in encodings(CANARY) if needle in data or needle in lowered}


@pytest.mark.parametrize(
    "leak",
    [
        *(f"{'x' * count}{CANARY}yy".encode() for count in range(3)),
        json.dumps({"é\n": f"{CANARY}"}).encode(),
        f"name-{CANARY.upper()}".encode(),
        *(base64.b64encode(f"{'x' * count}{CANARY}yy".encode()) for count in range(3)),
        base64.urlsafe_b64encode(f"{CANARY}".encode()),
        f"user-{CANARY}".encode().hex().encode(),
        f"x{CANARY}".encode("utf-16-le"),
    ],
)
def test_the_search_finds_a_canary_in_every_disguise(leak: bytes) -> None:
    assert canaries_in(b"before " + leak + b" after")
    assert not canaries_in(leak[: len(leak) // 3] + leak[-len(leak) // 3 :])


def good_bodies() -> Iterator[dict[str, Any]]:
    """Edits that are learnt from; every text and the user id hold canaries."""
    for number in range(6):
        yield body(f"good-{number}")
    messages = [{"role": "user", "content": f"{CANARY} question"}, {"role": "assistant", "content": CANARY}]
    chat = {k: v for k, v in body("chat").items() if k != "prompt"}
    yield chat | {"messages": [*messages, messages[0]]}
    yield chat | {"event_id": "unrenderable", "messages": [{"role": CANARY, "content": CANARY}]}
    answer = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": CANARY, "arguments": ""}}]}
    part = {"type": "text", "text": CANARY, CANARY: CANARY}
    tools = [{"type": "function", "function": {"name": CANARY, "parameters": {CANARY: CANARY}}}]
    whole = {"messages": [{"role": "user", "content": [part], "name": CANARY, CANARY: CANARY}, answer]}
    yield chat | whole | {"event_id": "whole", "tools": tools, "chat_template_kwargs": {CANARY: CANARY}}
    yield body("accepted") | {"edited": f"{CANARY} draft"}
    yield body("unknown-fields") | {CANARY: CANARY, "context": {CANARY: [CANARY]}}


def body(event_id: str) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "user_id": USER,
        "occurred_at": "2026-03-04T05:06:07+01:00",
        "prompt": f"Dear {CANARY}, ",
        "proposed": f"{CANARY} draft",
        "edited": f"a better {CANARY} text {event_id}",
    }


def bad_values() -> Iterator[bytes]:
    """Values that are wrong whatever their key is."""
    whole = json.dumps(body("broken")).encode()
    yield from (whole[:-1], whole[: len(whole) // 2], whole + b"}", whole.replace(b":", b"=", 1), CANARY.encode())
    yield whole.replace(b"draft", b"\xff\xfe")
    yield whole[:-1] + f', "user_id": "{CANARY}-other"}}'.encode()
    yield json.dumps([body("list")]).encode()
    yield (f'{{"{CANARY}": ' * 20_000).encode()
    wrong: list[dict[str, Any]] = [
        {"proposed": {CANARY: CANARY}},
        {"edited": [CANARY]},
        {"prompt": None, "proposed": None},
        {"prompt": CANARY, "messages": [{"role": "user", "content": CANARY}]},
        {"prompt": None, "messages": [{CANARY: CANARY}]},
        {"prompt": None, "messages": CANARY},
        *({"prompt": None, "messages": [{"role": "user", "content": "x", **wrong}]} for wrong in bad_of_messages()),
        *({"prompt": None, "messages": [{"role": "user", "content": "x"}], **wrong} for wrong in bad_of_chats()),
        {"tools": [CANARY]},
        {"occurred_at": CANARY},
        {"adapter_version": CANARY},
        {"truncated": CANARY},
        {"type": CANARY},
        {"event_id": CANARY * 60},
        {"event_id": {CANARY: CANARY}},
        {"edited": f"{CANARY} " * (MAX_TEXT_CHARS // len(CANARY))},
        {"proposed": f"\ud800{CANARY}"},
        {"specversion": CANARY},
        {"specversion": "1.0", "id": "1", "source": CANARY, "type": CANARY, "data": body("ce")},
        {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.edit", "time": CANARY, "data": {CANARY: CANARY}},
    ]
    for fields in wrong:
        yield json.dumps(body("wrong") | fields).encode()
    for missing in ("event_id", "user_id", "occurred_at", "prompt", "proposed", "edited"):
        yield json.dumps({name: value for name, value in body("less").items() if name != missing}).encode()


def bad_of_messages() -> Iterator[dict[str, Any]]:
    """Fields that are wrong in a message."""
    for part in ({"type": "image_url", "image_url": CANARY}, {"type": CANARY}, {"type": "text", "text": [CANARY]}):
        yield {"content": [part]}
    yield {"role": "assistant", "reasoning": CANARY, "reasoning_content": f"{CANARY}x"}
    yield {"role": "assistant", "tool_calls": [{"function": {"name": CANARY, "arguments": CANARY}}]}
    of_roles = (("tool", "tool_call_id"), ("assistant", "tool_calls"), ("developer", "tools"))
    yield from ({"role": role, name: [CANARY]} for role, name in of_roles)
    yield {"name": f"\ud800{CANARY}"}
    yield {CANARY: f"\ud800{CANARY}"}


def bad_of_chats() -> Iterator[dict[str, Any]]:
    """Fields that are wrong beside messages."""
    yield from ({"tools": [wrong]} for wrong in (CANARY, {CANARY: CANARY}, {"function": {"name": [CANARY]}}))
    yield from ({"chat_template_kwargs": wrong} for wrong in (CANARY, {"tokenize": CANARY}, {CANARY: [float("nan")]}))
    yield from ({name: CANARY} for name in ("documents", "chat_template", "functions"))


def bad_records() -> Iterator[Sent]:
    key, value = USER.encode(), json.dumps(body("bad")).encode()
    for wrong in bad_values():
        yield Sent(0, key, wrong)
    yield Sent(0, f"{CANARY}-somebody-else".encode(), value)
    yield Sent(0, b"\xff" + CANARY.encode(), value)
    yield Sent(0, None, value)
    yield Sent(0, key, None)
    for name in ("ce_id", "ce_type", "ce_source", "ce_time", "ce_specversion", f"ce_{CANARY}"):
        headers = {"ce_id": "1", "ce_source": "/s", "ce_type": "a.edit", "ce_specversion": "1.0", "ce_time": "never"}
        yield Sent(0, key, value, _encoded(headers | {name: CANARY}))
    yield Sent(0, key, CANARY.encode(), ((CANARY, CANARY.encode()), ("content-type", CANARY.encode())))
    yield Sent(0, key, CANARY.encode(), (("content-type", b"application/cloudevents+json"),))


def _encoded(headers: dict[str, str]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value.encode()) for name, value in headers.items())


def written_below(folder: Path, but: Iterable[Path] = ()) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files."""
    left_out = set(but)
    for path in folder.rglob("*"):
        yield "a name", str(path.relative_to(folder)).encode()
        if path.is_file() and path not in left_out:
            yield str(path.relative_to(folder)), path.read_bytes()


def leaks(written: Iterable[tuple[str, bytes]]) -> set[str]:
    """Return the places where a canary was found, each with its line, which is made up."""
    return {
        f"{where}: {line[:300]!r}"
        for where, data in written
        if canaries_in(data)
        for line in data.splitlines()
        if canaries_in(line)
    }


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "chat", chat_template=True)


def test_a_run_on_kafka_writes_no_user_text_and_no_raw_id(
    tmp_path: Path, kafka_broker: KafkaCluster, chat_model: Path, launcher: Launcher
) -> None:
    site = Site.make(tmp_path, kafka_broker, chat_model, 1)
    config = site.write_settings(operations={"log_level": "debug"}, dead_letters={"max_share": 1.0})
    bad = list(bad_records())
    producer = Producer(site.bootstrap, site.topic)
    producer.send([Sent(0, USER.encode(), json.dumps(fields).encode()) for fields in good_bodies()] + bad)
    life = launcher.start(config, site.log())
    site.wait_for_end(life)
    erasure = {"type": "erase", "event_id": "last", "user_id": f"{CANARY}-2", "occurred_at": "2026-03-04T05:06:07Z"}
    producer.send([Sent(0, f"{CANARY}-2".encode(), json.dumps(erasure).encode())])
    site.wait_for_end(life)
    served = [(path, http_get(http_port(life), path)[1].encode()) for path in ("/metrics", "/", "/readyz", "/nothing")]
    assert life.stop() == 0
    producer.close()

    letters = list(oracle.read_topic(site.bootstrap, f"{site.topic}.dead-letters"))
    announced = list(oracle.read_topic(site.bootstrap, f"{site.topic}.adapters"))
    assert len(letters) == len(bad), tail(site.log())
    assert announced
    assert len(list(site.states.glob("users/*"))) == 2
    assert '"debug"' in site.log().read_text()
    assert leaks(written_below(tmp_path)) == set()
    assert leaks(served) == set()
    assert b"corlld_erasures_total 1.0" in served[0][1], "there was something to tell"
    assert leaks(("announcement", (record.key or b"") + (record.value or b"")) for record in announced) == set()
    assert leaks(own_part_of(letter) for letter in letters) == set()


def own_part_of(letter: Any) -> tuple[str, bytes]:
    """Return what corlld itself wrote into a dead letter: its key and its headers, not the record's own."""
    own = [
        (name, value) for name, value in letter.headers if name.startswith(OWN_HEADERS) and name != RECORD_KEY_HEADER
    ]
    assert own
    return "dead letter", b"\n".join([letter.key, *(name.encode() + b"=" + value for name, value in own)])


def test_a_run_on_a_file_writes_no_user_text_and_no_raw_id(
    tmp_path: Path, chat_model: Path, launcher: Launcher
) -> None:
    edits = tmp_path / f"{CANARY}.jsonl"
    bad = [value for value in bad_values() if b"\n" not in value]
    edits.write_bytes(b"".join(line + b"\n" for line in [json.dumps(b).encode() for b in good_bodies()] + bad))
    site = Site(tmp_path / "site", "localhost:1", str(chat_model), "unused")
    site.folder.mkdir()
    letters = site.folder / "dead-letters.jsonl"
    config = site.write_settings(
        source={"kind": "jsonl", "path": str(edits)},
        # Without payload everything in the file is corlld's own.
        dead_letters={"path": str(letters), "payload": False, "max_share": 1.0},
        publishing={"announce_topic": None},
        operations={"log_level": "debug"},
    )
    life = launcher.start(config, site.log())

    assert life.wait(60) == 0, tail(site.log())
    assert len(letters.read_text().splitlines()) == len(bad)
    assert any(site.adapters.glob("*/v*/adapter_config.json"))
    # The settings file names the input file, whose name its owner chose.
    assert leaks(written_below(site.folder, but=[config])) == set()
