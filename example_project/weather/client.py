"""Our side of the weather API."""

from __future__ import annotations

import json
import time
from typing import TypedDict
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

from asgiref.sync import sync_to_async
from django.conf import settings

from . import visits

FRESH_FOR = 300
"""Seconds for which a forecast is good."""

_web = build_opener(ProxyHandler({}))  # the API is on this machine: never through a proxy


class Forecast(TypedDict):
    """What the API says, and what the page tells about it: when it came, until when it is good, who asked."""

    city: str
    celsius: int
    fetched: float
    good_until: float
    asked_by: str


class RateLimited(Exception):
    """The API refuses to be called again before `retry_after` seconds are over."""

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"the weather API wants no call for {retry_after} s")


def fetch_forecast(city: str, fresh_for: float = FRESH_FOR) -> Forecast:
    """One call of the API: slow, and counted. Raises `RateLimited`, or `OSError` when it does not answer."""
    visitor = visits.name_of_visitor()
    call = Request(f"{settings.WEATHER_API}/forecast/{quote(city)}", headers={"X-Caller": visitor})
    try:
        with _web.open(call, timeout=30) as reply:
            said = json.load(reply)
    except HTTPError as error:
        with error:
            if error.code != 429:
                raise
            raise RateLimited(int(error.headers["Retry-After"])) from None
    visits.note_fetch()
    now = time.time()
    return {
        "city": said["city"],
        "celsius": said["celsius"],
        "fetched": now,
        "good_until": now + fresh_for,
        "asked_by": visitor,
    }


# A real project has an HTTP client that is async itself; here, a thread does, so that the example needs none.
afetch_forecast = sync_to_async(fetch_forecast)
