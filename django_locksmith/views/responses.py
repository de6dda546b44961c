"""What a visitor is told whose request found a lock busy, or Redis down. For the decorator and the middleware alike."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.utils.http import url_has_allowed_host_and_scheme

if TYPE_CHECKING:
    from django.http import HttpRequest

    from ..exceptions import LockBusy, RetryLater

BUSY = 409
"""The same operation is under way, and the client need not change its request (RFC 9110, 15.5.10)."""
MAY_SAY = (409, 423, 429, 503)
SOON = 2
"""Seconds after which to look again: a lease may have long to go, but most views are done well before it ends."""
_OUTAGE = 5
"""Seconds after which a client may try again where Redis is down."""
_PROBLEM = "application/problem+json"


def busy(request: HttpRequest, error: LockBusy, status: int = BUSY, retry_after: float = SOON) -> HttpResponse:
    """Somebody else is at it: come again in so many seconds, or when the lease ends, if that is sooner."""
    left = retry_after if error.retry_after is None else error.retry_after
    pause = max(1, math.ceil(min(left, retry_after)))
    more = {"key": _printable(error.key), "holder": _printable(str(error.holder or ""))} if settings.DEBUG else {}
    detail = "Another request of this kind is being worked on."
    return _answer(request, status, pause, detail, "locksmith/busy.html", more)


def later(request: HttpRequest, error: RetryLater, status: int = 503) -> HttpResponse:
    """What this would need is used up for now: come again when it is not."""
    pause = max(1, math.ceil(error.seconds))
    return _answer(request, status, pause, "This is not possible at the moment.", "locksmith/unavailable.html", {})


def unavailable(request: HttpRequest) -> HttpResponse:
    """Nobody knows whether somebody else is at it."""
    return _answer(request, 503, _OUTAGE, "This is not possible at the moment.", "locksmith/unavailable.html", {})


def _where_from(request: HttpRequest) -> str:
    """Where a visitor can look again: the page that the request came from, if that is ours, or its own."""
    page = request.headers.get("Referer", "")
    if page and url_has_allowed_host_and_scheme(page, {request.get_host()}, require_https=request.is_secure()):
        return page
    return request.get_full_path()


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()  # a key may carry bytes that no page can


def _answer(
    request: HttpRequest, status: int, pause: int, detail: str, template: str, more: dict[str, Any]
) -> HttpResponse:
    response: HttpResponse
    if request.get_preferred_type([_PROBLEM, "application/json", "text/html"]) == "text/html":
        context = {"status": status, "retry_after": pause, "again": _where_from(request), **more}
        page = render_to_string(template, context, request)
        response = HttpResponse(page, status=status)
    else:
        # RFC 9457. A problem that has no type of its own has the title of its status.
        problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
        response = JsonResponse({**problem, "retry_after": pause, **more}, status=status, content_type=_PROBLEM)
    response.headers["Retry-After"] = str(pause)
    response.headers["Cache-Control"] = "no-store"
    return response
