"""What lies between a process and its Redis: a connection that delays, is cut, or keeps silent; and its two ends.

The bytes of one direction come in order, as with TCP. A cut may fall into the middle of a request or of a reply. What
was sent may still arrive after its sender has given up, or died.
"""

from __future__ import annotations

import asyncio
import struct
from math import inf
from socket import SO_RCVTIMEO
from typing import TYPE_CHECKING, Any

from .threads import SimThread, current

if TYPE_CHECKING:
    from collections.abc import Callable

    from .machine import Machine
    from .server import Server


_APART = 1e-9
"""Seconds."""


class Link:
    """One connection. `up`: to the server.

    Its fate is drawn when it is made: after how many bytes of which direction it is cut, or goes silent.
    """

    def __init__(self, machine: Machine, server: Server, end: StreamEnd | SimSocket) -> None:
        self.machine = machine
        self._server = server
        self._end = end
        self._loop = machine.world.loop
        self._weather = machine.world.weather
        self._arrivals = {"up": 0.0, "down": 0.0}
        self._left = {"up": inf, "down": inf}
        self._is_silent = False
        self._cuts = True
        self.is_open = True
        self.is_given_up = False
        """By its user: what he has sent before may still arrive."""
        fate = self._weather.fate()
        if fate is not None:
            way, after, self._cuts = fate
            self._left[way] = after
        self.client = server.accept(self)
        machine.links[self] = None

    def send(self, way: str, data: bytes) -> None:
        """From one end."""
        if not self.is_open or self._is_silent or (way == "up" and self.machine.is_dead):
            return
        if len(data) > self._left[way]:
            data = data[: int(self._left[way])]
            self._left[way] = 0
            self._at(way, self._cut if self._cuts else self._be_silent, before=data)
        else:
            self._left[way] -= len(data)
            self._at(way, self._arrive, way, data)

    def _at(self, way: str, then: Callable[..., None], *args: Any, before: bytes = b"") -> None:
        delay = self._weather.delay()
        if self.machine.is_cut_off:
            self.machine.held_up.append((self, way, then, args))
            return
        when = self._next_arrival(way, delay)
        if before:
            self._loop.call_at(when - _APART / 2, self._arrive, way, before, context=self.machine.world.context)
        self._loop.call_at(when, then, *args, context=self.machine.world.context)

    def go_on(self, way: str, then: Callable[..., None], args: Any) -> None:
        """The network is there again: TCP sends anew what was not acknowledged."""
        when = self._next_arrival(way, self._weather.delay())
        self._loop.call_at(when, then, *args, context=self.machine.world.context)

    def _next_arrival(self, way: str, delay: float) -> float:
        # Timers of the same instant have no order.
        when = self._arrivals[way] = max(self._arrivals[way] + _APART, self._loop.time() + delay)
        return when

    def _arrive(self, way: str, data: bytes) -> None:
        if not self.is_open and way == "down":
            return
        if way == "up":
            self.client.receive(data)
        elif not self.machine.is_dead:
            self.machine.run(self._end.data_came, data)

    def _be_silent(self, *_: Any) -> None:
        self._is_silent = True

    def _cut(self, *_: Any) -> None:
        self.reset()

    def reset(self) -> None:
        """Both ends hear of it, each when it does."""
        if not self.is_open:
            return
        self.is_open = False
        self.is_given_up = True
        self.machine.links.pop(self, None)
        self._loop.call_later(self._weather.delay(), self.client.gone, context=self.machine.world.context)
        if not self.machine.is_dead:
            self.machine.run(self._end.was_cut)

    def closed_here(self) -> None:
        """By its user. What he sent before arrives, and behind it the news of the end."""
        if self.is_open:
            self.is_given_up = True
            self.machine.links.pop(self, None)
            self._at("up", self._end_of_stream)

    def _end_of_stream(self) -> None:
        self.is_open = False
        self.client.gone()


class StreamEnd(asyncio.Transport):
    """The end of a task: what asyncio makes streams of."""

    def __init__(self, machine: Machine, server: Server, protocol: Any) -> None:
        super().__init__()
        self._machine = machine
        self._protocol = protocol
        self._is_closing = False
        self.link = Link(machine, server, self)
        protocol.connection_made(self)

    def data_came(self, data: bytes) -> None:
        """From the link."""
        if not self._is_closing:
            self._protocol.data_received(data)

    def was_cut(self) -> None:
        """From the link."""
        if not self._is_closing:
            self._is_closing = True
            self._protocol.connection_lost(ConnectionResetError("cut"))

    # ---- for asyncio

    def write(self, data: Any) -> None:
        if not self._is_closing:
            self.link.send("up", bytes(data))

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self.link.closed_here()
            self._machine.world.loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self._is_closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_reading(self) -> bool:
        return True


class SimSocket:
    """The end of a thread: what redis-py takes for a socket."""

    def __init__(self, machine: Machine, server: Server) -> None:
        self._machine = machine
        self._limit: float | None = None
        self._limit_of_system: float | None = None
        self._received = bytearray()
        self._reader: SimThread | None = None
        self._is_cut = False
        self._is_closed = False
        self.link = Link(machine, server, self)

    def data_came(self, data: bytes) -> None:
        """From the link."""
        self._received += data
        self._wake()

    def was_cut(self) -> None:
        """From the link."""
        self._is_cut = True
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None:
            self._reader.wake()

    # ---- for redis-py, and our wire

    def sendall(self, data: bytes) -> None:
        if self._is_closed or self._is_cut:
            raise BrokenPipeError("cut")
        self._machine.interrupt_maybe()
        self.link.send("up", bytes(data))

    def recv(self, size: int) -> bytes:
        limit = self._limit if self._limit is not None else self._limit_of_system
        while not self._received:
            if self._is_cut:
                raise ConnectionResetError("cut")
            if self._is_closed:
                raise OSError("closed")
            if limit == 0:
                raise BlockingIOError("nothing yet")
            self._reader = current()
            try:
                woken = self._reader.block(limit)
            finally:
                self._reader = None
            self._machine.interrupt_maybe()
            if not woken and not self._received:
                raise TimeoutError("timed out")
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def can_read(self, seconds: float | None) -> bool:
        """Has something come, or the end?"""
        if not (self._received or self._is_cut) and seconds:
            self._reader = current()
            try:
                self._reader.block(seconds)
            finally:
                self._reader = None
        return bool(self._received or self._is_cut)

    def recv_into(self, buffer: Any, size: int = 0) -> int:
        data = self.recv(size or len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def settimeout(self, seconds: float | None) -> None:
        self._limit = seconds

    def gettimeout(self) -> float | None:
        return self._limit

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if option == SO_RCVTIMEO and isinstance(value, bytes):
            seconds, micros = struct.unpack("@ll", value)
            self._limit_of_system = seconds + micros / 1e6

    def setblocking(self, blocking: bool) -> None:
        self._limit = None if blocking else 0.0

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.link.closed_here()
            self._wake()

    def fileno(self) -> int:
        raise TypeError("no descriptor")
