"""Single flight under random interleavings: real rules and scripts, every request a step, held to a small model.

Callers of three processes, invalidations, failures, processes that die between any two steps, leases that run out. A
step ends before and after each request to Redis or the cache, so that anything may happen in between.
"""

from __future__ import annotations

import random
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_locksmith import PopulateFailed, RetryLater
from django_locksmith.local.events import Event
from django_locksmith.local.flights import LocalFlights
from django_locksmith.policy import flights
from django_locksmith.policy.flight_outcomes import MISSING, Call
from django_locksmith.policy.landing import void
from django_locksmith.redis.connections import open_deployment
from django_locksmith.redis.flight_store import FlightStore
from django_locksmith.redis.lock_store import LockStore
from django_locksmith.redis.messages import NO_REPLY
from django_locksmith.redis.sync_transport import SyncTransport
from django_locksmith.redis.transport import Connection, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator

    from tests.helpers.deployments import Deployment

PROCESSES = 3
NAME = "the key"


class Died(BaseException):
    """The process that this ran in is no more."""


class Step:
    """Where a caller stops until the scheduler has it go on."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Life:
    """One process: nothing that runs in it does anything once it is over."""

    def __init__(self) -> None:
        self.over = False

    async def step(self) -> None:
        if not self.over:
            await Step()
        if self.over:
            raise Died


class SteppedEvent(Event):
    def set(self) -> None:
        pass  # followers look for themselves

    async def wait(self, seconds: float) -> None:
        await Step()


class SteppedConnection(Connection):
    """Time never passes on it: either the reply is there, or it is time for a look on the side."""

    def __init__(self, connection: Any, life: Life) -> None:
        self._connection = connection
        self._life = life

    async def send(self, request: bytes) -> None:
        await self._life.step()
        await self._connection.send(request)

    async def read_within(self, seconds: float) -> Any:
        await self._life.step()
        return await self.read() if self._connection._conn.can_read(0) else NO_REPLY

    async def read(self) -> Any:
        reply = await self._connection.read()
        await self._life.step()
        return reply

    async def keep(self) -> None:
        await self._connection.keep()

    async def drop(self) -> None:
        await self._connection.drop()


class SteppedTransport(Transport):
    def __init__(self, transport: SyncTransport, world: World, life: Life) -> None:
        super().__init__(transport.deployment)
        self._transport = transport
        self._life = life
        self.now = lambda: world.clock  # type: ignore[method-assign]  # a clock that stands still

    async def call(self, lock: bytes, request: bytes, undo: Callable[[], bytes] | None = None) -> Any:
        await self._life.step()
        reply = await self._transport.call(lock, request, undo)
        await self._life.step()
        return reply

    async def connection_to(self, node: Any) -> Connection:
        return SteppedConnection(await self._transport.connection_to(node), self._life)

    async def sleep(self, seconds: float) -> None:
        await self._life.step()

    async def shielded(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await work

    async def close(self) -> None:
        """The connections are those of the wires that are stepped through."""


class LedFlight:
    held = True


@dataclass
class Caller:
    """One get_or_set, or one invalidation, under way."""

    work: Coroutine[Any, Any, Any]
    process: int
    token: bytes
    begun_after: int
    """No value older than this may come of it."""
    invalidates: int = 0


@dataclass
class World:
    """The cache, the truth behind it, and what has happened."""

    transport: SyncTransport
    client: Any
    clock: float = 0.0
    truth: int = 1
    """What a computation finds that begins now. An invalidation follows each change."""
    invalidated: int = 0
    """The cache is to hold nothing older than this."""
    entries: dict[str, int] = field(default_factory=dict)
    callers: list[Caller] = field(default_factory=list)
    computed: int = 0
    excuses: int = 1
    """So many computations can be accounted for."""
    numbers: Iterator[int] = field(default_factory=count)
    strict: bool = True
    """No leader was out of reach for longer than an invalidation waits for it."""
    plan: list[str] = field(default_factory=list)
    served: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lives = [Life() for _ in range(PROCESSES)]
        self.stores = [self._new_store(life) for life in self.lives]
        self.local = [self._new_local() for _ in self.lives]
        self.names = self.stores[0].names(NAME)

    def _new_store(self, life: Life) -> FlightStore:
        return FlightStore(LockStore(SteppedTransport(self.transport, self, life), "__locksmith:"))

    def _new_local(self) -> LocalFlights:
        return LocalFlights(SteppedEvent, lambda: self.clock)

    # ---- what may happen

    def call(self, process: int) -> None:
        token = b"token %d" % next(self.numbers)
        wish = Call(
            key=NAME,
            names=self.names,
            token=token,
            values=CachedValues(self, self.lives[process]),
            compute=lambda: self._compute(self.lives[process]),
            keep_alive=keep_alive,
            warn=lambda text, error: pytest.fail(f"{text}: {error}"),
            lease=60.0,
            until=inf,
            keeps_old=False,
            error_ttl=lambda error: 0.0,
            on_error="share",
            on_timeout="raise",
            allowance=None,
            place_until=inf,
            patience=0.0,
            in_background=False,
            refresh=lambda: None,
        )
        self.callers.append(Caller(self._get(process, wish), process, token, self.invalidated))

    async def _get(self, process: int, wish: Call) -> Any:
        found = await wish.values.fresh()
        if found is not MISSING:
            return found
        return (await flights.obtain(self.stores[process], self.local[process], wish)).value

    async def _compute(self, life: Life) -> int:
        self.computed += 1
        found = self.truth
        for _ in range(3):
            await life.step()
        fate = self.plan.pop() if self.plan else "well"
        if fate == "fails":
            self.excuses += 1
            raise KeyError("broken")
        if fate == "later":
            self.excuses += 1
            raise RetryLater(0)  # over at once, so that the others can go on
        return found

    def invalidate(self, process: int) -> None:
        self.truth += 1
        self.excuses += 3  # the flight before, one that begins between its steps, and the one after
        token = b"invalidation %d" % self.truth
        work = void(self.stores[process], self.names, CachedValues(self, self.lives[process]))
        self.callers.append(Caller(work, process, token, 0, invalidates=self.truth))

    def kill(self, process: int) -> None:
        """All that this process was doing stops, and a new one takes its place."""
        self.lives[process].over = True
        for caller in [caller for caller in self.callers if caller.process == process]:
            self.callers.remove(caller)
            with suppress(Died):
                caller.work.throw(Died())
        self.lives[process] = Life()
        self.stores[process] = self._new_store(self.lives[process])
        self.local[process] = self._new_local()
        self.excuses += 1
        self._lease_runs_out()

    def _lease_runs_out(self) -> None:
        leader = (self.client.get(self.names.lock) or "").removeprefix("landing:")
        if leader and leader.encode() not in {caller.token for caller in self.callers}:
            self.client.delete(self.names.lock)

    def pass_time(self) -> None:
        """More than an invalidation waits for a landing."""
        if any(caller.invalidates for caller in self.callers):
            self.strict = False
        self.clock += 2.0

    def step(self, number: int) -> None:
        """One caller goes on to its next request."""
        if not self.callers:
            return
        caller = self.callers[number % len(self.callers)]
        try:
            caller.work.send(None)
        except StopIteration as done:
            self.callers.remove(caller)
            self._ended(caller, done.value)
        except (KeyError, PopulateFailed, RetryLater):
            self.callers.remove(caller)
        if self.strict:
            self.look()

    def _ended(self, caller: Caller, value: Any) -> None:
        if caller.invalidates:
            self.invalidated = max(self.invalidated, caller.invalidates)
            return
        self.served.append(value)
        assert not self.strict or value >= caller.begun_after, "an invalidated value was served"

    def look(self) -> None:
        """The promise of `invalidate`."""
        assert self.entries.get("fresh", inf) >= self.invalidated, "an invalidated value came back"

    def come_to_an_end(self, chance: random.Random) -> None:
        """Everybody gets there."""
        for number in range(5_000):
            if not self.callers:
                break
            if number % 1_000 == 999:
                self.pass_time()  # one may wait for the landing of a leader that is dead
            self.step(chance.randrange(len(self.callers)))
        assert not self.callers, "somebody waits for nothing"
        self.look()
        assert self.computed <= self.excuses, "computed more often than needed"
        assert not self.client.exists(self.names.lock)
        assert not any(local._flights for local in self.local)


class CachedValues:
    """The cache of the world; each of its requests is a step, too."""

    old_lives = False

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life

    async def fresh(self) -> Any:
        await self._life.step()
        found = self._world.entries.get("fresh", MISSING)
        await self._life.step()
        return found

    async def old(self) -> Any:
        return MISSING

    async def put(self, value: Any, longest: float | None = None) -> None:
        await self._life.step()
        self._world.entries["fresh"] = value
        await self._life.step()

    async def drop(self) -> None:
        await self._life.step()
        self._world.entries.pop("fresh", None)
        await self._life.step()

    def copier(self, value: Any) -> Callable[[], Any]:
        return lambda: value


@contextmanager
def keep_alive(deadline: float) -> Iterator[LedFlight]:
    yield LedFlight()


processes = st.integers(0, PROCESSES - 1)
happenings = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 30)),
    st.tuples(st.just("step"), st.integers(0, 30)),
    st.tuples(st.just("step"), st.integers(0, 30)),
    st.tuples(st.just("call"), processes),
    st.tuples(st.just("invalidate"), processes),
    st.tuples(st.just("kill"), processes),
    st.tuples(st.just("pass_time"), st.none()),
)


@pytest.fixture
def transport(valkey: Deployment) -> SyncTransport:
    return SyncTransport(open_deployment("default"))


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    history=st.lists(happenings, min_size=10, max_size=60),
    fates=st.lists(st.sampled_from(["well", "fails", "later"]), max_size=3),
    seed=st.integers(0, 2**32),
)
def test_single_flight_keeps_its_promises(
    valkey: Deployment, transport: SyncTransport, history: list[tuple[str, Any]], fates: list[str], seed: int
) -> None:
    """Whatever the order: one computes at a time, nobody waits for nothing, and nothing invalidated comes back."""
    with valkey.server.client() as client:
        client.flushall()
        world = World(transport, client, plan=list(fates))
        world.call(0)
        for what, argument in history:
            getattr(world, what)(*(() if argument is None else (argument,)))
        world.come_to_an_end(random.Random(seed))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(callers=st.lists(processes, min_size=1, max_size=8), seed=st.integers(0, 2**32))
def test_one_computes_for_all(valkey: Deployment, transport: SyncTransport, callers: list[int], seed: int) -> None:
    """Where nothing goes wrong, there is one computation, whenever its callers come, and all get its value."""
    with valkey.server.client() as client:
        client.flushall()
        world = World(transport, client)
        for process in callers:
            world.call(process)
        world.come_to_an_end(random.Random(seed))
    assert world.computed == 1
    assert world.served == [1] * len(callers)
