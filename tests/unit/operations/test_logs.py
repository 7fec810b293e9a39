"""Every entry goes to one stream in one form, and no entry shows what a record held."""

import importlib
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from corlld.commands.shared import stderr_console
from corlld.errors import FatalError, InvalidEvent, InvalidReason
from corlld.operations.logs import LogLevel, configure_logging, describe_exception, log_problem, log_uncaught_errors
from corlld.records import EditEvent
from corlld.system.progress import shown

CANARY = "c4n4ry"
EVENT = EditEvent("e1", CANARY, datetime(2026, 3, 1, tzinfo=UTC), CANARY, None, CANARY, CANARY)
NAMES = ("", "corlld", "kafka", "kafka.consumer", "kafka.coordinator", "kafka.cluster", "kafka.protocol.parser")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging belongs to the process: put it back."""
    root = logging.getLogger()
    handlers, hooks = root.handlers[:], (sys.excepthook, threading.excepthook)
    levels = {name: logging.getLogger(name).level for name in NAMES}
    libraries = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    kept = [(logger, logger.__class__, logger.handlers[:], logger.level, logger.propagate) for logger in libraries]
    yield
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    sys.excepthook, threading.excepthook = hooks
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for logger, kind, own, level, propagate in kept:
        logger.__class__ = kind
        logger.handlers[:] = own
        logger.setLevel(level)
        logger.propagate = propagate


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(level: LogLevel = "debug") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, "json", stream)
    return stream


def entries(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_entry_is_one_line_of_json_with_time_level_logger_and_fields() -> None:
    stream = configured()
    before = datetime.now(UTC)
    structlog.get_logger("corlld.test").info("partition_assigned", partition=3, path=Path("/x"), ids=("a", 1))
    (entry,) = entries(stream)
    assert before <= datetime.fromisoformat(str(entry.pop("timestamp"))) <= datetime.now(UTC)
    assert entry == {
        "level": "info",
        "logger": "corlld.test",
        "event": "partition_assigned",
        "partition": 3,
        "path": "/x",
        "ids": ["a", 1],
    }


def test_entries_of_libraries_and_warnings_have_the_same_form() -> None:
    stream = configured("info")
    logging.getLogger("urllib3").warning("Retry number %s", "7")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    library, warning = entries(stream)
    assert (library["level"], library["logger"]) == ("warning", "urllib3")
    assert library["event"] == "Retry number 7"
    assert (warning["level"], warning["logger"]) == ("warning", "py.warnings")
    assert "old way" in str(warning["event"])
    assert "timestamp" in library


def test_kafka_python_s_own_lines_are_for_debugging() -> None:
    for level, heard in (("info", []), ("debug", ["Heartbeat failed"])):
        stream = configured(level)
        logging.getLogger("kafka.coordinator").warning("Heartbeat failed")
        assert [entry["event"] for entry in entries(stream)] == heard


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_corlld_speaks_from_its_level_and_libraries_from_warning_on(level: LogLevel) -> None:
    stream = configured(level)
    levels = ["debug", "info", "warning", "error"]
    for name in levels:
        getattr(structlog.get_logger("corlld.test"), name)("own")
        getattr(logging.getLogger("urllib3.connectionpool"), name)("library")
    heard = {"own": levels[levels.index(level) :], "library": levels[max(levels.index(level), 2) :]}
    if level == "debug":
        heard["library"] = levels[1:]
    found = entries(stream)
    for event, expected in heard.items():
        assert [entry["level"] for entry in found if entry["event"] == event] == expected


def test_kafka_s_lines_with_payloads_are_never_shown_but_its_group_s_are_at_debug() -> None:
    stream = configured("debug")
    from kafka.protocol.parser import KafkaProtocol

    parser = KafkaProtocol(client_id="corlld", ident="test")
    parser.bytes_to_send.append(CANARY.encode())
    parser.send_bytes()  # logs the bytes at debug
    for name in ("producer.kafka", "producer.sender", "net.connection", "net.sasl.oauth", "protocol.parser"):
        logging.getLogger(f"kafka.{name}").debug("value=%r", CANARY)
    logging.getLogger("kafka.protocol.parser").error("Unable to decode %d-byte buffer: %r", 9, CANARY)
    logging.getLogger("kafka.consumer.fetcher").debug("Resetting offset")
    assert [entry["event"] for entry in entries(stream)] == ["Resetting offset"]


def test_the_loggers_that_are_kept_quiet_are_the_ones_that_kafka_python_uses() -> None:
    for name in ("protocol.parser", "producer.kafka", "net.connection", "consumer.fetcher", "cluster"):
        importlib.import_module(f"kafka.{name}")
        # Not the module's `log`: kafka-python replaces one when a producer is closed.
        assert isinstance(logging.Logger.manager.loggerDict[f"kafka.{name}"], logging.Logger)


def test_values_that_could_hold_a_record_show_their_type_alone() -> None:
    stream = configured()
    structlog.get_logger("corlld").info(
        "x", edit=EVENT, raw=CANARY.encode(), inside={"list": [EVENT]}, error=ValueError(CANARY), when=EVENT.occurred_at
    )
    assert CANARY not in stream.getvalue()
    (entry,) = entries(stream)
    assert (entry["edit"], entry["raw"], entry["inside"]) == ("<EditEvent>", "<bytes>", {"list": ["<EditEvent>"]})
    assert (entry["error"], entry["when"]) == ("ValueError", "2026-03-01 00:00:00+00:00")


def fail(text: str) -> None:
    """A library's function with the text in a local variable and in its message."""
    copy = text * 2
    raise ValueError(f"bad value {copy}")


def test_an_exception_shows_type_and_frames_without_its_message_and_variables() -> None:
    stream = configured()
    try:
        fail(CANARY)
    except ValueError:
        structlog.get_logger("corlld").exception("bug")
        logging.getLogger("kafka.future").exception("Error processing callback")
    own, library = entries(stream)
    for entry in (own, library):
        lines = str(entry["exception"]).splitlines()
        assert lines[0] == "ValueError"
        assert lines[-1].startswith(f"  {__file__}:")
        assert lines[-1].endswith(" in fail")
    assert CANARY not in stream.getvalue()


def test_corlld_s_own_messages_are_shown_with_what_they_came_from() -> None:
    try:
        try:
            try:
                fail(CANARY)
            except ValueError as error:
                raise OSError(28, CANARY) from error
        except OSError:
            raise FatalError("the disk is full")  # noqa: B904 - the context is what is tested
    except FatalError as error:
        text = describe_exception((type(error), error, error.__traceback__))
    heads = [line for line in text.splitlines() if not line.startswith("  ")]
    assert heads == [
        "corlld.errors.FatalError: the disk is full",
        "after OSError: No space left on device",
        "because of ValueError",
    ]
    assert CANARY not in text


def test_a_context_that_was_taken_away_stays_away() -> None:
    try:
        try:
            fail(CANARY)
        except ValueError:
            raise InvalidEvent(InvalidReason.NOT_JSON) from None
    except InvalidEvent as error:
        text = describe_exception((type(error), error, error.__traceback__))
    assert "ValueError" not in text


def test_an_entry_that_can_t_be_rendered_is_logged_without_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    stream = configured()
    logging.getLogger("urllib3").warning("%d of %d", CANARY)
    (entry,) = entries(stream)
    assert (entry["event"], entry["logger"]) == ("log_entry_failed", "urllib3")
    assert CANARY not in "".join([stream.getvalue(), *capsys.readouterr()])


def test_a_terminal_gets_the_console_form_unless_json_is_asked_for() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        configure_logging("info", "auto", stream)
        try:
            fail(CANARY)
        except ValueError:
            structlog.get_logger("corlld").exception("bug", edit=EVENT)
    assert "\x1b[" in terminal.getvalue()
    assert "in fail" in terminal.getvalue()
    assert CANARY not in terminal.getvalue()
    assert json.loads(pipe.getvalue())["event"] == "bug"
    asked = Terminal()
    configure_logging("info", "json", asked)
    structlog.get_logger("corlld").info("x")
    assert json.loads(asked.getvalue())["event"] == "x"


def test_a_console_without_a_terminal_has_no_colours() -> None:
    stream = io.StringIO()
    configure_logging("info", "console", stream)
    structlog.get_logger("corlld").info("started", uid="ab")
    assert "started" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_configuring_again_moves_to_the_new_stream_alone() -> None:
    first, second = configured(), configured()
    logging.getLogger("corlld").info("x")
    assert first.getvalue() == ""
    assert len(entries(second)) == 1


@pytest.mark.parametrize("library", ["transformers", "huggingface_hub"])
def test_a_library_can_t_put_a_handler_of_its_own_on_its_logger(library: str) -> None:
    own = io.StringIO()
    logging.getLogger(library).addHandler(logging.StreamHandler(own))  # imported before
    stream = configured("error")
    logger = logging.getLogger(library)
    logger.addHandler(logging.StreamHandler(own))  # imported after, as transformers does it
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logging.getLogger(f"{library}.modeling").warning("chatty")
    logging.getLogger(f"{library}.modeling").error("broken")
    assert own.getvalue() == ""
    assert [entry["event"] for entry in entries(stream)] == ["broken"]


def test_what_nobody_caught_is_logged_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    stream = configured()
    log_uncaught_errors()
    thread = threading.Thread(target=fail, args=(CANARY,))
    thread.start()
    thread.join()
    try:
        fail(CANARY)
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    found = entries(stream)
    assert [(entry["level"], entry["event"]) for entry in found] == [("critical", "uncaught")] * 2
    assert all(str(entry["exception"]).startswith("ValueError\n") for entry in found)
    assert CANARY not in "".join([stream.getvalue(), *capsys.readouterr()])


def test_an_interrupt_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    stream = configured()
    log_uncaught_errors()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert stream.getvalue() == ""
    assert "KeyboardInterrupt" in capsys.readouterr().err


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard error a terminal. Not in a fixture: pytest sets standard error anew when the test begins."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_entries_beside_a_progress_bar_have_whole_lines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    configure_logging("info", "json")
    with shown(stderr_console(), "reaching the input"):
        structlog.get_logger("corlld").info("kafka_not_reached", problem="word " * 40)
    [entry] = [line for line in terminal.getvalue().splitlines() if "kafka_not_reached" in line]
    before, brace, entry = entry.partition("{")
    assert "reaching" not in before.rpartition("\x1b[2K")[2], "the bar is wiped away before the entry"
    assert json.loads(brace + entry)["event"] == "kafka_not_reached"


def test_a_display_that_could_not_be_written_is_forgotten_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    configure_logging("info", "json")
    closed = Terminal()
    closed.close()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", closed)
        structlog.get_logger("corlld").info("one")
        assert log_problem() == "the log can't be written: it is closed"
        patched.setattr(sys, "stderr", None)
        structlog.get_logger("corlld").info("nobody reads this")
    structlog.get_logger("corlld").info("two")
    assert log_problem() is None
    assert "two" in terminal.getvalue()
