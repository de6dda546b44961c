"""Metrics of locks, flights and rate limits for Prometheus: `install()`, once, in the `ready()` of your own AppConfig.

    locksmith_acquisitions_total{lock, outcome}   outcome: acquired, busy, unavailable
    locksmith_wait_seconds{lock}                  histogram: until a lock was acquired
    locksmith_hold_seconds{lock}                  histogram: from then to its release
    locksmith_held{lock}                          how many are held now, in this process
    locksmith_lost_total{lock}                    leases that ended against their holder's will
    locksmith_cleared_total                       locks that were taken from their holders
    locksmith_flights_total{flight, outcome}      outcome: computed, shared, old, failed, postponed, busy
    locksmith_flight_wait_seconds{flight}         histogram: until a caller who missed the value had an answer
    locksmith_limited_total{limit, outcome}       outcome: taken, alone, refused
    locksmith_limited_wait_seconds{limit}         histogram: until a place in a rate limit had come
    locksmith_paused_total{limit}                 pauses of a rate limit that this process has told of

The label is the template of the lock, value or rate limit, never a key; "other" where there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._observations import SECONDS, Observer, Sink

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
except ImportError as error:
    raise ImportError(
        "django_locksmith.contrib.prometheus needs prometheus-client: pip install 'django-redis-locksmith[prometheus]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._observations import Counted, Timed

_installed: dict[CollectorRegistry, tuple[Observer, _Metrics]] = {}


def install(registry: CollectorRegistry = REGISTRY, *, buckets: Sequence[float] = SECONDS) -> None:
    """Count and time locks, flights and rate limits of this process from now on. For one registry, once is enough.

    With `PROMETHEUS_MULTIPROC_DIR`, `locksmith_held` is the sum over live processes.

    Args:
        registry: where the metrics are registered.
        buckets: bounds of the histograms, seconds.

    Raises:
        ValueError: the registry has metrics of these names already.
    """
    if registry not in _installed:
        metrics = _Metrics(registry, buckets)
        observer = metrics.observer = Observer(metrics)
        _installed[registry] = observer, metrics
        observer.start()


def uninstall(registry: CollectorRegistry = REGISTRY) -> None:
    """Undo `install`, and forget what was counted; nothing happens where it was not called. For tests."""
    if registry in _installed:
        observer, metrics = _installed.pop(registry)
        observer.stop()
        metrics.unregister()


class _Metrics(Sink):
    observer: Observer

    def __init__(self, registry: CollectorRegistry, buckets: Sequence[float]) -> None:
        self._registry = registry
        self._counters: dict[Counted, Counter] = {
            "acquisition": Counter(
                "locksmith_acquisitions", "Attempts to take a lock.", ["lock", "outcome"], registry=registry
            ),
            "lost": Counter(
                "locksmith_lost", "Leases that ended against their holder's will.", ["lock"], registry=registry
            ),
            "cleared": Counter("locksmith_cleared", "Locks that were taken from their holders.", registry=registry),
            "flight": Counter(
                "locksmith_flights", "Callers who missed a value.", ["flight", "outcome"], registry=registry
            ),
            "limited": Counter(
                "locksmith_limited", "Callers of a rate limit.", ["limit", "outcome"], registry=registry
            ),
            "paused": Counter("locksmith_paused", "Pauses of a rate limit.", ["limit"], registry=registry),
        }
        self._timers: dict[Timed, Histogram] = {
            "wait": Histogram(
                "locksmith_wait_seconds",
                "Time until a lock was acquired.",
                ["lock"],
                registry=registry,
                buckets=buckets,
            ),
            "hold": Histogram(
                "locksmith_hold_seconds",
                "Time from the acquiring of a lock to its release.",
                ["lock"],
                registry=registry,
                buckets=buckets,
            ),
            "flight": Histogram(
                "locksmith_flight_wait_seconds",
                "Time until a caller who missed a value had an answer.",
                ["flight"],
                registry=registry,
                buckets=buckets,
            ),
            "limited": Histogram(
                "locksmith_limited_wait_seconds",
                "Time until a place in a rate limit had come.",
                ["limit"],
                registry=registry,
                buckets=buckets,
            ),
        }
        self._held = Gauge(
            "locksmith_held", "Locks that are held now.", ["lock"], registry=registry, multiprocess_mode="livesum"
        )
        self._asked_for_held: set[str] = set()

    def count(self, what: Counted, name: str, outcome: str = "") -> None:
        counter = self._counters[what]
        labels = [label for label in (name, outcome) if label]
        (counter.labels(*labels) if labels else counter).inc()

    def time(self, what: Timed, name: str, seconds: float) -> None:
        self._timers[what].labels(name).observe(seconds)

    def held(self, name: str, leases: int) -> None:
        gauge = self._held.labels(name)
        if name not in self._asked_for_held:
            # Where one process answers for itself, it is asked: then leases that were dropped do not count.
            self._asked_for_held.add(name)
            gauge.set_function(lambda: self.observer.held().get(name, 0))
        gauge.set(leases)  # for the file that other processes read

    def unregister(self) -> None:
        """Leave the registry."""
        for metric in (*self._counters.values(), *self._timers.values(), self._held):
            self._registry.unregister(metric)
