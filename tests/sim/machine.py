"""One process of ours, on a machine of its own: it can be stopped, cut off, and killed at any point."""

from __future__ import annotations

from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from django_locksmith import Locksmith
from django_locksmith.runtime.expiry import Watch

from .loop import here
from .threads import SimThread, current, in_thread

if TYPE_CHECKING:
    import asyncio
    from asyncio.events import Handle
    from collections.abc import Callable, Coroutine

    from .link import Link
    from .world import World

RECOVERY = 0.5
"""Seconds in which a process that was stopped finds out what has become of its connections."""
_world: World | None = None


def world_now() -> World:
    """The one that is played."""
    assert _world is not None
    return _world


def set_world(world: World | None) -> None:
    """From now on."""
    global _world
    _world = world


class Interrupted(BaseException):
    """What a signal handler raises in the middle of a thread's work: Ctrl-C, a time limit."""


class Machine:
    """`service` is its `Locksmith`; what is run by it knows it as `here`."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.context: Context = copy_context()
        self.context.run(here.set, self)
        self.is_dead = False
        self.is_stopped = False
        self._well_from = 0.0
        self.is_cut_off = False
        self.links: dict[Link, None] = {}
        self.threads: dict[SimThread, None] = {}
        self.held_up: list[tuple[Link, str, Callable[..., None], Any]] = []
        self._parked: list[Handle] = []
        self.watch = Watch()
        self.service = Locksmith(redis=name, timeout=5)
        self.pauses = 0.0
        """Seconds for which it has been stopped in all."""

    def __repr__(self) -> str:
        return self.name

    @property
    def is_in_trouble(self) -> bool:
        """Nobody can expect anything of it."""
        recovers = self.world.loop.time() < self._well_from
        return self.is_dead or self.is_stopped or self.is_cut_off or recovers

    def runs_now(self, handle: Handle) -> bool:
        """For the loop: may it call this?"""
        if self.is_stopped and not self.is_dead:
            self._parked.append(handle)
        return not self.is_dead and not self.is_stopped

    def run(self, work: Callable[..., object], *arguments: Any) -> None:
        """Have this process do it, as soon as it runs."""
        self.world.loop.call_soon(work, *arguments, context=self.context)

    def start_task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """One of its tasks."""
        return self.context.run(self.world.loop.create_task, work)

    def start_thread(self, work: Callable[[], object]) -> SimThread:
        """One of its threads."""
        thread: SimThread = self.context.run(SimThread, work)
        self.context.run(thread.start)
        return thread

    def interrupt_maybe(self) -> None:
        """Where a thread blocks, a signal handler may raise."""
        if in_thread():
            current().raise_what_is_pending()

    # ---- what befalls it

    def stop(self) -> None:
        """SIGSTOP, or a suspended laptop."""
        self.is_stopped = True

    def go_on(self) -> None:
        """SIGCONT."""
        self.is_stopped = False
        self._well_from = self.world.loop.time() + RECOVERY
        parked, self._parked = self._parked, []
        for handle in parked:
            self.world.loop.again(handle)

    def cut_off(self) -> None:
        """Its network is gone; TCP keeps what is sent."""
        self.is_cut_off = True

    def reconnect(self) -> None:
        """It is there again."""
        self.is_cut_off = False
        held_up, self.held_up = self.held_up, []
        for link, way, then, arguments in held_up:
            link.go_on(way, then, arguments)

    def cut_links(self) -> None:
        """All its connections, in the order in which they were made."""
        for link in list(self.links):
            link.reset()

    def kill(self) -> None:
        """SIGKILL, or the power is gone: the network tells the server."""
        self.is_dead = True
        self.cut_links()
        for thread in list(self.threads):
            thread.end()

    def bury(self) -> None:
        """The play is over: nothing of it may be left, nor complain."""
        self.is_dead = True
        for thread in list(self.threads):
            thread.end()
