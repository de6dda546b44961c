"""One gate for each flight in a process (or event loop): the first caller asks Redis, the others wait for the outcome.

So a stampede costs Redis one request for each process, not for each thread; and where Redis cannot be asked, one caller
still computes for all of its process.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .wires import Bell, Wires

_LOOK_EVERY = 1.0
"""Seconds after which a guest looks by itself: a host that is interrupted while it closes the gate may fail to ring."""


class Gates:
    """The gates of one process or event loop."""

    def __init__(self, wires: Wires) -> None:
        self._wires = wires
        self._gates: dict[bytes, Gate] = {}
        self._mutex = threading.Lock()

    def come_to(self, flight: bytes) -> Gate | Guest:
        """Open a gate and be its host, or come to it as a guest, if it is there."""
        with self._mutex:
            gate = self._gates.get(flight)
            if gate is None:
                gate = self._gates[flight] = Gate(self, flight)
                return gate
            return gate.let_in(self._wires.bell())


class Gate:
    """Where the callers of one flight wait. The host, who came first, closes it, and says with what outcome."""

    def __init__(self, gates: Gates, flight: bytes) -> None:
        self._gates = gates
        self._flight = flight
        self._bells: list[Bell] = []
        self._in_time: int | None = None
        self.outcome: Any = None
        self.lands = False
        """Is a value on its way into the cache? Then its flight ends by itself."""

    @property
    def has_guests(self) -> bool:
        """Does anybody wait here?"""
        return bool(self._bells)

    @property
    def now(self) -> float:
        """The clock that guests wait by: monotonic seconds."""
        return self._gates._wires.now()

    def let_in(self, bell: Bell) -> Guest:
        """One more guest, who will hear this bell."""
        self._bells.append(bell)
        return Guest(self, bell, len(self._bells))

    def is_late(self, number: int) -> bool:
        """Did the guest of this number come when the outcome was already being looked at?"""
        return self._in_time is not None and number > self._in_time

    def begin_to_look(self) -> None:
        """Whatever is found from here on may be out of date for those who come from here on."""
        with self._gates._mutex:
            self._in_time = len(self._bells)

    def found_nothing(self) -> None:
        """There will be another look."""
        self._in_time = None

    def close(self, outcome: Any) -> None:
        """The outcome for all guests; who comes later opens another gate. Harmless if repeated."""
        with self._gates._mutex:
            if self._gates._gates.get(self._flight) is self:
                del self._gates._gates[self._flight]
            self.outcome = outcome
            self._bells.reverse()  # first come, first told
        for _ in range(self._gates._wires.bell.at_once or len(self._bells)):
            self.ring_next()

    def ring_next(self) -> None:
        """Tell one more guest, if there is one."""
        with suppress(IndexError):
            self._bells.pop().ring()


class Guest:
    """One who waits at a gate."""

    def __init__(self, gate: Gate, bell: Bell, number: int) -> None:
        self._gate = gate
        self._bell = bell
        self._number = number

    @property
    def is_late(self) -> bool:
        """Is the outcome older than this guest?"""
        return self._gate.is_late(self._number)

    async def outcome(self, until: float) -> Any:
        """What the host says; `None` if that was not known `until` (monotonic seconds)."""
        gate = self._gate
        try:
            while gate.outcome is None:
                left = until - gate.now
                if left <= 0:
                    return None
                await self._bell.wait(min(left, _LOOK_EVERY))
            return gate.outcome
        finally:
            if gate.outcome is not None:
                gate.ring_next()
