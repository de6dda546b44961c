"""`@lock_view`: one request at a time, until what it did is committed and what it says has been sent."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack
from functools import wraps
from math import inf
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from asgiref.sync import sync_to_async
from django.http import HttpResponseBase

from . import clock, conf
from .api import said_once
from .api.functions import is_async
from .api.service import Locksmith, locksmith
from .exceptions import LockBusy, LockReentered, LockUnavailable, RetryLater
from .runtime.options import UNSET, Unset
from .views import responses
from .views.askers import NOBODY, Asker, aasker_of, asker_of
from .views.duties import Duty
from .views.partings import Parting
from .views.view_keys import ViewKey

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.http import HttpRequest

    from .api.lease import Lease
    from .api.lock import Lock
    from .api.rate_limit import RateLimit
    from .conf import Seconds
    from .exceptions import LocksmithError

logger = logging.getLogger("django_locksmith.view")

V = TypeVar("V", bound="Callable[..., Any]")

_METHOD = re.compile(r"[A-Za-z]+(-[A-Za-z]+)*")
_LONGEST_HOLD = 600.0
"""Seconds that a view's lock is renewed for, where nothing says for how long."""
_SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


def lock_view(
    key: str | Callable[..., str | None] | None = None,
    *,
    methods: Iterable[str] | None = None,
    timeout: Seconds | Unset = UNSET,
    blocking_timeout: Seconds | None = 0,
    renew: bool | Unset = UNSET,
    max_hold: Seconds | Unset | None = UNSET,
    until: Literal["rendered", "closed"] = "rendered",
    status: int = responses.BUSY,
    retry_after: Seconds = responses.SOON,
    on_busy: Callable[[HttpRequest, LockBusy], Any] | None = None,
    anonymous: Literal["refuse", "share"] = "refuse",
    label: str = "",
    slots: int | Sequence[str] = 1,
    rate_limit: RateLimit | str | None = None,
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
        key: what must not happen twice at a time: a template over the URL's arguments and `{user}`, `{session}`,
            `{path}`, `{method}`, `{header:x}`, `{post:field}`; or a function of the request and the URL's arguments,
            which may return `None` for "no lock". `{user}` is the user's primary key; else what stands for the token
            or the session. Default the view, the URL's arguments and the user.
        methods: those that are locked, HEAD with GET; default all but GET, HEAD, OPTIONS and TRACE.
        timeout: the lease, seconds; default as in `settings.LOCKSMITH`.
        blocking_timeout: seconds that a request waits for its turn; `None` = without limit. Default it does not wait.
        renew: whether to keep the lease alive while the view runs.
        max_hold: how long renewal goes on, seconds; `None` = without limit. Default as in `settings.LOCKSMITH`, and
            where that has no limit 600, for a client that reads slowly must not hold a lock for ever.
        until: "rendered", or "closed": the lock is kept until the response has been sent, so that what middlewares do
            after the view, as saving the session, happens inside. The session is then read anew when the lock is taken.
        status: of the response to a request that finds it busy: 409, 423, 429 or 503.
        retry_after: seconds after which that request may be sent again, as the response says (at most; where the lease
            ends sooner, until then).
        on_busy: a function of the request and the `LockBusy`, whose response is sent instead.
        anonymous: what happens to a request of which nothing tells whose it is (no user, token, session or CSRF
            cookie), where the key is made of that: "refuse" answers 400, "share" has all of them share one lock.
        label: who takes the lock, for `locksmith_list`.
        slots: how many requests of a kind are served at a time.
        rate_limit: what `rate_limit()` makes, its name a template as the key is (`"api:{user}"`); or a name in
            `LOCKSMITH["RATE_LIMITS"]`. With the lock in hand, a request waits for its place in what is left of
            `blocking_timeout`; if that is not enough, or the view raises `RetryLater`, which pauses the limit, it gets
            a 503 (where `status` is 429, that) with `Retry-After`.
        service: whose settings count.

    Raises:
        TypeError, ValueError: name the argument at fault, when the view is decorated.
        BadRequest: in the view, where the client left out what the key is made of, or gave what no key can have.
    """
    if isinstance(status, bool) or not isinstance(status, int) or status not in responses.MAY_SAY:
        raise ValueError(f"status must be one of {', '.join(map(str, responses.MAY_SAY))}, not {status!r}")
    if key is not None and not callable(key) and (not isinstance(key, str) or not key):
        raise TypeError(f"key must be a template, a function or None, not {key!r}")
    if on_busy is not None and not callable(on_busy):
        raise TypeError(f"on_busy must be a function of the request and the LockBusy, not {on_busy!r}")
    if until not in ("rendered", "closed"):
        raise ValueError(f"until must be 'rendered' or 'closed', not {until!r}")
    if anonymous not in ("refuse", "share"):
        raise ValueError(f"anonymous must be 'refuse' or 'share', not {anonymous!r}")
    if not isinstance(service, Locksmith):
        raise TypeError(f"service must be a Locksmith, not {service!r}")
    options: dict[str, Any] = {
        "timeout": timeout,
        "blocking_timeout": blocking_timeout,
        "renew": renew,
        "max_hold": max_hold,
        "label": label,
        "slots": slots,
        "on_lost": "log",
        "release": "commit",
    }
    service("", **options)  # bad options raise here, and not at the first visitor's request
    limit = service.limit_of(rate_limit)
    manner = _Manner(
        _methods(methods), status, conf.lease_seconds("retry_after", retry_after), on_busy, until == "closed", limit
    )

    def decorate(view: V) -> V:
        if not callable(view) or inspect.isclass(view):
            raise TypeError(
                f"@lock_view(...) decorates views, not {view!r}; write @lock_view() where you need no options, and"
                " @method_decorator(lock_view(...), name='dispatch') for a class"
            )
        shared = anonymous == "share"
        limit_key = None if limit is None else ViewKey(limit.name, view, shared=shared)
        guard = _Guard(ViewKey(key, view, shared=shared), limit_key, manner, service, options)
        guarded = (_guarded_async if is_async(view) else _guarded)(view, guard)
        guarded.locksmith_wants_user = guard.wants_user  # type: ignore[attr-defined]  # a check asks for it
        return cast("V", guarded)  # wraps() keeps the signature; the types cannot say so

    return decorate


def _methods(methods: Iterable[str] | None) -> frozenset[str] | None:
    """The methods that are locked; `None` = those that change something. Raises what is wrong with them."""
    if methods is None:
        return None
    if isinstance(methods, (str, bytes)) or not isinstance(methods, Iterable):
        raise TypeError(f"methods takes a list of methods, not {methods!r}")
    locked = list(methods)
    for method in locked:
        if not isinstance(method, str):
            raise TypeError(f"methods takes names of methods, such as 'POST', not {method!r}")
        if not _METHOD.fullmatch(method):
            raise ValueError(f"methods takes names of methods, such as 'POST', not {method!r}")
    if not locked:
        raise ValueError("methods is empty, and nothing would be locked; leave it out for all that change something")
    # Django answers HEAD by the code for GET.
    return frozenset(method.upper() for method in [*locked, *(["HEAD"] if "GET" in map(str.upper, locked) else [])])


class _Manner(NamedTuple):
    """How requests of a view are dealt with."""

    methods: frozenset[str] | None
    status: int
    retry_after: float
    on_busy: Callable[[HttpRequest, LockBusy], Any] | None
    until_closed: bool
    limit: RateLimit | None


class _Guard:
    """The lock of one view: which requests it is for, under which key, and what those hear who find it busy."""

    def __init__(
        self, key: ViewKey, limit_key: ViewKey | None, manner: _Manner, service: Locksmith, options: dict[str, Any]
    ) -> None:
        self._key = key
        self._manner = manner
        self._service = service
        self._options = options
        self._limit_key = limit_key
        self.wants_user = key.wants_user or (limit_key is not None and limit_key.wants_user)
        self.until_closed = manner.until_closed

    def is_for(self, request: HttpRequest) -> bool:
        """Is a request of this method locked?"""
        methods = self._manner.methods
        return request.method not in _SAFE if methods is None else request.method in methods

    def lock(self, request: HttpRequest, asker: Asker, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Lock | None:
        """The lock of this request; `None` if the key function says that it needs none."""
        key = self._key.make(request, asker, args, kwargs)
        if key is None:
            return None
        lock = self._service(key, template=self._key.template, **self._options)
        if lock.renews_for_ever and self._options["max_hold"] is UNSET:
            longest = max(_LONGEST_HOLD, lock.timeout)
            lock = self._service(key, template=self._key.template, **{**self._options, "max_hold": longest})
        return lock

    def limit(
        self, request: HttpRequest, asker: Asker, args: tuple[Any, ...], kwargs: dict[str, Any], until: float
    ) -> RateLimit | None:
        """The rate limit of this request, which waits until then (monotonic seconds) at most; `None`: there is none."""
        limit, key = self._manner.limit, self._limit_key
        name = None if key is None else key.make(request, asker, args, kwargs)
        if name is None or limit is None:
            return None
        return limit.named(name, None if until == inf else max(0.0, until - clock.now()))

    def later(self, request: HttpRequest, error: RetryLater) -> Any:
        """The response to a request whose place is too far away."""
        return responses.later(request, error, 429 if self._manner.status == 429 else 503)

    def answer(self, request: HttpRequest, error: LocksmithError) -> Any:
        """The response instead of the view's. Raises an error that is a mistake in the code."""
        if isinstance(error, LockUnavailable):
            logger.error("%s %r: %s", request.method, request.path, error, exc_info=error)
            return responses.unavailable(request)
        if isinstance(error, LockReentered) or not isinstance(error, LockBusy):
            raise error
        return responses.busy(request, error, self._manner.status, self._manner.retry_after)

    async def aanswer(self, request: HttpRequest, error: LocksmithError) -> Any:
        """As `answer`."""
        if self.says_itself(error):
            response = self.say(request, error)
            return await response if inspect.isawaitable(response) else response
        # A project's own page may look at the user, or at anything else in the database.
        return await sync_to_async(self.answer)(request, error)

    def says_itself(self, error: LocksmithError) -> bool:
        """Has the project its own answer to this?"""
        busy = isinstance(error, LockBusy) and not isinstance(error, LockReentered)
        return busy and self._manner.on_busy is not None

    def say(self, request: HttpRequest, error: Any) -> Any:
        """The project's own answer."""
        assert self._manner.on_busy is not None
        return self._manner.on_busy(request, error)

    def keeps(self, lease: Lease, response: Any) -> bool:
        """Has the response still to be rendered or sent? Then the lock is kept until that is done."""
        if not isinstance(response, HttpResponseBase):
            if self.until_closed:
                said_once.warn_once(said_once.NOT_A_RESPONSE, self._key.template)
            return False
        if self.until_closed or response.streaming:
            Parting(lease, response).when_closed()
            return True
        if not getattr(response, "is_rendered", True):
            Parting(lease, response).when_rendered()
            return True
        return False


def _guarded(view: Callable[..., Any], guard: _Guard) -> Callable[..., Any]:
    duty = Duty(view)

    @wraps(view)
    def in_lock(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        lock = None
        if guard.is_for(request):
            asker = asker_of(view, request, args, kwargs) if guard.wants_user else NOBODY
            lock = guard.lock(request, asker, args, kwargs)
        if lock is None:
            return duty.do(request, None, args, kwargs)
        until = _end_of_wait(lock)
        try:
            lease = lock.take()
        except (LockBusy, LockUnavailable) as error:
            return guard.say(request, error) if guard.says_itself(error) else guard.answer(request, error)
        limit = None
        try:
            with ExitStack() as held:
                held.enter_context(lease)
                limit = guard.limit(request, asker, args, kwargs, until)
                if limit is not None:
                    held.enter_context(limit)
                if guard.until_closed:
                    _read_session_anew(request)
                response = duty.do(request, lease, args, kwargs)
                if guard.keeps(lease, response):
                    held.pop_all()
                return response
        except RetryLater as later:
            if limit is None:
                raise
            return guard.later(request, later)

    in_lock._non_atomic_requests = duty  # type: ignore[attr-defined]  # Django's own mark for views
    return in_lock


def _guarded_async(view: Callable[..., Any], guard: _Guard) -> Callable[..., Any]:
    # Django makes no transaction for async views: there is no duty to take over.
    @wraps(view)
    async def in_lock(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        lock = None
        if guard.is_for(request):
            asker = await aasker_of(request) if guard.wants_user else NOBODY
            lock = guard.lock(request, asker, args, kwargs)
        if lock is None:
            return await view(request, *args, **kwargs)
        until = _end_of_wait(lock)
        try:
            lease = await lock.atake()
        except (LockBusy, LockUnavailable) as error:
            return await guard.aanswer(request, error)
        limit = None
        try:
            async with AsyncExitStack() as held:
                await held.enter_async_context(lease)
                limit = guard.limit(request, asker, args, kwargs, until)
                if limit is not None:
                    await held.enter_async_context(limit)
                if guard.until_closed:
                    _read_session_anew(request)
                response = await view(request, *args, **kwargs)
                if guard.keeps(lease, response):
                    held.pop_all()
                return response
        except RetryLater as later:
            if limit is None:
                raise
            return await sync_to_async(guard.later)(request, later)

    return in_lock


def _end_of_wait(lock: Lock) -> float:
    """When a request that comes now has waited for long enough, monotonic seconds."""
    wait = lock.blocking_timeout
    return inf if wait is None else clock.now() + wait


def _read_session_anew(request: HttpRequest) -> None:
    # It may have been read to see whose request this is, and been changed by another one while this one waited.
    session: Any = getattr(request, "session", None)
    if session is not None and not session.modified and hasattr(session, "_session_cache"):
        del session._session_cache
