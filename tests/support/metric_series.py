"""Metrics with clocks that the test sets, and how far each of their series moves."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from corlld.observer import Observers
from corlld.operations.health import Health
from corlld.operations.liveness import Liveness
from corlld.operations.metrics_observer import MetricsObserver
from corlld.operations.prometheus import Metrics
from corlld.records import Polled
from tests.support.daemon_parts import Parts

STARTED_AT = 1_000.0
Figures = dict[str, float]


class Watched:
    """Metrics whose clocks the test sets, and their changes since the last look."""

    def __init__(self) -> None:
        self.now = 50.0  # monotonic
        self.unix_now = 2_000.0
        self.metrics = Metrics(STARTED_AT, buffer_limit_events=77)
        self.health = Health(Liveness(300), lambda: self.now)
        measured = MetricsObserver(self.metrics, self.health, lambda: self.now, lambda: self.unix_now)
        self.observer = Observers(self.health, measured)
        self._seen = figures(self.metrics.registry)

    def moved(self) -> Figures:
        """Return how far each series moved since the last call; of a histogram, only `_count` and `_sum`."""
        before, self._seen = self._seen, figures(self.metrics.registry)
        names = before.keys() | self._seen.keys()
        changes = {name: self._seen.get(name, 0.0) - before.get(name, 0.0) for name in names}
        return {name: change for name, change in changes.items() if change}

    def __getitem__(self, name: str) -> float:
        return figures(self.metrics.registry)[name]


def figures(registry: CollectorRegistry, *, buckets: bool = False) -> Figures:
    """Return corlld's own series, by `name{label=value}`."""
    return {
        sample.name + "".join(f"{{{name}={text}}}" for name, text in sample.labels.items()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith("corlld_") and (buckets or not sample.name.endswith("_bucket"))
    }


def run(watched: Watched, *script: Polled | Callable[[], Polled], parts: Parts | None = None) -> Figures:
    parts = parts or Parts()
    parts.observer = watched.observer
    parts.run(*script)
    return watched.moved()
