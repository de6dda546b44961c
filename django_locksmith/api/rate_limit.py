"""Rate limits: so many calls in so many seconds, for all servers together, each caller at its place."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .. import conf, signals
from ..exceptions import LockUnavailable, RetryLater
from ..policy import rate_limits as policy
from ..policy.rate_limits import Terms
from ..policy.sync_bridge import run_sync
from ..rates import Rate, Window
from ..runtime.options import UNSET, Unset
from . import blocks, said_once
from .api_headers import read_headers
from .decorating import decorated, done

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from ..redis.key_names import RateNames
    from ..runtime.contexts import Context
    from ..runtime.runtime import Runtime

logger = logging.getLogger("django_locksmith.rate_limit")

F = TypeVar("F", bound="Callable[..., Any]")


class Booking:
    """A place in the schedule of a rate limit, which has come: the call may go out now.

    Attributes:
        name: of the rate limit.
        cost: how many calls it counts for.
        waited: seconds until it had come.
        at: when that was, Unix time by the server's clock; `None` where Redis gave no answer, and the place is one of
            this process' own.
    """

    __slots__ = ("at", "cost", "name", "waited")

    def __init__(self, name: str, cost: int, waited: float, at: float | None) -> None:
        self.name = name
        self.cost = cost
        self.waited = waited
        self.at = at

    def __repr__(self) -> str:
        return f"<Booking of {self.name!r}: cost {self.cost}, after {self.waited:.2f} s>"


class RateLimit:
    """A rate limit by its name: free to share between threads, tasks and modules. `locksmith.rate_limit()` makes one.

        with twitter: ...                   # sleeps until its place has come; async with; raises RetryLater
        booking = twitter.take(cost=2)      # a Booking
        @twitter                            # on a function, sync or async

    Places are booked in order of arrival, on the Redis server's clock, so that in no window of any length the rate says
    there are more calls than it allows. Nobody polls. Redis down: each process keeps to the rate by itself, and a
    warning says so.
    """

    def __init__(
        self,
        find_runtime: Callable[[], Runtime],
        name: str,
        rate: Rate,
        blocking_timeout: float | Unset | None,
        caution: float | Unset,
        template: str = "",
    ) -> None:
        self._find_runtime = find_runtime
        self.name = name
        self.rate = rate
        self._wait = blocking_timeout
        self._caution = caution
        self._template = template

    @property
    def caution(self) -> float:
        """Seconds that are kept beyond each window: callers wake up late, and not all by the same."""
        given = self._caution
        return self._find_runtime().settings.rate_caution if isinstance(given, Unset) else given

    # ---- taking a place

    def take(
        self, cost: int = 1, blocking: bool = True, blocking_timeout: conf.Seconds | Unset | None = UNSET
    ) -> Booking:
        """Book the next place, and return when it has come.

        Args:
            cost: how many calls it counts for.
            blocking: whether to wait.
            blocking_timeout: how long, seconds, this time; `None` = without limit.

        Returns:
            The `Booking`.

        Raises:
            RetryLater: the place is further away, `seconds` of it; nothing was booked.
            SynchronousOnlyOperation: in an event loop, which would stand still; there is `atake`.
            TypeError, ValueError: name the argument at fault.
        """
        blocks.no_loop("atake()")
        terms = self.terms(cost, blocking, blocking_timeout)
        return run_sync(self.take_on(self._find_runtime().threads(), terms))

    async def atake(
        self, cost: int = 1, blocking: bool = True, blocking_timeout: conf.Seconds | Unset | None = UNSET
    ) -> Booking:
        """As `take`. Cancelled, it gives the place back, if nobody has booked behind it."""
        terms = self.terms(cost, blocking, blocking_timeout)
        return await self.take_on(self._find_runtime().loop(), terms)

    # ---- not for users: single flight, views and tasks book, too

    def named(self, name: str, wait: float | Unset | None = UNSET) -> RateLimit:
        """The one of this name, by the same rate; this one is the template. `wait`: the longest, seconds."""
        wait = self._wait if isinstance(wait, Unset) else wait
        return RateLimit(self._find_runtime, name, self.rate, wait, self._caution, self._template or self.name)

    def where(self, *, in_loop: bool = False) -> tuple[Context, RateNames]:
        """What its callers in threads, or tasks, share, and its keys."""
        runtime = self._find_runtime()
        context = runtime.loop() if in_loop else runtime.threads()
        return context, context.rates.names(self._own_name())

    async def take_on(self, context: Context, terms: Terms) -> Booking:
        """As `take`, there, on these terms."""
        names = context.rates.names(self._own_name())
        memory = context.schedules.of(names.lock, context.rates.now())
        began = context.rates.now()
        try:
            taken = await policy.take(context.rates, memory, names, terms, self._warn)
        except RetryLater:
            await self.tell(context, "refused", context.rates.now() - began)
            raise
        await self.tell(context, "alone" if taken.server_time is None else "taken", taken.waited)
        return Booking(self.name, terms.cost, taken.waited, taken.server_time)

    async def tell(self, context: Context, outcome: str, waited: float) -> None:
        """Receivers of the signal hear what became of a caller."""
        if signals.limited.wanted:
            named = {"name": self.name, "template": self._kind, "outcome": outcome, "waited": waited}
            await context.tell(signals.limited, **named)

    @property
    def _kind(self) -> str:
        """What metrics call it: names may be too many."""
        return self._template or (self.name if self.name in self._find_runtime().settings.rate_limits else "")

    def _warn(self, trouble: LockUnavailable) -> None:
        said_once.warn_once(said_once.RATE_BY_MEMORY, self._template or self.name)
        logger.info("the rate limit %r: %s", self.name, trouble)

    def _own_name(self) -> str:
        if "{" in self.name and not self._template:
            raise ValueError(
                f"the rate limit {self.name!r} is a template for a decorated function; elsewhere write the name out,"
                ' as an f"..." string'
            )
        return self.name

    def _kept(self) -> Rate:
        """With its caution."""
        caution = self.caution
        return Rate(self.rate.text, tuple(Window(calls, seconds + caution) for calls, seconds in self.rate.windows))

    def terms(self, cost: int, blocking: bool, blocking_timeout: conf.Seconds | Unset | None) -> Terms:
        """What the rules are to know. Raises `TypeError` or `ValueError` that name the argument at fault."""
        if isinstance(cost, bool) or not isinstance(cost, int):
            raise TypeError(f"cost must be a whole number, not {cost!r}")
        if not 1 <= cost <= self.rate.dearest:
            raise ValueError(f"cost must be from 1 to {self.rate.dearest}, for {self.rate.text!r}, not {cost!r}")
        conf.flag("blocking", blocking)
        if isinstance(blocking_timeout, Unset):
            usual = self._wait if not isinstance(self._wait, Unset) else self._find_runtime().settings.blocking_timeout
            wait = usual if blocking else 0.0
        else:
            wait = conf.wait_seconds("blocking_timeout", blocking_timeout)
            if not blocking and wait != 0:
                raise ValueError("blocking_timeout says how long to wait, but blocking=False says not to")
        return Terms(self._kept(), cost, wait)

    # ---- around code

    def __enter__(self) -> Booking:
        return self.take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RetryLater):
            self._try(lambda: self.pause(error.seconds))

    async def __aenter__(self) -> Booking:
        return await self.atake()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RetryLater):
            try:
                await self.apause(error.seconds)
            except LockUnavailable as trouble:
                self._could_not_tell(trouble)

    def _try(self, tell: Callable[[], object]) -> None:
        try:
            tell()
        except LockUnavailable as trouble:
            self._could_not_tell(trouble)

    def _could_not_tell(self, trouble: LockUnavailable) -> None:
        logger.warning("the pause of the rate limit %r could not be told to others: %s", self.name, trouble)

    def __call__(self, function: F) -> F:
        """Decorate a function, sync or async: each call waits for its place.

        The limit's name is a template over the arguments of the call (`"github:{token_id}"`). A `RetryLater` that the
        function raises pauses the limit.
        """

        def limit_of(name: str, _: str) -> RateLimit:
            return self.named(name)

        result: Any = decorated(function, self.name, self._template, limit_of)
        result.locksmith_rate_limit = self
        return result  # type: ignore[no-any-return]  # it takes what the function takes

    def run(self, work: Callable[[Callable[[], bool]], Any]) -> Any:
        """Call `work` when the place has come. For `decorated`, which gives it a `release` that does nothing."""
        with self:
            return done(work(lambda: False))

    async def arun(self, work: Callable[[Callable[[], Awaitable[bool]]], Awaitable[Any]]) -> Any:
        """As `run`."""

        async def nothing() -> bool:
            return False

        async with self:
            return await work(nothing)

    # ---- what the API says

    def pause(self, seconds: conf.Seconds) -> None:
        """No call for so many seconds, as a 429 says: whoever has a place already gets a later one, in the same order.

        A pause that is shorter than one that is in force changes nothing. Raises `LockUnavailable`.
        """
        run_sync(self._reschedule(self._find_runtime().threads(), self._pause_of(seconds)))

    async def apause(self, seconds: conf.Seconds) -> None:
        """As `pause`."""
        await self._reschedule(self._find_runtime().loop(), self._pause_of(seconds))

    def sync(self, remaining: int, reset: conf.Seconds, limit: int | None = None) -> None:
        """The API says that so many calls remain until its window ends.

        Fewer than we know of, for others use the allowance, too, or our memory was lost: the calls that are missing
        count from now on. More change nothing.

        Args:
            remaining: calls.
            reset: seconds until the end of the window.
            limit: how many calls the API allows in that window; default, the shortest window that may end so late.

        Raises:
            LockUnavailable: Redis gave no usable answer.
            TypeError, ValueError: name the argument at fault.
        """
        run_sync(self._sync(self._find_runtime().threads(), remaining, reset, limit))

    async def a_sync(self, remaining: int, reset: conf.Seconds, limit: int | None = None) -> None:
        """As `sync`."""
        await self._sync(self._find_runtime().loop(), remaining, reset, limit)

    def sync_from(self, headers: Mapping[str, str]) -> None:
        """As `pause` and `sync`, by the headers of a response.

        `Retry-After` (seconds, or a date) pauses. `RateLimit` (IETF), `RateLimit-Remaining` and `-Reset`, with and
        without `X-`, and `X-Rate-Limit-...` tell what remains. Others, and what cannot be read, are left alone.
        """
        self._try(lambda: run_sync(self._sync_from(self._find_runtime().threads(), headers)))

    async def a_sync_from(self, headers: Mapping[str, str]) -> None:
        """As `sync_from`."""
        try:
            await self._sync_from(self._find_runtime().loop(), headers)
        except LockUnavailable as trouble:
            self._could_not_tell(trouble)

    async def _sync_from(self, context: Context, headers: Mapping[str, str]) -> None:
        said = read_headers(headers)
        if said.pause:
            await self._reschedule(context, said.pause + self.caution)
        if said.remaining is not None and said.reset is not None:
            await self._sync(context, said.remaining, said.reset, said.limit)

    async def _sync(self, context: Context, remaining: int, reset: conf.Seconds, limit: int | None) -> None:
        left = conf.wait_seconds("reset", reset)
        assert left is not None
        for name, number in (("remaining", remaining), ("limit", limit)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
                raise TypeError(f"{name} must be a whole number, not {number!r}")
        windows = sorted(self.rate.windows, key=lambda window: window.seconds)
        of_limit = [window for window in windows if window.calls == limit]
        late_enough = [window for window in windows if window.seconds >= left]
        window = (of_limit or late_enough or windows[-1:])[0]
        counted = max(0, (limit if limit is not None else window.calls) - max(0, remaining))
        if counted:
            await self._reschedule(context, 0.0, min(counted, window.calls), window.seconds - left)

    def _pause_of(self, seconds: conf.Seconds) -> float:
        pause = conf.hold_seconds("seconds", seconds)
        if pause is None or pause > conf.LONGEST_LEASE:
            raise ValueError(f"a pause is of up to a year, not {seconds!r}")
        return pause + self.caution

    async def pause_if_told(self, context: Context, seconds: float) -> bool:
        """No call by anybody for so long; `False` if nobody could be told, which is logged."""
        try:
            await self._reschedule(context, seconds + self.caution)
        except LockUnavailable as trouble:
            self._could_not_tell(trouble)
            return False
        return True

    async def _reschedule(self, context: Context, pause: float, counted: int = 0, age: float = 0.0) -> None:
        names = context.rates.names(self._own_name())
        memory = context.schedules.of(names.lock, context.rates.now())
        await policy.reschedule(context.rates, memory, names, self._kept(), pause, counted, age)
        if pause and signals.paused.wanted:
            await context.tell(signals.paused, name=self.name, template=self._kind, seconds=pause)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"the rate limit {self.name!r} cannot be copied or pickled: make one there, by its name")

    def __repr__(self) -> str:
        return f"<RateLimit {self.name!r}: {self.rate.text}>"
