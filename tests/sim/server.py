"""The engine as clients meet it: requests by the byte, those who block, what a restart does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .commands import entries, entry_number
from .engine import Engine
from .values import OK, Refusal, Reply, Status, Stream

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from .link import Link
    from .world import World


class Server:
    """One Redis."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.engine = Engine(world.loop.time)
        self.clients: list[Client] = []
        self.blocked: list[Client] = []
        """Who blocks, in the order of their coming."""
        self.is_down = False

    def accept(self, link: Link) -> Client:
        """A new client."""
        client = Client(self, link)
        self.clients.append(client)
        return client

    def stop(self, *, keep: bool) -> None:
        """It ends, and so do all connections. `keep`: what it has is there again when it comes back."""
        self.is_down = True
        for client in list(self.clients):
            client.link.reset()
            client.gone()
        if not keep:
            self.engine.forget()
        self.engine.scripts.clear()

    def serve_blocked(self) -> None:
        """After each request: whoever blocks on what there is now."""
        touched = self.engine.touched
        while touched:
            touched.clear()
            for client in list(self.blocked):
                if client.waits_for is not None:
                    client.try_again()


class Client:
    """One connection, as the server sees it."""

    def __init__(self, server: Server, link: Link) -> None:
        self._server = server
        self.link = link
        self._buffer = bytearray()
        self.waits_for: list[bytes] | None = None
        """The command that blocks."""
        self._timer: TimerHandle | None = None
        self._is_gone = False

    def receive(self, data: bytes) -> None:
        """Some bytes."""
        if self._is_gone or self._server.is_down:
            return
        self._buffer += data
        self._run_all()

    def _run_all(self) -> None:
        while self.waits_for is None and not self._is_gone:
            command = take_command(self._buffer)
            if command is None:
                return
            self._run(command)
            self._server.serve_blocked()

    def _run(self, command: list[bytes]) -> None:
        name = command[0].upper()
        engine = self._server.engine
        self._server.world.saw(self, command)
        try:
            if name in _OF_CONNECTIONS:
                self.answer(_OF_CONNECTIONS[name])
            elif name == b"SCRIPT":
                self.answer(engine.load(command[2]) if command[1].upper() == b"LOAD" else OK)
            elif name in (b"BLPOP", b"XREAD"):
                self._block(command)
            else:
                reply = engine.execute(command)
                self._server.world.observe(self, command, reply)
                self.answer(reply)
        except Refusal as refusal:
            self.answer(refusal)

    # ---- waiting

    def _block(self, command: list[bytes]) -> None:
        reply = self._look(command)
        seconds = float(command[2]) if command[0].upper() == b"BLPOP" else int(command[2]) / 1000
        if reply is not None:
            self.answer(reply)
            return
        self.waits_for = command
        self._server.blocked.append(self)
        loop = self._server.world.loop
        self._timer = (
            loop.call_later(seconds, self._end_of_wait, context=self._server.world.context) if seconds else None
        )

    def _look(self, command: list[bytes]) -> Reply:
        engine = self._server.engine
        if command[0].upper() == b"BLPOP":
            value = engine.execute([b"LPOP", command[1]])
            return None if value is None else [command[1], value]
        key, since = command[-2], entry_number(command[-1])
        found = [entry for entry in engine.get(key, Stream) or () if entry[0] > since]
        return [[key, entries(found)]] if found else None

    def try_again(self) -> None:
        """What it waits for may be there."""
        assert self.waits_for is not None
        reply = self._look(self.waits_for)
        if reply is not None:
            self._unblock(reply)

    def _end_of_wait(self) -> None:
        if self.waits_for is not None:
            self._unblock(None)

    def _unblock(self, reply: Reply) -> None:
        self._forget_wait()
        self.answer(reply)
        self._run_all()

    def _forget_wait(self) -> None:
        self.waits_for = None
        if self in self._server.blocked:
            self._server.blocked.remove(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def gone(self) -> None:
        """The server has heard that the connection is over."""
        self._is_gone = True
        self._forget_wait()
        if self in self._server.clients:
            self._server.clients.remove(self)

    def answer(self, reply: Reply) -> None:
        """To the client."""
        self._server.world.answered(self, reply)
        self.link.send("down", packed(reply))


_OF_CONNECTIONS: dict[bytes, Any] = {
    b"PING": Status(b"PONG"),
    b"CLIENT": OK,
    b"SELECT": OK,
    b"AUTH": OK,
    b"HELLO": Refusal("ERR unknown command 'HELLO'"),
    b"WAIT": 0,
}


def take_command(buffer: bytearray) -> list[bytes] | None:
    """The first command, taken out; `None` if it is not all there."""
    lines_end = buffer.find(b"\r\n")
    if lines_end < 0:
        return None
    at = lines_end + 2
    command: list[bytes] = []
    for _ in range(int(buffer[1:lines_end])):
        end = buffer.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(buffer[at + 1 : end])
        at = end + 2 + size + 2
        if len(buffer) < at:
            return None
        command.append(bytes(buffer[end + 2 : at - 2]))
    del buffer[:at]
    return command


def packed(reply: Reply) -> bytes:
    """By RESP 2."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Refusal):
        return b"-%b\r\n" % str(reply).encode()
    if isinstance(reply, Status):
        return b"+%b\r\n" % bytes(reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n%b" % (len(reply), b"".join(map(packed, reply)))
