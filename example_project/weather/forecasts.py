"""Forecasts from the cache, or else from the API: without a lock, with `cache.lock`, `get_or_set`, and a rate limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from asgiref.sync import sync_to_async
from django.core.cache import cache

from django_locksmith import RetryLater, locksmith

from .client import FRESH_FOR, Forecast, RateLimited, afetch_forecast, fetch_forecast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STALE_FOR = 3600
"""Seconds for which an old forecast is better than none."""


def cache_key(city: str) -> str:
    return f"forecast:{city}"


def unlocked_forecast(city: str) -> Forecast:
    """Everybody who does not find it in the cache calls the API."""
    found: Forecast | None = cache.get(cache_key(city))
    if found is None:
        found = fetch_forecast(city)
        cache.set(cache_key(city), found, FRESH_FOR)
    return found


def cache_locked_forecast(city: str) -> Forecast:
    """One caller at a time, by django-redis' own lock: whoever waits asks ten times a second whether it is free.

    The lock goes around a *second* look into the cache: who had to wait finds there what the first one fetched.
    """
    found: Forecast | None = cache.get(cache_key(city))
    if found is None:
        with cache.lock(f"{cache_key(city)}:lock", timeout=30, blocking_timeout=60):
            return unlocked_forecast(city)
    return found


def forecast(city: str, fresh_for: float = FRESH_FOR) -> Forecast:
    """One caller in the whole fleet calls the API; all others wait for what it gets, or take the old one meanwhile."""
    return locksmith.get_or_set(cache_key(city), lambda: _fetch(city, fresh_for), fresh_for, stale=STALE_FOR)


async def aforecast(city: str, fresh_for: float = FRESH_FOR) -> Forecast:
    """The same for async views."""
    found: Forecast = await locksmith.aget_or_set(
        cache_key(city), lambda: _afetch(city, fresh_for), fresh_for, stale=STALE_FOR
    )
    return found


def limited_forecast(city: str) -> Forecast:
    """As `forecast`; and whoever calls the API does so at its place in the schedule that the whole fleet keeps."""
    return locksmith.get_or_set(
        cache_key(city), lambda: _fetch(city, FRESH_FOR), FRESH_FOR, stale=STALE_FOR, rate_limit="weather"
    )


async def alimited_forecast(city: str) -> Forecast:
    """The same for async views."""
    found: Forecast = await locksmith.aget_or_set(
        cache_key(city), lambda: _afetch(city, FRESH_FOR), FRESH_FOR, stale=STALE_FOR, rate_limit="weather"
    )
    return found


def _fetch(city: str, fresh_for: float) -> Forecast:
    try:
        return fetch_forecast(city, fresh_for)
    except RateLimited as refused:
        raise RetryLater(refused.retry_after) from refused  # nobody in the fleet calls before that


async def _afetch(city: str, fresh_for: float) -> Forecast:
    try:
        return await afetch_forecast(city, fresh_for)
    except RateLimited as refused:
        raise RetryLater(refused.retry_after) from refused


class Way(NamedTuple):
    """A way to a forecast, for sync and for async views, and how people call it."""

    title: str
    get: Callable[[str], Forecast]
    aget: Callable[[str], Awaitable[Forecast]]


# Neither of the first two has an async face: an async view gives each caller a thread to wait in.
WAYS = {
    "unlocked": Way("without a lock", unlocked_forecast, sync_to_async(unlocked_forecast)),
    "cache-lock": Way("cache.lock", cache_locked_forecast, sync_to_async(cache_locked_forecast)),
    "get-or-set": Way("get_or_set", forecast, aforecast),
    "rate-limit": Way("with a rate limit", limited_forecast, alimited_forecast),
}
