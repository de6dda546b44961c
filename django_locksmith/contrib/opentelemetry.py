"""Metrics of locks, flights and rate limits for OpenTelemetry: `install()`, once, in `ready()` of your own AppConfig.

    locksmith.acquisitions       counter            locksmith.lock, locksmith.outcome: acquired, busy, unavailable
    locksmith.acquire.duration   histogram, s       locksmith.lock: until the lock was acquired
    locksmith.hold.duration      histogram, s       locksmith.lock: from then to its release
    locksmith.lock.held          up-down counter    locksmith.lock: held now, in this process
    locksmith.lost               counter            locksmith.lock: leases that ended against their holder's will
    locksmith.cleared            counter            locks that were taken from their holders
    locksmith.flights            counter            locksmith.flight, locksmith.outcome: computed, shared, old, ...
    locksmith.flight.duration    histogram, s       locksmith.flight: until a caller who missed the value had an answer
    locksmith.limited            counter            locksmith.limit, locksmith.outcome: taken, alone, refused
    locksmith.limited.duration   histogram, s       locksmith.limit: until a place in a rate limit had come
    locksmith.paused             counter            locksmith.limit: pauses that this process has told of

The attribute is the template of the lock, value or rate limit, never a key; "other" where there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._observations import SECONDS, Observer, Sink

try:
    from opentelemetry.metrics import Observation, get_meter
except ImportError as error:
    raise ImportError(
        "django_locksmith.contrib.opentelemetry needs opentelemetry-api:"
        " pip install 'django-redis-locksmith[opentelemetry]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, MeterProvider

    from ._observations import Counted, Timed

_LOCK, _OUTCOME = "locksmith.lock", "locksmith.outcome"
_NAMES: dict[Counted | Timed, str] = {
    "flight": "locksmith.flight",
    "limited": "locksmith.limit",
    "paused": "locksmith.limit",
}
"""The attributes of what is no lock."""

_installed: dict[MeterProvider | None, tuple[Observer, _Instruments]] = {}


def install(meter_provider: MeterProvider | None = None) -> None:
    """Count and time locks, flights and rate limits of this process from now on. For one provider, once is enough.

    Args:
        meter_provider: default the global one, whether it is set before or after this call.
    """
    if meter_provider not in _installed:
        instruments = _Instruments(get_meter("django_locksmith", meter_provider=meter_provider))
        observer = instruments.observer = Observer(instruments)
        _installed[meter_provider] = observer, instruments
        observer.start()


def uninstall(meter_provider: MeterProvider | None = None) -> None:
    """Observe nothing any more; nothing happens where `install` was not called. For tests."""
    if meter_provider in _installed:
        observer, instruments = _installed.pop(meter_provider)
        observer.stop()
        instruments.observer = None


class _Instruments(Sink):
    observer: Observer | None = None

    def __init__(self, meter: Meter) -> None:
        self._counters: dict[Counted, Counter] = {
            "acquisition": meter.create_counter("locksmith.acquisitions", "{attempt}", "Attempts to take a lock."),
            "lost": meter.create_counter("locksmith.lost", "{lease}", "Leases that ended against their holder's will."),
            "cleared": meter.create_counter("locksmith.cleared", "{lock}", "Locks that were taken from their holders."),
            "flight": meter.create_counter("locksmith.flights", "{call}", "Callers who missed a value."),
            "limited": meter.create_counter("locksmith.limited", "{call}", "Callers of a rate limit."),
            "paused": meter.create_counter("locksmith.paused", "{pause}", "Pauses of a rate limit."),
        }
        self._timers: dict[Timed, Histogram] = {
            "wait": _timer(meter, "locksmith.acquire.duration", "Time until a lock was acquired."),
            "hold": _timer(meter, "locksmith.hold.duration", "Time from the acquiring of a lock to its release."),
            "flight": _timer(
                meter, "locksmith.flight.duration", "Time until a caller who missed a value had an answer."
            ),
        }
        self._timers["limited"] = _timer(
            meter, "locksmith.limited.duration", "Time until a place in a rate limit had come."
        )
        meter.create_observable_up_down_counter(
            "locksmith.lock.held", [self._count_held], "{lock}", "Locks that are held now."
        )

    def count(self, what: Counted, name: str, outcome: str = "") -> None:
        attributes = {_NAMES.get(what, _LOCK): name, _OUTCOME: outcome}
        self._counters[what].add(1, {attribute: value for attribute, value in attributes.items() if value})

    def time(self, what: Timed, name: str, seconds: float) -> None:
        self._timers[what].record(seconds, {_NAMES.get(what, _LOCK): name})

    def _count_held(self, options: CallbackOptions) -> Iterable[Observation]:
        held = self.observer.held() if self.observer is not None else {}
        return [Observation(leases, {_LOCK: name}) for name, leases in held.items()]


def _timer(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=SECONDS)
