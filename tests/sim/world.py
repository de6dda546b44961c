"""All that is simulated, and the seams by which the package comes to live in it."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
import warnings
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import redis.connection as connection
from redis import utils as redis_utils

from django_locksmith import clock
from django_locksmith.local import events
from django_locksmith.redis import async_transport, node, outage, sync_transport, wire
from django_locksmith.redis.connections import OneServer
from django_locksmith.redis.transport import Transport
from django_locksmith.runtime import background, clockwork, expiry
from django_locksmith.runtime.runtime import process

from .link import SimSocket, StreamEnd
from .loop import VirtualLoop, here
from .machine import Machine, set_world, world_now
from .server import Client, Server
from .threads import Threading, current
from .weather import Weather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django_locksmith.redis.connections import Deployment
    from django_locksmith.redis.messages import Attempt
    from django_locksmith.runtime.contexts import Context
    from django_locksmith.runtime.runtime import Runtime

    from .values import Reply

SOCKET_TIMEOUT = 3.0


class World:
    """One play. `rng`: all that is random in it."""

    def __init__(self, seed: int, badness: float) -> None:
        self.rng = random.Random(seed)
        self.context = copy_context()
        self.context.run(here.set, None)
        self.loop = VirtualLoop()
        self.loop.dial = self._dial
        self.weather = Weather(random.Random(seed + 1), badness)
        self.server = Server(self)
        self.machines: list[Machine] = []
        self.trace: list[str] = []
        self.is_traced = False
        self.observe: Callable[[Client, list[bytes], Reply], None] = lambda client, command, reply: None

    def machine(self, name: str) -> Machine:
        """One more."""
        made = Machine(self, name)
        self.machines.append(made)
        return made

    async def sleep(self, seconds: float) -> None:
        """For the world itself."""
        done = self.loop.create_future()
        self.loop.call_later(seconds, done.set_result, None)
        await done

    def bury(self) -> None:
        """The play is over: nothing of it may be left, nor complain."""
        for machine in self.machines:
            machine.bury()
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own switch
        self.machines.clear()
        self.server.clients.clear()
        self.loop.close()

    def tell(self, what: str) -> None:
        """For whoever reads the trace."""
        if self.is_traced:
            self.trace.append(f"{self.loop.time():10.4f} {what}")

    def saw(self, client: Client, command: list[bytes]) -> None:
        """The server runs this."""
        if self.is_traced:
            words = " ".join(_short(word) for word in command)
            self.tell(f"{client.link.machine}: {words}")

    def answered(self, client: Client, reply: Reply) -> None:
        """The server has answered this."""
        if self.is_traced:
            self.tell(f"{client.link.machine}:   -> {reply!r:.120}")

    async def _dial(self, protocol: Any) -> StreamEnd:
        machine = here.get()
        assert machine is not None
        wait = self.loop.create_future()
        self._when_reached(machine, lambda: machine.run(_set, wait))
        await wait
        if self.server.is_down:
            raise ConnectionRefusedError("no server")
        return StreamEnd(machine, self.server, protocol)

    def dial_for_thread(self) -> SimSocket:
        """As `_dial`."""
        machine, thread = here.get(), current()
        assert machine is not None
        self._when_reached(machine, thread.wake)
        if not thread.block(SOCKET_TIMEOUT):
            raise TimeoutError("no connection")
        if self.server.is_down:
            raise ConnectionRefusedError("no server")
        return SimSocket(machine, self.server)

    def _when_reached(self, machine: Machine, then: Any) -> None:
        """A packet there and back; none while it is cut off."""
        if not machine.is_cut_off:
            self.loop.call_later(2 * self.weather.delay(), then, context=self.context)


def _set(future: Any) -> None:
    if not future.done():
        future.set_result(None)


def _short(word: bytes) -> str:
    if len(word) > 100:
        return f"<{len(word)} bytes>"
    text = word.decode(errors="replace")
    return text[:6] if len(text) == 40 and text.isalnum() else text


class _Connection(connection.Connection):  # type: ignore[misc]  # redis-py's classes are untyped
    """redis-py's own, over a link of the simulation."""

    def _connect(self) -> SimSocket:
        sock = world_now().dial_for_thread()
        sock.settimeout(self.socket_timeout)
        return sock

    def can_read(self, timeout: float | None = 0) -> bool:
        return bool(self._sock.can_read(timeout))


class _Servers:
    """What stands in for what `LOCKSMITH["REDIS"]` names: for each process its own way to the one server."""

    def deployment(self, where: str) -> Deployment:
        return OneServer(
            connection.ConnectionPool(
                connection_class=_Connection, host=where, socket_timeout=SOCKET_TIMEOUT, protocol=2, max_connections=100
            )
        )

    def enter(self, runtime: Runtime) -> None:
        pass

    def furnish(self, runtime: Runtime, context: Context) -> None:
        pass

    async def prepare(self, context: Context, attempt: Attempt) -> None:
        pass

    def start_again(self) -> None:
        pass


class _Watches:
    """Each process has a watch of its own."""

    def add(self, lease: Any) -> None:
        machine = here.get()
        if machine is not None:
            machine.watch.add(lease)

    def remove(self, lease: Any) -> None:
        machine = here.get()
        if machine is not None:
            machine.watch.remove(lease)


class _Time:
    """What stands for the module `time`."""

    @staticmethod
    def monotonic() -> float:
        return world_now().loop.time()

    @staticmethod
    def sleep(seconds: float) -> None:
        current().block(seconds)


@contextmanager
def quiet() -> Iterator[None]:
    """Around a play: processes that were killed leave tasks behind, which do not end in peace; here nobody hears them.

    What is collected, and when, does not come from the seed: so it is only in the end.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()  # what was there before is never looked through again
    gc.disable()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), patch.object(sys, "unraisablehook", lambda unraisable: None):
            warnings.simplefilter("ignore")
            yield
            gc.collect()
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


@contextmanager
def simulated(seed: int, badness: float) -> Iterator[World]:
    """A world, which the package lives in meanwhile."""
    world = World(seed, badness)
    set_world(world)
    state = random.getstate()
    random.seed(seed)
    with ExitStack() as stack:
        for module in (async_transport, sync_transport, node, outage):
            stack.enter_context(patch.object(module, "time", _Time))
        for module in (clockwork, expiry, events, background):
            stack.enter_context(patch.object(module, "threading", Threading))
        stack.enter_context(patch.object(clock, "now", _Time.monotonic))
        stack.enter_context(patch.object(Transport, "now", staticmethod(_Time.monotonic)))
        stack.enter_context(patch.object(wire, "socket", SimSocket))
        # redis-py reads it from a file for each connection.
        stack.enter_context(patch.object(redis_utils, "get_lib_version", lambda: "0"))
        stack.enter_context(patch.object(process, "watch", _Watches()))
        stack.enter_context(patch.object(process, "substitutes", [_Servers()]))
        try:
            yield world
        finally:
            world.bury()
            random.setstate(state)
            set_world(None)
