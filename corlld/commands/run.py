"""`corlld run`: the daemon, from its start until it is stopped."""

import argparse
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from corlld import __version__
from corlld.commands.ending import give_up, settle
from corlld.commands.shared import add_config, load
from corlld.errors import ExitCode, FatalError
from corlld.system.signals import STOP_SIGNALS, let_the_next_end_the_process, stop_on_signals, watched_stop

if TYPE_CHECKING:
    from corlld.settings.sections import Settings

NAME = "run"
HELP = "run the daemon until it is stopped: read edit events, learn, publish adapters"
DESCRIPTION = (
    "Run the daemon until it is stopped: read edit events, learn from them, publish an adapter per user. "
    "An input that is a file ends the run at its end, unless source.follow is on."
)
EPILOG = """\
examples:
  corlld run                          with /etc/corlld/corlld.toml
  corlld run --config corlld.toml
  CORLLD_OPERATIONS__LOG_LEVEL=debug corlld run

A file that is not followed and has no valid event gives exit code 65.

SIGTERM or SIGINT stops the daemon: it stores its states, publishes their
versions, commits its offsets, and exits with 0. A second signal ends the
process at once. A daemon that hangs ends with 70 once the stop has taken
operations.shutdown_timeout_seconds: nothing is lost, since what was not
durable is not committed. The other exit codes are in `corlld --help`.
"""

# Beyond the shutdown timeout, for the parts that the loop still closes: each takes seconds if the broker is away.
# systemd waits longer: see `STOP_MARGIN_SECONDS` in `operations.notify`.
CLOSING_SECONDS = 12.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `Command`."""
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """See `Command`. Raises FatalError: also for a bug, which has been logged then."""
    import structlog

    log = structlog.get_logger("corlld")
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)
    try:
        settings = load(arguments)
        with watched_stop(settings.operations.shutdown_timeout_seconds + CLOSING_SECONDS, _give_up):
            return _run(settings)
    except FatalError:
        raise
    except Exception:  # nothing goes on after it: a bug is logged without its message, which could quote a text
        log.exception("bug")
        raise FatalError("this is a bug in corlld; the log has its frames", ExitCode.INTERNAL) from None


def _leave(number: int, frame: FrameType | None) -> None:
    """End the start at once. Until the loop runs nothing has begun that would have to be finished."""
    let_the_next_end_the_process()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(ExitCode.OK)


def _run(settings: "Settings") -> int:
    import structlog

    from corlld.assembly import build_daemon, build_input, refuse_wrong_settings
    from corlld.operations.watched import watched
    from corlld.settings.unused import unused

    log = structlog.get_logger("corlld")
    refuse_wrong_settings(settings)  # before the port opens
    the_input = build_input(settings)
    for found in unused(settings, kind=the_input.kind, is_topic=the_input.can_be_sent_to):
        log.warning("settings_not_used", found=found)
    with watched(settings) as observer:
        daemon = build_daemon(settings, observer)
        with stop_on_signals(daemon.request_stop):
            log.info("running", version=__version__)
            daemon.run()
    daemon.refuse_if_nothing_was_valid()
    log.info("stopped")
    if daemon.abandoned:
        # A thread is still in a step that the stop could not wait for; joining it would take as long.
        os._exit(settle(ExitCode.OK))
    return ExitCode.OK


def _give_up(reason: str) -> None:
    give_up(
        f"the stop is given up: {reason}. Nothing is lost: what was not durable is not committed, and the next start "
        "reads it again"
    )
