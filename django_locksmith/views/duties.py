"""The transactions of ATOMIC_REQUESTS, which Django opens around views: for locked views, inside of the lock."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction

from ..api.functions import dotted_name
from ..runtime import transactions

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest

    from ..api.lease import Lease


class Duty(set[str]):
    """The duty of opening the transactions of ATOMIC_REQUESTS, taken over from Django: inside of the lock.

    Django asks a view's `_non_atomic_requests` on which databases it is not to open one: here it is told "on all". What
    the set really has are those that `@non_atomic_requests` names, inside of us or, added later, around us.
    """

    def __init__(self, view: Callable[..., Any]) -> None:
        super().__init__(getattr(view, "_non_atomic_requests", ()))
        self._view = view

    def __contains__(self, alias: object) -> bool:
        return True

    def do(self, request: HttpRequest, lease: Lease | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the view in the transactions that it is to have."""
        aliases = _aliases(request)
        with ExitStack() as opened:
            for alias in aliases:
                opened.enter_context(transaction.atomic(using=alias))
            response = self._view(request, *args, **kwargs)
            if inspect.iscoroutine(response):
                response.close()  # or Python warns that nobody awaited it
                raise TypeError(
                    f"{dotted_name(self._view)} looks like a view for threads, and gave a coroutine, which would run"
                    " outside of the lock; put @lock_view below the decorator that hides the async def, or mark what"
                    " that makes with asgiref.sync.markcoroutinefunction"
                )
            if lease is not None and (aliases or transactions.open_here()):
                lease.ensure_held()  # another may have begun: do not commit
            return response


def _aliases(request: HttpRequest) -> list[str]:
    # It is our duty only if one of us was whom Django asked: we may as well stand around a method of the view, with the
    # transaction already open or not wanted. And only once: a view may be locked in more than one place.
    match = getattr(request, "resolver_match", None)
    exempt = getattr(match and match.func, "_non_atomic_requests", None)
    if not isinstance(exempt, Duty) or getattr(request, "_locksmith_did_duty", False):
        return []
    request._locksmith_did_duty = True  # type: ignore[attr-defined]  # a note to ourselves
    atomic = (alias for alias, database in connections.settings.items() if database["ATOMIC_REQUESTS"])
    return sorted(set(atomic).difference(exempt))
