"""`@lock_view`: one request at a time, until what it did is committed and what it says has been sent."""

from __future__ import annotations

import inspect
import logging
import weakref
from contextlib import AsyncExitStack, ExitStack
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.db import connections, transaction
from django.http import HttpResponseBase

from .api.functions import is_async
from .api.service import locksmith
from .exceptions import LockBusy, LockReentered, LockUnavailable
from .runtime import transactions
from .runtime.expiry import tell_in_thread
from .runtime.options import UNSET, Unset
from .views import responses
from .views.view_keys import ViewKey, auser_of, user_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from django.http import HttpRequest

    from .api.lease import Lease
    from .api.lock import Lock
    from .api.service import Locksmith
    from .conf import Seconds
    from .exceptions import LocksmithError

logger = logging.getLogger("django_locksmith.view")

V = TypeVar("V", bound="Callable[..., Any]")

_SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


def lock_view(
    key: str | Callable[..., str | None] | None = None,
    *,
    methods: Iterable[str] | None = None,
    timeout: Seconds | Unset = UNSET,
    blocking_timeout: Seconds | None = 0,
    renew: bool | Unset = UNSET,
    max_hold: Seconds | Unset | None = UNSET,
    status: int = responses.BUSY,
    on_busy: Callable[[HttpRequest, LockBusy], Any] | None = None,
    label: str = "",
    service: Locksmith = locksmith,
) -> Callable[[V], V]:
    """Decorate a view, sync or async, so that only one request of a kind is served at a time.

    Class-based views by `method_decorator`; operations of DRF and Django Ninja below their own decorators.

    The lock is outside of the transaction that ATOMIC_REQUESTS makes, and is given back after its COMMIT; where the
    response is rendered or streamed later, after that. If the lock is lost while the view runs in that transaction, it
    is rolled back and `LockLost` raised; if there is none, or it is lost later, that is logged.

    A request that finds it busy gets the `status` with `Retry-After`, as JSON (RFC 9457) or a page
    (`locksmith/busy.html`). Where Redis does not answer, it gets a 503: whether somebody else is at it is unknown.

    Args:
        key: what must not happen twice at a time: a template over the URL's arguments and `{user}` (the user's primary
            key; of anonymous visitors, their session), `{session}`, `{path}`, `{method}`, `{header:x}`, `{post:field}`;
            or a function of the request and the URL's arguments, which may return `None` for "no lock". Default the
            view, the URL's arguments and the user.
        methods: those that are locked; default all but GET, HEAD, OPTIONS and TRACE.
        timeout: the lease, seconds; default as in `settings.LOCKSMITH`.
        blocking_timeout: seconds that a request waits for its turn; `None` = without limit. Default it does not wait.
        renew: whether to keep the lease alive while the view runs.
        max_hold: how long renewal goes on, seconds; `None` = without limit.
        status: of the response to a request that finds it busy: 409, 423, 429 or 503.
        on_busy: a function of the request and the `LockBusy`, whose response is sent instead.
        label: who takes the lock, for `locksmith_list`.
        service: whose settings count.

    Raises:
        TypeError, ValueError: name the argument at fault, when the view is decorated.
        BadRequest: in the view, where the client left out what the key is made of.
    """
    if status not in responses.MAY_SAY:
        raise ValueError(f"status must be one of {', '.join(map(str, responses.MAY_SAY))}, not {status!r}")
    if key is not None and not callable(key) and (not isinstance(key, str) or not key):
        raise TypeError(f"key must be a template, a function or None, not {key!r}")
    if isinstance(methods, str):
        raise TypeError(f"methods takes a list of methods, not the str {methods!r}")
    locked = None if methods is None else frozenset(method.upper() for method in methods)
    options: dict[str, Any] = {
        "timeout": timeout,
        "blocking_timeout": blocking_timeout,
        "renew": renew,
        "max_hold": max_hold,
        "label": label,
        "on_lost": "log",
        "release": "commit",
    }
    service("", **options)  # bad options raise here, and not at the first visitor's request

    def decorate(view: V) -> V:
        if not callable(view) or inspect.isclass(view):
            raise TypeError(
                f"@lock_view(...) decorates views, not {view!r}; write @lock_view() where you need no options, and"
                " @method_decorator(lock_view(...), name='dispatch') for a class"
            )
        guard = _Guard(ViewKey(key, view), locked, status, on_busy, service, options)
        guarded = _guarded_async if is_async(view) else _guarded
        return cast("V", guarded(view, guard))  # wraps() keeps the signature; the types cannot say so

    return decorate


class _Guard:
    """The lock of one view: which requests it is for, under which key, and what those hear who find it busy."""

    def __init__(
        self,
        key: ViewKey,
        methods: frozenset[str] | None,
        status: int,
        on_busy: Callable[[HttpRequest, LockBusy], Any] | None,
        service: Locksmith,
        options: dict[str, Any],
    ) -> None:
        self._key = key
        self._methods = methods
        self._status = status
        self._on_busy = on_busy
        self._service = service
        self._options = options
        self.wants_user = key.wants_user

    def is_for(self, request: HttpRequest) -> bool:
        """Is a request of this method locked?"""
        return request.method not in _SAFE if self._methods is None else request.method in self._methods

    def lock(self, request: HttpRequest, user: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Lock | None:
        """The lock of this request; `None` if the key function says that it needs none."""
        key = self._key.make(request, user, args, kwargs)
        return None if key is None else self._service(key, template=self._key.template, **self._options)

    def answer(self, request: HttpRequest, error: LocksmithError) -> Any:
        """The response instead of the view's. Raises an error that is a mistake in the code."""
        if isinstance(error, LockUnavailable):
            logger.error("%s %r: %s", request.method, request.path, error, exc_info=error)
            return responses.unavailable(request)
        if isinstance(error, LockReentered) or not isinstance(error, LockBusy):
            raise error
        return self._on_busy(request, error) if self._on_busy else responses.busy(request, error, self._status)


def _guarded(view: Callable[..., Any], guard: _Guard) -> Callable[..., Any]:
    duty = _Duty(view)

    @wraps(view)
    def in_lock(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        lock = None
        if guard.is_for(request):
            lock = guard.lock(request, user_of(request) if guard.wants_user else None, args, kwargs)
        if lock is None:
            return duty.do(request, None, args, kwargs)
        try:
            lease = lock.take()
        except (LockBusy, LockUnavailable) as error:
            return guard.answer(request, error)
        with ExitStack() as held:
            held.enter_context(lease)
            response = duty.do(request, lease, args, kwargs)
            if _outlives(lease, response):
                held.pop_all()
            return response

    in_lock._non_atomic_requests = duty  # type: ignore[attr-defined]  # Django's own mark for views
    return in_lock


def _guarded_async(view: Callable[..., Any], guard: _Guard) -> Callable[..., Any]:
    # Django makes no transaction for async views: there is no duty to take over.
    @wraps(view)
    async def in_lock(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        lock = None
        if guard.is_for(request):
            lock = guard.lock(request, await auser_of(request) if guard.wants_user else None, args, kwargs)
        if lock is None:
            return await view(request, *args, **kwargs)
        try:
            lease = await lock.atake()
        except (LockBusy, LockUnavailable) as error:
            response = guard.answer(request, error)
            return await response if inspect.isawaitable(response) else response
        async with AsyncExitStack() as held:
            await held.enter_async_context(lease)
            response = await view(request, *args, **kwargs)
            if _outlives(lease, response):
                held.pop_all()
            return response

    return in_lock


class _Duty(set[str]):
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
            if lease is not None and (aliases or transactions.open_here()):
                lease.ensure_held()  # another may have begun: do not commit
            return response


def _aliases(request: HttpRequest) -> list[str]:
    # It is our duty only if one of us was whom Django asked: we may as well stand around a method of the view, with the
    # transaction already open or not wanted. And only once: a view may be locked in more than one place.
    match = getattr(request, "resolver_match", None)
    exempt = getattr(match and match.func, "_non_atomic_requests", None)
    if not isinstance(exempt, _Duty) or getattr(request, "_locksmith_did_duty", False):
        return []
    request._locksmith_did_duty = True  # type: ignore[attr-defined]  # a note to ourselves
    atomic = (alias for alias, database in connections.settings.items() if database["ATOMIC_REQUESTS"])
    return sorted(set(atomic).difference(exempt))


def _outlives(lease: Lease, response: Any) -> bool:
    """Has the response still to be rendered or sent? Then the lock is kept until that is done."""
    if not isinstance(response, HttpResponseBase):
        return False
    if response.streaming:
        _Parting(lease, response).when_closed()
        return True
    if not getattr(response, "is_rendered", True):
        _Parting(lease, response).when_rendered()
        return True
    return False


class _Parting:
    """Gives a lease back when its response is done with; also when nobody will ever render, send or close it.

    The response must not be kept alive by any of this: where a client went away, or a middleware put another response
    in its place, it is simply dropped.
    """

    def __init__(self, lease: Lease, response: Any) -> None:
        # It is not the thread's any more: that may serve the next request meanwhile, and wait for this very lock.
        lease.hand_over()
        self._lease = lease
        self._response = weakref.ref(response)
        self._dropped = weakref.finalize(response, tell_in_thread, [self._release])

    def _release(self) -> None:
        self._lease.__exit__(None, None, None)

    def now(self) -> None:
        if self._dropped.detach():
            self._release()

    def when_closed(self) -> None:
        response = self._response()
        assert response is not None
        response._resource_closers.append(self.now)  # an own close() would refer to the response, and keep it

    def when_rendered(self) -> None:
        response = self._response()
        assert response is not None
        response.render = self._render

    def _render(self) -> Any:
        response = self._response()
        assert response is not None
        del response.render  # caches pickle what has been rendered
        try:
            return response.render()
        finally:
            self.now()
