"""Metrics: what Prometheus scrapes, and what OpenTelemetry reads, after real locks and flights."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from django.test import override_settings
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.parser import text_string_to_metric_families

from django_locksmith import LockLost, Locksmith, LockUnavailable, RetryLater, locksmith, signals
from django_locksmith.contrib import opentelemetry, prometheus
from django_locksmith.policy.locks import caution
from tests.helpers.callers import in_thread
from tests.helpers.origins import Origin
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.callers import Caller
    from tests.helpers.deployments import Deployment


class Metrics:
    """The same few questions to both."""

    def acquisitions(self, lock: str, outcome: str) -> float:
        raise NotImplementedError

    def lost(self, lock: str) -> float:
        raise NotImplementedError

    def cleared(self) -> float:
        raise NotImplementedError

    def flights(self, flight: str, outcome: str) -> float:
        raise NotImplementedError

    def limited(self, limit: str, outcome: str) -> float:
        raise NotImplementedError

    def paused(self, limit: str) -> float:
        raise NotImplementedError

    def held(self, lock: str) -> float:
        raise NotImplementedError

    def timed(self, what: str, name: str) -> tuple[float, float]:
        """How often, and how many seconds in all, of a "wait", a "hold", a "flight" or a "limited"."""
        raise NotImplementedError

    def names(self) -> set[str]:
        """All values of all labels."""
        raise NotImplementedError


class Scraped(Metrics):
    """As Prometheus gets it: text, read by its own parser."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def _samples(self) -> list[Any]:
        text = generate_latest(self.registry).decode()
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def _value(self, name: str, **labels: str) -> float:
        return sum(sample.value for sample in self._samples() if sample.name == name and sample.labels == labels)

    def acquisitions(self, lock: str, outcome: str) -> float:
        return self._value("locksmith_acquisitions_total", lock=lock, outcome=outcome)

    def lost(self, lock: str) -> float:
        return self._value("locksmith_lost_total", lock=lock)

    def cleared(self) -> float:
        return self._value("locksmith_cleared_total")

    def flights(self, flight: str, outcome: str) -> float:
        return self._value("locksmith_flights_total", flight=flight, outcome=outcome)

    def limited(self, limit: str, outcome: str) -> float:
        return self._value("locksmith_limited_total", limit=limit, outcome=outcome)

    def paused(self, limit: str) -> float:
        return self._value("locksmith_paused_total", limit=limit)

    def held(self, lock: str) -> float:
        return self._value("locksmith_held", lock=lock)

    def timed(self, what: str, name: str) -> tuple[float, float]:
        metric, label = {
            "wait": ("locksmith_wait_seconds", "lock"),
            "hold": ("locksmith_hold_seconds", "lock"),
            "flight": ("locksmith_flight_wait_seconds", "flight"),
            "limited": ("locksmith_limited_wait_seconds", "limit"),
        }[what]
        return self._value(f"{metric}_count", **{label: name}), self._value(f"{metric}_sum", **{label: name})

    def names(self) -> set[str]:
        return {
            sample.labels[label]
            for sample in self._samples()
            for label in ("lock", "flight", "limit")
            if label in sample.labels
        }


class Read(Metrics):
    """As a reader of OpenTelemetry's SDK gets it."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader

    def _points(self) -> list[tuple[str, Any]]:
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        metrics = [m for resource in data.resource_metrics for scope in resource.scope_metrics for m in scope.metrics]
        return [(metric.name, point) for metric in metrics for point in metric.data.data_points]

    def _value(self, name: str, **attributes: str) -> float:
        wanted = {f"locksmith.{attribute}": value for attribute, value in attributes.items()}
        return sum(point.value for found, point in self._points() if found == name and point.attributes == wanted)

    def acquisitions(self, lock: str, outcome: str) -> float:
        return self._value("locksmith.acquisitions", lock=lock, outcome=outcome)

    def lost(self, lock: str) -> float:
        return self._value("locksmith.lost", lock=lock)

    def cleared(self) -> float:
        return self._value("locksmith.cleared")

    def flights(self, flight: str, outcome: str) -> float:
        return self._value("locksmith.flights", flight=flight, outcome=outcome)

    def limited(self, limit: str, outcome: str) -> float:
        return self._value("locksmith.limited", limit=limit, outcome=outcome)

    def paused(self, limit: str) -> float:
        return self._value("locksmith.paused", limit=limit)

    def held(self, lock: str) -> float:
        return self._value("locksmith.lock.held", lock=lock)

    def timed(self, what: str, name: str) -> tuple[float, float]:
        metric, label = {
            "wait": ("locksmith.acquire.duration", "locksmith.lock"),
            "hold": ("locksmith.hold.duration", "locksmith.lock"),
            "flight": ("locksmith.flight.duration", "locksmith.flight"),
            "limited": ("locksmith.limited.duration", "locksmith.limit"),
        }[what]
        points = [p for found, p in self._points() if found == metric and p.attributes == {label: name}]
        return sum(p.count for p in points), sum(p.sum for p in points)

    def names(self) -> set[str]:
        labels = ("locksmith.lock", "locksmith.flight", "locksmith.limit")
        return {point.attributes[label] for _, point in self._points() for label in labels if label in point.attributes}


@contextmanager
def scraped() -> Iterator[Scraped]:
    registry = CollectorRegistry()
    prometheus.install(registry)
    try:
        yield Scraped(registry)
    finally:
        prometheus.uninstall(registry)


@contextmanager
def read() -> Iterator[Read]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    opentelemetry.install(provider)
    try:
        yield Read(reader)
    finally:
        opentelemetry.uninstall(provider)
        provider.shutdown()


@pytest.fixture(params=["prometheus", "opentelemetry"])
def metrics(request: pytest.FixtureRequest) -> Iterator[Metrics]:
    """Each of the two in turn."""
    with scraped() if request.param == "prometheus" else read() as found:
        yield found
    assert not any(signal.wanted for signal in vars(signals).values() if isinstance(signal, signals.Signal))


# ---- what both measure


def test_acquired_and_released(valkey: Deployment, caller: Caller, metrics: Metrics) -> None:
    """An acquire counts, with the time it took; while the lock is held it is among those held; its release is timed."""
    lease = caller.acquire(locksmith("a-1", template="a"))
    other = caller.acquire(locksmith("a-2", template="a"))
    assert lease is not None
    assert other is not None
    assert metrics.acquisitions("a", "acquired") == 2
    assert metrics.held("a") == 2
    count, seconds = metrics.timed("wait", "a")
    assert (count, seconds > 0) == (2, True)
    assert metrics.timed("hold", "a") == (0, 0)
    caller.release(lease)
    assert metrics.held("a") == 1
    caller.release(other)
    assert metrics.held("a") == 0
    count, seconds = metrics.timed("hold", "a")
    assert (count, 0 < seconds < 10) == (2, True)


def test_waiting_is_timed(valkey: Deployment, caller: Caller, metrics: Metrics) -> None:
    """Of a lock that had to be waited for, the wait is in the histogram."""
    lease = caller.acquire(locksmith("a", template="a"))
    assert lease is not None
    waiter = caller.start_acquire(locksmith("a", template="a"))
    poll(lambda: (info := caller.info(locksmith, "a")) and info.waiters == 1)
    assert metrics.timed("wait", "a")[0] == 1
    held_for = lease.timeout - lease.remaining - caution(lease.timeout)  # a holder is that much more careful
    caller.release(lease)
    following = waiter.result(10)
    assert following is not None
    poll(lambda: metrics.timed("wait", "a")[0] == 2)
    assert metrics.timed("hold", "a")[1] >= held_for
    caller.release(following)


def test_busy(valkey: Deployment, caller: Caller, metrics: Metrics) -> None:
    """A busy lock counts as busy, and is not held because of that."""
    lease = caller.acquire(locksmith("a", template="a"))
    assert caller.acquire(locksmith("a", template="a"), blocking=False) is None
    assert (metrics.acquisitions("a", "acquired"), metrics.acquisitions("a", "busy")) == (1, 1)
    assert metrics.held("a") == 1
    assert lease is not None
    caller.release(lease)


def test_unavailable(own_server: Deployment, caller: Caller, metrics: Metrics) -> None:
    """Redis that does not answer counts as unavailable, and never as busy."""
    own_server.server.kill()
    with pytest.raises(LockUnavailable):
        caller.acquire(locksmith("a", template="a"), blocking=False)
    assert metrics.acquisitions("a", "unavailable") == 1
    assert metrics.acquisitions("a", "busy") == metrics.acquisitions("a", "acquired") == 0


def test_lost(valkey: Deployment, caller: Caller, metrics: Metrics) -> None:
    """A lease that runs out counts as lost, without anybody asking, and is held no more."""
    lease = caller.acquire(locksmith("a", template="a", timeout=0.05))
    poll(lambda: metrics.lost("a") == 1)
    assert metrics.held("a") == 0
    assert metrics.timed("hold", "a")[0] == 0
    assert lease is not None


def test_cleared(valkey: Deployment, caller: Caller, metrics: Metrics) -> None:
    """A lock that is cleared counts; its holder's loss counts when he learns of it."""
    lease = caller.acquire(locksmith("a", template="a"))
    assert lease is not None
    assert caller.clear(locksmith, "a")
    assert (metrics.cleared(), metrics.lost("a")) == (1, 0)
    with pytest.raises(LockLost):
        caller.release(lease)
    poll(lambda: metrics.lost("a") == 1)
    assert metrics.held("a") == 0


def test_dropped(valkey: Deployment, caller: Caller, metrics: Metrics) -> None:
    """A lease that is dropped without a release is not counted as held for ever."""
    caller.acquire(locksmith("a", template="a"))
    gc.collect()
    poll(lambda: metrics.held("a") == 0)
    assert metrics.acquisitions("a", "acquired") == 1


def test_flights(valkey: Deployment, caller: Caller, metrics: Metrics) -> None:
    """Each caller who misses a value counts with what he got, and how long that took; a hit does not."""
    origin = Origin("value", held=True)
    callers = [caller.start_get(locksmith, "v", caller.populate(origin), 60, template="values") for _ in range(3)]
    origin.begun()
    poll(lambda: caller.local_followers(locksmith) == 2)
    origin.let_all_go()
    assert [caller.result(10) for caller in callers] == ["value"] * 3
    poll(lambda: metrics.timed("flight", "values")[0] == 3)
    assert (metrics.flights("values", "computed"), metrics.flights("values", "shared")) == (1, 2)
    assert caller.get(locksmith, "v", caller.populate(origin), 60, template="values") == "value"
    assert metrics.timed("flight", "values")[0] == 3
    for error, outcome in ((ZeroDivisionError(), "failed"), (RetryLater(1), "postponed")):
        with pytest.raises(type(error)):
            caller.get(locksmith, outcome, caller.populate(Origin(error)), 60, template="values")
        assert metrics.flights("values", outcome) == 1


@override_settings(LOCKSMITH={"RATE_LIMITS": {"twitter": "2/30s"}})
def test_rate_limits(valkey: Deployment, caller: Caller, metrics: Metrics) -> None:
    """Calls of a rate limit count by what became of them, those that came to their place are timed; so do pauses."""
    service = Locksmith()
    twitter, other = service.rate_limit("twitter"), service.rate_limit("api:7", "1/30s")
    for limit, many in ((twitter, 2), (other, 1)):
        for _ in range(many):
            caller.take(limit)
        with pytest.raises(RetryLater):
            caller.take(limit, blocking=False)
    caller.api_says(twitter, "pause", 5)
    assert [metrics.limited("twitter", outcome) for outcome in ("taken", "refused", "alone")] == [2, 1, 0]
    assert [metrics.limited("other", outcome) for outcome in ("taken", "refused")] == [1, 1]
    assert metrics.timed("limited", "twitter")[0] == 2
    assert (metrics.paused("twitter"), metrics.paused("other")) == (1, 0)
    assert metrics.names() == {"twitter", "other"}


def test_rate_limit_without_redis(own_server: Deployment, caller: Caller, metrics: Metrics) -> None:
    """A place by this process' own memory is told apart."""
    with override_settings(LOCKSMITH={"REDIS": "default", "RATE_LIMITS": {"twitter": "2/30s"}}):
        limit = Locksmith().rate_limit("twitter")
        own_server.server.kill()
        caller.take(limit)
    assert (metrics.limited("twitter", "alone"), metrics.limited("twitter", "taken")) == (1, 0)


def test_names_are_templates(valkey: Deployment, caller: Caller, metrics: Metrics) -> None:
    """Keys are never in a label: decorated functions have their template, and what has none is "other"."""

    @locksmith("import:{account}")
    def work(account: int) -> None: ...

    for account in range(5):
        work(account)
        lease = caller.acquire(locksmith(f"plain:{account}"))
        assert lease is not None
        assert caller.acquire(locksmith(f"plain:{account}"), blocking=False) is None
        caller.release(lease)
        caller.get(locksmith, f"v:{account}", caller.populate(Origin(account)), 60)
    assert metrics.names() == {"import:{account}", "other"}
    assert metrics.acquisitions("import:{account}", "acquired") == metrics.acquisitions("other", "acquired") == 5
    assert metrics.acquisitions("other", "busy") == metrics.flights("other", "computed") == 5
    assert metrics.held("other") == metrics.held("import:{account}") == 0


def test_many_threads(valkey: Deployment, metrics: Metrics) -> None:
    """Nothing is lost or counted twice when many threads take locks at once."""

    def work(number: int) -> None:
        for _ in range(25):
            with locksmith(f"a-{number}", template="a"):
                pass

    for done in [in_thread(lambda number=number: work(number)) for number in range(8)]:  # type: ignore[misc]
        done.result(60)
    assert metrics.acquisitions("a", "acquired") == metrics.timed("hold", "a")[0] == 200
    assert metrics.held("a") == 0


# ---- installing


def test_prometheus_is_installed_once_for_a_registry(valkey: Deployment) -> None:
    """Installing again changes nothing; another registry counts for itself; what is uninstalled counts no more."""
    with scraped() as first, scraped() as second:
        prometheus.install(first.registry)
        with locksmith("a", template="a"):
            pass
        assert first.acquisitions("a", "acquired") == second.acquisitions("a", "acquired") == 1
        prometheus.uninstall(first.registry)
        prometheus.uninstall(first.registry)
        assert generate_latest(first.registry) == b""
        prometheus.install(first.registry)
        with locksmith("a", template="a"):
            pass
        assert (first.acquisitions("a", "acquired"), second.acquisitions("a", "acquired")) == (1, 2)


def test_opentelemetry_is_installed_once_for_a_provider(valkey: Deployment) -> None:
    """The same of OpenTelemetry's providers."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    opentelemetry.install(provider)
    opentelemetry.install(provider)
    with locksmith("a", template="a"):
        pass
    opentelemetry.uninstall(provider)
    opentelemetry.uninstall(provider)
    with locksmith("a", template="a"):
        assert Read(reader).acquisitions("a", "acquired") == 1
        assert Read(reader).held("a") == 0
    provider.shutdown()


def test_what_is_scraped(valkey: Deployment) -> None:
    """The text has the documented names and labels, bounds in seconds as they were asked for, and a help for each."""
    registry = CollectorRegistry()
    prometheus.install(registry, buckets=(0.5, 2))
    try:
        with locksmith("a", template="kind of lock"):
            text = generate_latest(registry).decode()
        for line in (
            'locksmith_acquisitions_total{lock="kind of lock",outcome="acquired"} 1.0',
            'locksmith_wait_seconds_bucket{le="0.5",lock="kind of lock"} 1.0',
            'locksmith_wait_seconds_bucket{le="2.0",lock="kind of lock"} 1.0',
            'locksmith_held{lock="kind of lock"} 1.0',
            "locksmith_cleared_total 0.0",
        ):
            assert line in text.splitlines()
        assert {
            line.split()[2] for line in text.splitlines() if line.startswith("# HELP") and "_created" not in line
        } == {
            "locksmith_acquisitions_total",
            "locksmith_lost_total",
            "locksmith_cleared_total",
            "locksmith_flights_total",
            "locksmith_wait_seconds",
            "locksmith_hold_seconds",
            "locksmith_flight_wait_seconds",
            "locksmith_limited_total",
            "locksmith_limited_wait_seconds",
            "locksmith_paused_total",
            "locksmith_held",
        }
    finally:
        prometheus.uninstall(registry)


def test_buckets_of_opentelemetry_are_in_seconds(valkey: Deployment) -> None:
    """Histograms have bounds that tell milliseconds from minutes, where a view does not say otherwise."""
    with read() as metrics:
        with locksmith("a", template="a"):
            pass
        bounds = next(p.explicit_bounds for name, p in metrics._points() if name == "locksmith.hold.duration")
    assert (bounds[0], bounds[-1]) == (0.001, 3600)


# ---- processes


@contextmanager
def worker(url: str, key: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock, and writes its metrics where others read them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.metrics_worker", "hold", url, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holds\n"
            yield process
        finally:
            process.kill()


def test_many_processes(valkey: Deployment, tmp_path: Path) -> None:
    """With PROMETHEUS_MULTIPROC_DIR, one scrape sums up all processes; what is held, of those alive."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))  # type: ignore[no-untyped-call]
    metrics = Scraped(registry)
    url = valkey.server.url
    with worker(url, "a", tmp_path) as first, worker(url, "b", tmp_path) as second, worker(url, "c", tmp_path):
        assert metrics.acquisitions("kind", "acquired") == 3
        assert metrics.held("kind") == 3
        assert first.stdin is not None
        assert first.stdout is not None
        print(file=first.stdin, flush=True)
        assert first.stdout.readline() == "released\n"
        assert (metrics.held("kind"), metrics.timed("hold", "kind")[0]) == (2, 1)
        second.kill()
        second.wait(10)
        mark_process_dead(second.pid, path=str(tmp_path))  # type: ignore[no-untyped-call]
        assert metrics.held("kind") == 1
        assert metrics.acquisitions("kind", "acquired") == 3


def test_forked_child(valkey: Deployment) -> None:
    """A forked child holds nothing of what its parent holds."""
    command = [sys.executable, "-m", "tests.helpers.metrics_worker", "fork", valkey.server.url, "a"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert 'locksmith_acquisitions_total{lock="kind",outcome="acquired"} 1.0' in text
    assert 'locksmith_held{lock="kind"} 0.0' in text
