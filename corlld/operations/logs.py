"""Logging: one stream for corlld's own entries and those of every library, as lines of JSON or for a console.

No entry may show a user's text. Therefore:
- A value is shown only if its type can't hold a record.
- An exception is shown as its type and frames. Its message is shown only if corlld worded it.
- Libraries log from `warning` up; at debug level, from `info` up. The few exceptions are loggers whose debug lines
  were read and found to hold offsets only.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import datetime
from pathlib import PurePath
from traceback import walk_tb
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter

from corlld.errors import CorlldError, ExitCode, FatalError
from corlld.observer import Observer
from corlld.records import LoopStatus, Stage

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]

# Open at debug level. The rest of kafka-python logs whole requests, with keys, values and SASL's answers.
_OPEN_AT_DEBUG = ("kafka.consumer", "kafka.coordinator", "kafka.cluster")
# Logs the bytes of a response that it can't read, even at level error.
_NEVER = ("kafka.protocol.parser",)
# Libraries that add a handler of their own to their logger when they are imported.
_WITH_OWN_HANDLERS = ("transformers", "huggingface_hub")

_MAX_FRAMES = 40  # the innermost frames of an exception
_MAX_CHAIN = 6  # an exception and its causes


def configure_logging(level: LogLevel, format: LogFormat, stream: TextIO | None = None) -> None:  # noqa: A002
    """Send every entry of structlog, logging and warnings to one stream. May be called again.

    Args:
        level: the least severe level at which corlld's own entries are shown.
        format: `auto` is `console` if the stream is a terminal, else `json`.
        stream: standard error by default.
    """
    terminal = (stream or sys.stderr).isatty()
    console = format == "console" or (format == "auto" and terminal)
    renderer: structlog.typing.Processor
    if console:
        renderer = structlog.dev.ConsoleRenderer(colors=terminal and not os.environ.get("NO_COLOR"))
    else:
        renderer = structlog.processors.JSONRenderer()
    common: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(describe_exception),
        _show_plain_values_only,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *common, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = _Handler(stream or sys.stderr, follows=stream is None)
    handler.setFormatter(
        ProcessorFormatter(foreign_pre_chain=common, processors=[ProcessorFormatter.remove_processors_meta, renderer])
    )
    logging.root.handlers[:] = [handler]
    _set_levels(level)
    logging.captureWarnings(True)


def log_problem() -> str | None:
    """Return a sentence that says why the log can't be written, or None if every write so far worked."""
    for handler in logging.root.handlers:
        if isinstance(handler, _Handler) and handler.problem is not None:
            return f"the log can't be written: {handler.problem}"
    return None


class LogWatch(Observer):
    """Ends a daemon whose log can't be written any more: nobody would see what it does, nor why it fails.

    The daemon ends at the next stage of its start, or within about a second. It does not end at the call that logs:
    that call may be in a library's own thread, or in the middle of the loop's clean-up.
    """

    def starting(self, waiting_for: Stage) -> None:
        """See `Observer`. Raises FatalError."""
        self._check()

    def turned(self, status: LoopStatus) -> None:
        """See `Observer`. Raises FatalError."""
        self._check()

    def _check(self) -> None:
        if (problem := log_problem()) is not None:
            raise FatalError(problem, ExitCode.CANNOT_WRITE)


def log_uncaught_errors() -> None:
    """Log uncaught exceptions instead of printing them with their messages. For a process that is corlld's own."""

    def of_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            if not structlog.is_configured():  # the command has not come so far; structlog itself would print messages
                configure_logging("info", "auto")
            structlog.get_logger("corlld").critical("uncaught", exc_info=(kind, error, trace))

    def of_thread(hook: threading.ExceptHookArgs) -> None:
        if hook.exc_value is not None and not issubclass(hook.exc_type, SystemExit):
            of_process(hook.exc_type, hook.exc_value, hook.exc_traceback)

    sys.excepthook = of_process
    threading.excepthook = of_thread


def describe_exception(exc_info: structlog.typing.ExcInfo) -> str:
    """Describe an exception and its causes: types, frames without local variables, and only corlld's own messages."""
    return "\n".join(_describe(exc_info[1]))


def _describe(error: BaseException) -> Iterator[str]:
    following: BaseException | None = error
    for depth in range(_MAX_CHAIN):
        if following is None:
            return
        yield ("" if depth == 0 else "after " if error.__cause__ is None else "because of ") + _name(following)
        frames = [(frame.f_code, line) for frame, line in walk_tb(following.__traceback__)]
        for code, line in frames[-_MAX_FRAMES:]:
            yield f"  {code.co_filename}:{line} in {code.co_qualname}"
        error = following
        following = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _name(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if isinstance(error, CorlldError):
        return f"{name}: {error}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name}: {os.strerror(error.errno)}"
    return name


def _show_plain_values_only(_: Any, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Show numbers, texts, paths, times and collections of them; of anything else (a record, say) only the type."""
    for key, value in entry.items():
        if not key.startswith("_"):  # structlog's own
            entry[key] = _plain(value)
    return entry


def _plain(value: object) -> object:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, PurePath | datetime):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and not hasattr(value, "_fields"):
        return [_plain(item) for item in value]
    return _name(value) if isinstance(value, BaseException) else f"<{type(value).__qualname__}>"


def _set_levels(level: LogLevel) -> None:
    own = logging.getLevelNamesMapping()[level.upper()]
    debug = own == logging.DEBUG
    logging.root.setLevel(logging.INFO if debug else max(own, logging.WARNING))
    logging.getLogger("corlld").setLevel(own)
    for name in _OPEN_AT_DEBUG:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.NOTSET)
    for name in _NEVER:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for name in _WITH_OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.__class__ = _RoutedLogger
    # Libraries set their own level when they are imported, so the handler filters too.
    logging.root.handlers[0].setLevel(own)
    if not debug:
        logging.root.handlers[0].addFilter(_is_not_from_kafka)


def _is_not_from_kafka(record: logging.LogRecord) -> bool:
    """Drop kafka-python's entries: it logs hundreds of lines for an unreachable broker; `corlld.kafka` logs one."""
    return not (record.name == "kafka" or record.name.startswith("kafka.")) or record.levelno >= logging.CRITICAL


class _RoutedLogger(logging.Logger):
    """A library's logger that accepts no handler and always passes its entries on, whatever the library sets."""

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802
        pass

    @property
    def propagate(self) -> bool:
        return True

    @propagate.setter
    def propagate(self, value: bool) -> None:
        pass


class _Handler(logging.StreamHandler[TextIO]):
    """Writes entries.

    Args:
        stream: where they are written.
        follows: they are written to whatever is standard error at that time. A live display stands in
            for it, and wipes its own line first.
    """

    problem: str | None = None  # the reason why the stream can't be written

    def __init__(self, stream: TextIO, *, follows: bool) -> None:
        super().__init__(stream)
        self._follows = follows

    def emit(self, record: logging.LogRecord) -> None:
        if self._follows and sys.stderr is not None and self.stream is not sys.stderr:
            self.stream, self.problem = sys.stderr, None
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Log that an entry can't be rendered, without its arguments: logging's own handler would print them."""
        entry = {"level": "error", "event": "log_entry_failed", "logger": record.name, "line": record.lineno}
        try:
            self.stream.write(json.dumps(entry) + self.terminator)
            self.flush()
        except OSError as error:  # the stream failed, not the entry
            self.problem = error.strerror or type(error).__name__
        except ValueError:
            self.problem = "it is closed"
