"""Waiting in Redis for the next news of a stream: of a flight, or of a rate limit."""

from __future__ import annotations

from functools import partial
from math import ceil, inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .. import clock
from ..exceptions import ServerTrouble
from .lock_store import LONGEST_BLOCK
from .messages import NoReply
from .packing import pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lock_store import LockStore
    from .node import Node
    from .transport import Connection

T = TypeVar("T")


class Listener(Generic[T]):
    """One who waits in Redis for the news of a stream. `read` makes of an entry's id and fields what is heard."""

    def __init__(
        self,
        end: Callable[[], None],
        connection: Connection,
        stream: tuple[bytes, bytes],
        node: Node,
        read: Callable[[Any, Any], T],
    ) -> None:
        self._end = end
        self._connection = connection
        self._request = (b"STREAMS", *stream)
        self._node = node
        self._read = read
        self._due = inf
        self._open = True

    async def block(self, seconds: float) -> None:
        """Ask for the news, and wait for them where there are none yet."""
        seconds = min(seconds, self._node.longest_block)
        if seconds <= LONGEST_BLOCK:
            self._due = clock.now() + seconds + self._node.socket_timeout
        ms = b"0" if seconds > LONGEST_BLOCK else b"%d" % max(1, ceil(seconds * 1000))
        await self._connection.send(pack(b"XREAD", b"BLOCK", ms, *self._request))

    async def news_within(self, seconds: float) -> T | NoReply | None:
        """The latest news, `None` if the time asked for is over; `NoReply` if neither came in these seconds.

        After a reply, others may use the connection. Raises `ServerTrouble`, also where the time asked for has long
        been over, and Redis has not said so: a connection may be dropped without a word to either end.
        """
        reply = await self._connection.read_within(max(0.0, min(seconds, self._due - clock.now())))
        if isinstance(reply, NoReply):
            if clock.now() >= self._due:
                raise ServerTrouble(TimeoutError("no reply to XREAD"), mute=True, sent=True)
            return reply
        self._open = False
        self._end()
        await self._connection.keep()
        if not reply:
            return None
        # [[stream, entries]], as a map where the connection speaks RESP3; an entry is [id, [name, value, ...]].
        streams = list(reply.values()) if isinstance(reply, dict) else [entries for _, entries in reply]
        return self._read(*streams[0][-1])

    async def leave(self) -> None:
        """Close the connection, unless its reply has been read."""
        if self._open:
            self._open = False
            self._end()
            await self._connection.drop()


async def listen(
    store: LockStore, lock: bytes, stream: tuple[bytes, bytes], seconds: float, read: Callable[[Any, Any], T]
) -> Listener[T]:
    """Block, on a connection of our own, until there are news in the stream of this name, after that id.

    Raises `ServerTrouble`, also where so many wait that there is no connection for one more.
    """
    place = store.place_to_wait()
    if place is None:
        raise ServerTrouble(RuntimeError("as many connections as may be wait already"))
    leave = partial(store.waiting.discard, place)
    try:
        node = store.transport.node_for(lock)
        connection = await store.transport.connection_to(node)
    except BaseException:
        leave()
        raise
    listener = Listener(leave, connection, stream, node, read)
    try:
        await listener.block(seconds)
    except BaseException:
        await listener.leave()
        raise
    return listener
