"""Celery tasks."""

from __future__ import annotations

from config.celery import app
from django.core.cache import cache

from django_locksmith import locksmith

from .client import FRESH_FOR, fetch_forecast
from .forecasts import cache_key


@app.task
@locksmith("refresh:{city}", timeout=60, blocking=False, on_busy="skip")
def refresh(city: str) -> None:
    """Fetch a fresh forecast. While one worker is at it, the same task for the same city is skipped everywhere."""
    cache.set(cache_key(city), fetch_forecast(city), FRESH_FOR)
