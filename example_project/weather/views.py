"""The page on which one sees it, and the page that a visitor gets: by a sync view, and by an async one."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING

from django.conf import settings
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_http_methods

from django_locksmith import LocksmithError, RetryLater

from . import visits
from .client import Forecast, RateLimited
from .forecasts import WAYS, Way
from .scenes import FACES, MANY, SCENES, RunIsOn, stage
from .surroundings import Api
from .visits import Visit

if TYPE_CHECKING:
    from django.http import HttpRequest

TROUBLE = (RateLimited, RetryLater, LocksmithError, OSError)
"""What can keep a visitor from a forecast."""


@require_GET
@ensure_csrf_cookie
def page(request: HttpRequest) -> HttpResponse:
    """The page with the buttons. What they start runs on the servers; the page asks how it stands."""
    context = {
        "visitors": settings.VISITORS,
        "forecasts": MANY,
        "servers": len(settings.SERVERS) or 1,
        "api": settings.WEATHER_API,
    }
    try:
        context["limits"] = Api(settings.WEATHER_API).log()
    except OSError as error:
        context["trouble"] = error
    return render(request, "weather/page.html", context)


@require_http_methods(["GET", "POST"])
@never_cache
def run(request: HttpRequest) -> JsonResponse:
    """POST: let a crowd come. GET: how it stands."""
    if request.method == "POST":
        name, face = request.POST.get("scene", ""), request.POST.get("face", "sync")
        if name not in SCENES or face not in FACES:
            return JsonResponse({"trouble": "There is no such scene."}, status=400)
        servers = settings.SERVERS or [f"{request.scheme}://{request.get_host()}"]
        try:
            stage.begin(name, face, Api(settings.WEATHER_API), servers, settings.VISITORS)
        except RunIsOn:
            return JsonResponse({"trouble": "A crowd is still here. Try again when it is gone."}, status=409)
        except OSError as error:
            return JsonResponse({"trouble": f"The weather API does not answer: {error}"}, status=503)
    return JsonResponse(stage.picture())


@require_GET
@never_cache
def forecast(request: HttpRequest, city: str) -> HttpResponse:
    """The page that a visitor gets."""
    visit, way = _visit(request), _way(request)
    with visits.under_way(visit):
        try:
            found = way.get(city)
        except TROUBLE as trouble:
            return _sorry(request, city, trouble)
    return _show(request, visit, found)


@require_GET
@never_cache
async def aforecast(request: HttpRequest, city: str) -> HttpResponse:
    """The same page, by an async view: who waits costs no thread."""
    visit, way = _visit(request), _way(request)
    with visits.under_way(visit):
        try:
            found = await way.aget(city)
        except TROUBLE as trouble:
            return _sorry(request, city, trouble)
    return _show(request, visit, found)


def _visit(request: HttpRequest) -> Visit:
    return Visit(request.headers.get(visits.HEADER, "you"))


def _way(request: HttpRequest) -> Way:
    try:
        return WAYS[request.GET.get("way", "get-or-set")]
    except KeyError:
        raise Http404("There is no such way.") from None


def _show(request: HttpRequest, visit: Visit, found: Forecast) -> HttpResponse:
    source = visit.source(found)
    context = {"found": found, "source": source, "age": time.time() - found["fetched"], "way": _way(request)}
    answer = render(request, "weather/forecast.html", context)
    answer.headers[visits.ANSWER] = json.dumps({"source": source, "of": found["asked_by"]})
    return answer


def _sorry(request: HttpRequest, city: str, trouble: Exception) -> HttpResponse:
    """A 503 that says when to come again, if the API has said so."""
    wait = {RateLimited: "retry_after", RetryLater: "seconds"}.get(type(trouble))
    seconds = math.ceil(getattr(trouble, wait)) if wait else None
    answer = render(request, "weather/sorry.html", {"city": city, "seconds": seconds, "trouble": trouble}, status=503)
    if seconds is not None:
        answer.headers["Retry-After"] = str(seconds)
    answer.headers[visits.ANSWER] = json.dumps({"source": "failed" if seconds is None else "refused"})
    return answer
