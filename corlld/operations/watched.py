"""Builds the observers of a daemon, and serves what two of them know over HTTP."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import structlog

from corlld.experiment.arms import Arms
from corlld.observer import Observer, Observers
from corlld.operations.health import Health
from corlld.operations.http import serving
from corlld.operations.liveness import Liveness
from corlld.operations.logs import LogWatch
from corlld.operations.metrics_observer import MetricsObserver
from corlld.operations.notify import Notifier, NotifySocket, watchdog_timeout
from corlld.operations.prometheus import Metrics
from corlld.operations.site import Site
from corlld.settings.sections import Settings

log = structlog.get_logger("corlld.start")


@contextmanager
def watched(settings: Settings) -> Iterator[Observer]:
    """Build the observers: health, metrics, systemd notifier, log watch.

    While the block runs, health and metrics are served over HTTP if `operations.http_address` is set. The notifier is
    silent if the environment names no supervisor. The log watch ends a daemon whose log can't be written.

    Raises UnavailableError if the port is taken, ConfigurationError if the address can't be listened at.
    """
    liveness = Liveness(settings.operations.stall_after_seconds)
    health = Health(liveness)
    arms = Arms(settings.experiment, settings.learning, settings.guard)
    learning = {name: arm.rule is not None for name, arm in arms.by_name.items()}
    metrics = Metrics(time.time(), settings.batching.max_buffered_events, learning)
    notifier = Notifier(
        NotifySocket(os.environ.get("NOTIFY_SOCKET")),
        settings.operations,
        liveness,
        watchdog_timeout(os.environ, os.getpid()),
    )
    # LogWatch comes last: it raises, and the others must have been called by then.
    observer = Observers(health, MetricsObserver(metrics, health, arms=arms), notifier, LogWatch())
    with ExitStack() as open_while_watched:
        open_while_watched.callback(notifier.close)
        if address := settings.operations.http_address:
            host, port = open_while_watched.enter_context(serving(address, Site(metrics.registry, health)))
            log.info("http_listening", host=host, port=port)
        yield observer
