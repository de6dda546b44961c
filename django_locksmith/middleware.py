"""For what locks and rate limits raise, and nobody caught: the answer that `@lock_view` gives, instead of a 500."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.utils.deprecation import MiddlewareMixin

from .exceptions import LockBusy, LockReentered, LockUnavailable, RetryLater
from .views import responses

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

logger = logging.getLogger("django_locksmith.view")


class LocksmithMiddleware(MiddlewareMixin):
    """Answers for what nobody caught, with `Retry-After`: `LockBusy` 409, `LockUnavailable` and `RetryLater` 503.

    By then, ATOMIC_REQUESTS has rolled back. A `LockReentered` stays a 500: it is a mistake in the code.
    """

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Django calls it with what a view raised."""
        if isinstance(exception, LockBusy) and not isinstance(exception, LockReentered):
            return responses.busy(request, exception)
        if isinstance(exception, LockUnavailable):
            logger.error("%s %r: %s", request.method, request.path, exception, exc_info=exception)
            return responses.unavailable(request)
        if isinstance(exception, RetryLater):
            return responses.later(request, exception)
        return None
