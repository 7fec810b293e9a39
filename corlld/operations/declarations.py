"""Makes metrics on a registry, with each known series there from the first scrape on, and describes them."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

M = TypeVar("M", Counter, Gauge, Histogram, Summary)
Labels = Mapping[str, Iterable[str]]  # from a label's name to its known values; empty if they are not known


@dataclass(frozen=True, slots=True)
class Description:
    """A metric as the tables of `corlld metrics` show it."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


class Declarations:
    """Makes metrics on a registry and keeps a description of each, in order."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.descriptions: list[Description] = []
        self._registry = registry

    def counter(self, name: str, meaning: str, labels: Labels | None = None) -> Counter:
        metric = Counter(name, meaning, tuple(labels or ()), registry=self._registry)
        return self._declared(metric, name, meaning, labels)

    def gauge(self, name: str, meaning: str, labels: Labels | None = None) -> Gauge:
        metric = Gauge(name, meaning, tuple(labels or ()), registry=self._registry)
        return self._declared(metric, name, meaning, labels)

    def histogram(self, name: str, meaning: str, buckets: Iterable[float], labels: Labels | None = None) -> Histogram:
        metric = Histogram(name, meaning, tuple(labels or ()), registry=self._registry, buckets=tuple(buckets))
        return self._declared(metric, name, meaning, labels)

    def summary(self, name: str, meaning: str, labels: Labels | None = None) -> Summary:
        metric = Summary(name, meaning, tuple(labels or ()), registry=self._registry)
        return self._declared(metric, name, meaning, labels)

    def _declared(self, metric: M, name: str, meaning: str, labels: Labels | None) -> M:
        self.descriptions.append(Description(name, type(metric).__name__.lower(), tuple(labels or ()), meaning))
        if labels:
            for values in itertools.product(*labels.values()):
                metric.labels(*values)
        return metric
