"""What befalls processes, their network and their server: a method for each of `terms.FAULTS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .machine import Interrupted, Machine
from .threads import SimThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from .judge import Judge
    from .world import World


class Troubles:
    """`callers`: tasks and threads, by whose process they are. `start`: has a new process call."""

    def __init__(
        self, world: World, judge: Judge, callers: list[tuple[Machine, Any]], start: Callable[[Machine], None]
    ) -> None:
        self._world = world
        self._rng = world.rng
        self._judge = judge
        self._callers = callers
        self._start = start

    async def begin(self, fault: str) -> None:
        """One of them."""
        await getattr(self, fault)()

    def _somebody(self) -> Machine:
        alive = [machine for machine in self._world.machines if not machine.is_dead]
        return self._rng.choice(alive)

    async def stop_one(self) -> None:
        machine, seconds = self._somebody(), self._rng.choice((0.2, 3.0, 14.0))
        if machine.is_stopped:
            return
        self._world.tell(f"{machine}: STOPPED for {seconds:g} s")
        machine.pauses += seconds
        machine.stop()
        self._later(seconds, machine.go_on)

    async def cut_one_off(self) -> None:
        machine, seconds = self._somebody(), self._rng.choice((0.2, 2.0, 6.0))
        if machine.is_cut_off:
            return
        self._world.tell(f"{machine}: CUT OFF for {seconds:g} s")
        machine.cut_off()
        self._later(seconds, machine.reconnect)

    async def kill_one(self) -> None:
        machine = self._somebody()
        self._world.tell(f"{machine}: KILLED")
        machine.kill()
        self._start(self._world.machine(f"p{len(self._world.machines)}"))

    async def cut_all(self) -> None:
        self._world.tell("all connections CUT")
        for machine in self._world.machines:
            machine.cut_links()

    async def interrupt_some(self) -> None:
        for _ in range(self._rng.randint(1, 4)):
            machine, caller = self._rng.choice(self._callers)
            if not isinstance(caller, SimThread):
                caller.cancel()
            elif not caller.is_over and not machine.is_dead:
                caller.interrupt(Interrupted())
            await self._world.sleep(self._rng.choice((0.0, 0.0002, 0.001, 0.1)))

    async def restart_server(self) -> None:
        await self._restart(keep=True)

    async def lose_data(self) -> None:
        self._judge.server_lost_its_data()
        await self._restart(keep=False)

    async def _restart(self, *, keep: bool) -> None:
        seconds = self._rng.choice((0.05, 1.0, 4.0))
        self._world.tell(f"the server RESTARTS after {seconds:g} s, {'with' if keep else 'without'} its data")
        server = self._world.server
        server.stop(keep=keep)
        await self._world.sleep(seconds)
        server.is_down = False

    async def set_clock(self) -> None:
        forward = self._rng.choice((-30.0, -2.0, 2.0, 30.0))
        self._world.tell(f"the server's clock is SET by {forward:g} s")
        self._judge.clock_is_set(forward)
        self._world.server.engine.set_forward += forward

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        self._world.loop.call_later(seconds, then, context=self._world.context)
