"""Sending: in order, keyed by user, bounded, and exact about what was acknowledged where it can't go on."""

import io
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from corlld.commands import under_way
from corlld.commands.events_file import validate
from corlld.commands.send import send
from corlld.errors import ExitCode, FatalError, RetriableError, TooLargeForTopic
from corlld.events.decoder import EventDecoder
from corlld.settings.sections import EventSettings
from tests.support.commands import clear_settings, fails
from tests.support.edits import edit, lines

DECODER = EventDecoder(EventSettings(), supports_messages=True, key_required=False)
PARTITION = 3


class Topic:
    """Implements `EventProducer`: answers each record as `answer` says, None meaning not yet."""

    def __init__(self, answer: Callable[[int], int | Exception | None]) -> None:
        self.answer = answer
        self.records: list[tuple[bytes, bytes]] = []
        self.unanswered: list[Future[int]] = []

    def send(self, key: bytes, value: bytes) -> "Future[int]":
        self.records.append((key, value))
        sent: Future[int] = Future()
        match self.answer(len(self.records)):
            case None:
                self.unanswered.append(sent)
            case int(partition):
                sent.set_result(partition)
            case error:
                sent.set_exception(error)
        return sent


def sent(topic: Topic, content: bytes, *, ids_remembered: int = 100, **more: Any) -> tuple[dict[int, int], str]:
    """Events by partition, and what was shown of the progress."""
    shown = io.StringIO()
    file = io.BytesIO(content)
    contents = validate(file, "edits.jsonl", DECODER)
    file.seek(0)
    counts = send(
        more.get("file", file),
        "edits.jsonl",
        DECODER,
        contents,
        topic,
        stopped=more.get("stopped", lambda: False),
        ids_remembered=ids_remembered,
        console=Console(file=shown, force_terminal=more.get("terminal", False), width=100),
    )
    return dict(counts), shown.getvalue()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(under_way, "LOOK_SECONDS", 0.005)


TWENTY = [edit(number, user) for number in range(10) for user in ("ann", "bøb")]


def test_events_go_in_order_as_they_stand_in_the_file_keyed_by_their_user_in_utf8() -> None:
    topic = Topic(lambda number: number % 2)
    content = b"\r\n\n" + lines(*TWENTY)
    assert sent(topic, content)[0] == {0: 10, 1: 10}
    assert [key for key, _ in topic.records] == [b"ann", "bøb".encode()] * 10
    assert b"".join(value + b"\n" for _, value in topic.records) == lines(*TWENTY)


def test_progress_is_plain_lines_without_a_terminal_and_a_bar_on_one() -> None:
    plain = sent(Topic(lambda _: 0), lines(*TWENTY))[1].splitlines()
    assert plain == [f"{count} of 20 events" for count in range(2, 21, 2)]
    assert "20/20" in sent(Topic(lambda _: 0), lines(*TWENTY), terminal=True)[1]


def test_no_more_than_a_bounded_number_of_events_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "MAX_EVENTS_UNDER_WAY", 3)
    topic = Topic(lambda _: None)
    most, looked_at = 0, -1

    def look() -> bool:  # asked before each event, and again and again while it waits
        nonlocal most, looked_at
        most = max(most, len(topic.unanswered))
        if looked_at == len(topic.records) and topic.unanswered:
            topic.unanswered.pop(0).set_result(0)
        looked_at = len(topic.records)
        return False

    assert sent(topic, lines(*TWENTY), stopped=look)[0] == {0: 20}
    assert most == 3


def test_no_more_than_a_bounded_number_of_bytes_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "MAX_BYTES_UNDER_WAY", len(lines(edit(0))) + 1)
    topic = Topic(lambda _: None)
    asked = 0

    def look() -> bool:
        nonlocal asked
        asked += 1
        return asked > 20

    with pytest.raises(KeyboardInterrupt):
        sent(topic, lines(*TWENTY), stopped=look)
    assert len(topic.records) == 2


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (TooLargeForTopic("-"), "line 5: larger than the topic's max.message.bytes allows", ExitCode.DATA),
        (RetriableError("topic edits did not acknowledge"), "line 5: topic edits did not", ExitCode.UNAVAILABLE),
    ],
)
def test_nothing_is_sent_after_an_event_that_was_refused(error: Exception, told: str, code: ExitCode) -> None:
    topic = Topic(lambda number: error if number == 5 else PARTITION)
    with pytest.raises(FatalError) as refused:
        sent(topic, lines(*TWENTY))
    assert len(topic.records) == 5
    assert f"edits.jsonl: {told}" in str(refused.value)
    assert "4 of 20 events acknowledged\nsending all of it again is safe" in str(refused.value)
    assert refused.value.exit_code is code


def test_a_refusal_behind_one_that_has_no_answer_yet_stops_the_sending_too() -> None:
    topic = Topic(lambda number: {1: None, 3: RetriableError("away"), 4: RetriableError("later")}.get(number, 0))
    with pytest.raises(FatalError, match=r"line 3: away; 1 of 20 events acknowledged"):
        sent(topic, lines(*TWENTY))
    assert len(topic.records) == 3


def test_a_stop_says_how_many_events_were_acknowledged() -> None:
    topic = Topic(lambda number: PARTITION if number <= 7 else None)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        sent(topic, lines(*TWENTY), stopped=lambda: len(topic.records) == 10)
    assert str(interrupt.value).startswith("interrupted: 7 of 20 events acknowledged\nsending all of it again is safe")


def test_a_stop_when_all_is_acknowledged_already_comes_too_late() -> None:
    topic = Topic(lambda _: PARTITION)
    assert sent(topic, lines(*TWENTY), stopped=lambda: len(topic.records) == 20)[0] == {PARTITION: 20}


def test_where_a_user_has_more_events_than_ids_are_remembered_the_rest_alone_is_to_be_sent_again() -> None:
    topic = Topic(lambda number: RetriableError("away") if number == 5 else 0)
    with pytest.raises(FatalError, match=r"send it again without its first 6 lines, .* last 9 event ids, .* has 10"):
        sent(topic, b"\n\n" + lines(*TWENTY), ids_remembered=9)


@pytest.mark.parametrize("rest", [b"", b"{}\n" + lines(*TWENTY[6:])])
def test_a_file_that_changes_meanwhile_is_told(rest: bytes) -> None:
    topic = Topic(lambda _: 0)
    with pytest.raises(FatalError, match="changed while it was sent; 5 of 20 events acknowledged") as refused:
        sent(topic, lines(*TWENTY), file=io.BytesIO(lines(*TWENTY[:5]) + rest))
    assert refused.value.exit_code is ExitCode.DATA


def test_what_is_appended_meanwhile_was_not_validated_and_is_not_sent() -> None:
    topic = Topic(lambda _: 0)
    assert sent(topic, lines(*TWENTY), file=io.BytesIO(lines(*TWENTY, edit(99))))[0] == {0: 20}


def test_a_bug_in_the_producer_is_not_taken_for_a_refusal() -> None:
    with pytest.raises(ZeroDivisionError):
        sent(Topic(lambda number: ZeroDivisionError() if number == 2 else 0), lines(*TWENTY))


@pytest.mark.parametrize("options", [["--dry-run"], []])
def test_events_are_not_sent_to_the_topic_of_dead_letters(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clear_settings(monkeypatch)
    monkeypatch.setenv("CORLLD_KAFKA__TOPIC", "edits.dead-letters")
    (tmp_path / "edits.jsonl").write_bytes(lines(edit(1)))
    code, said = fails(capsys, "send", *options, str(tmp_path / "edits.jsonl"))
    assert code == ExitCode.CONFIGURATION
    assert "kafka.topic: found 'edits.dead-letters', allowed: another topic than dead_letters.topic; in env" in said
