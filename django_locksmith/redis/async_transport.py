"""Exchanges for one event loop, on connections of its own, which are closed with it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions as redis_errors

from ..exceptions import ServerTrouble
from . import wire
from .messages import NO_REPLY
from .node import IDLE, TIME
from .transport import ASKING, FAILURES, REDIS_ERRORS, SILENCE, Connection, Transport, ask_at, is_spoiled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from redis.asyncio.connection import AbstractConnection as RedisAsyncConnection

    from .connections import Deployment
    from .node import Node
    from .transport import Undo

T = TypeVar("T")


class AsyncTransport(Transport):
    """Exchanges of one event loop."""

    MOST_CALLS = 50  # at one time; the others wait their turn
    MOST_IDLE = MOST_CALLS  # connections kept for each server: to dial takes ten times as long as to ask

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment)
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Node, list[tuple[RedisAsyncConnection, float]]] = {}
        self._calls = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._reading: dict[RedisAsyncConnection, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._closing: AsyncGenerator[None, None] | None = None

    async def call(self, lock: bytes, request: bytes, undo: Undo | None = None) -> Any:
        if self._calls < self.MOST_CALLS:
            self._calls += 1
        else:
            await self._wait_for_turn(lock)
        try:
            try:
                node = self.one_node or self.deployment.node_for(lock)
                conn = self._fresh(node) or await self._borrow(node)
            except Exception as error:
                raise await self.trouble(error, lock) from error
            try:
                if undo is not None:
                    undo.sent = True
                await wire.send(conn, request)
                reply = await self.read(node, conn)
            except BaseException as error:
                return await self._failed(error, node, conn, lock, request, undo)
            if not self._keep(node, conn):
                await conn.disconnect(nowait=True)
            if self.outage.since is not None:
                self.outage.over()
            return reply
        finally:
            self._end_turn()

    async def _failed(
        self,
        error: BaseException,
        node: Node,
        conn: RedisAsyncConnection,
        lock: bytes,
        request: bytes,
        undo: Undo | None,
    ) -> Any:
        """What becomes of a request that was sent, and had no good reply. Raises, but for a key that was elsewhere."""
        if not isinstance(error, redis_errors.ResponseError):
            node.clock.forget()
            if isinstance(error, redis_errors.ConnectionError):
                await self._drop_idle(node)  # they have likely been closed with it
            await self._to_its_end(self._hang_up(node, conn, None if isinstance(error, FAILURES) else undo))
        elif is_spoiled(error):
            await conn.disconnect(nowait=True)
            await self._drop_idle(node)
        else:
            await self.give_back(node, conn)
        if self.deployment.cluster and (where := ask_at(error)):
            return await self._ask_elsewhere(where, lock, request)
        if isinstance(error, Exception):
            raise await self.trouble(error, lock, sent=True) from error
        raise error

    async def _ask_elsewhere(self, where: tuple[str, int], lock: bytes, request: bytes) -> Any:
        """The key has been moved already, though the rest of its slot has not."""
        try:
            node = self.deployment.node_at(*where)
            conn = await self._borrow(node)
            try:
                await conn.send_packed_command(ASKING + request, check_health=False)
                await self.read(node, conn)
                reply = await self.read(node, conn)
            except BaseException as error:
                if isinstance(error, redis_errors.ResponseError):
                    await self.give_back(node, conn)
                else:
                    await conn.disconnect(nowait=True)
                raise
            await self.give_back(node, conn)
            return reply
        except Exception as error:
            raise await self.trouble(error, lock, sent=True) from error

    async def _wait_for_turn(self, lock: bytes) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        patience = self.node_for(lock).socket_timeout
        try:
            await asyncio.wait([turn], timeout=patience)
        except asyncio.CancelledError:
            if turn.done():
                self._end_turn()
            turn.cancel()
            raise
        if not turn.done():
            # All who are before us wait for a server that keeps silent: to us it is as silent.
            turn.cancel()
            raise ServerTrouble(TimeoutError(f"{self.MOST_CALLS} calls wait for an answer"), mute=True)

    def _end_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the turn goes from hand to hand; the number of calls stays
                return
        self._calls -= 1

    async def _hang_up(self, node: Node, conn: RedisAsyncConnection, undo: Undo | None) -> None:
        """Close it. `undo`: the caller was interrupted, not the connection."""
        try:
            if undo and conn.is_connected:
                await conn.send_packed_command(undo.undo(), check_health=False)
                # The undo's reply is a number, that of what it undoes a list.
                while isinstance(await self.read(node, conn), list):
                    continue
        except (redis_errors.RedisError, OSError):
            pass  # not confirmed; the policy tries another connection, and the lease ends in any case
        finally:
            await conn.disconnect(nowait=True)

    # One timer for all reads, instead of one each: it goes off when the oldest that is under way has had its time.

    async def read(self, node: Node, conn: RedisAsyncConnection) -> Any:
        """The next reply. Raises redis-py's `TimeoutError` for a server that keeps silent."""
        self._reading[conn] = self._loop.time() + node.socket_timeout
        if self._timer is None:
            self._timer = self._loop.call_later(node.socket_timeout, self._end_silent_reads)
        try:
            return await wire.read(conn)
        except redis_errors.ConnectionError as error:
            if conn in self._reading:
                raise
            raise redis_errors.TimeoutError(f"no answer within {node.socket_timeout:g} s") from error
        finally:
            self._reading.pop(conn, None)

    def _end_silent_reads(self) -> None:
        now = self._loop.time()
        for conn, until in list(self._reading.items()):
            if until <= now:
                del self._reading[conn]
                self._in_background(conn.disconnect(nowait=True))
        nearest = min(self._reading.values(), default=None)
        self._timer = None if nearest is None else self._loop.call_at(nearest, self._end_silent_reads)

    async def trouble(self, error: BaseException, lock: bytes, *, sent: bool = False) -> BaseException:
        explained = self.explain(error, lock, sent=sent)
        if self.deployment.cluster and isinstance(explained, ServerTrouble):
            try:
                await asyncio.to_thread(self.deployment.changed, self.patience(explained))
            except (*REDIS_ERRORS, *SILENCE):
                pass  # nobody knows yet; the next try will ask again
        return explained

    def _fresh(self, node: Node) -> RedisAsyncConnection | None:
        """A connection that was used a moment ago, if there is one."""
        idle = self._idle.get(node)
        if idle and time.monotonic() - idle[-1][1] < IDLE:
            return idle.pop()[0]
        return None

    async def _borrow(self, node: Node) -> RedisAsyncConnection:
        idle = self._idle.get(node)
        while idle:
            conn, since = idle.pop()
            if await self._is_usable(node, conn, time.monotonic() - since):
                return conn
            await conn.disconnect(nowait=True)
        return await self._dial(node)

    async def _is_usable(self, node: Node, conn: RedisAsyncConnection, idle_for: float) -> bool:
        if idle_for < IDLE:
            return True
        if _has_ended(conn):
            return False
        if not 0 < node.health_check_interval < idle_for:
            return True
        try:
            await conn.send_packed_command(TIME, check_health=False)
            await self.read(node, conn)
        except FAILURES:
            return False
        return True

    async def _dial(self, node: Node) -> RedisAsyncConnection:
        await self._close_with_loop()
        return await node.dial_async()

    async def give_back(self, node: Node, conn: RedisAsyncConnection) -> None:
        if not self._keep(node, conn):
            await conn.disconnect(nowait=True)

    def _keep(self, node: Node, conn: RedisAsyncConnection) -> bool:
        idle = self._idle.get(node)
        if idle is None:
            idle = self._idle[node] = []
        if len(idle) >= self.MOST_IDLE:
            return False
        idle.append((conn, time.monotonic()))
        return True

    async def _drop_idle(self, node: Node) -> None:
        for conn, _ in self._idle.pop(node, []):
            await conn.disconnect(nowait=True)

    async def _close_with_loop(self) -> None:
        # asyncio.run and async_to_sync finish the async generators of their loop before they close it. There is no
        # other hook by which connections can be closed with their loop.
        if self._closing is None:
            self._closing = self._until_closed()
            await self._closing.__anext__()

    async def _until_closed(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for node in list(self._idle):
                await self._drop_idle(node)

    async def close(self) -> None:
        if self._closing is not None:
            await self._closing.aclose()
            self._closing = None

    async def connection_to(self, node: Node) -> AsyncConnection:
        try:
            return AsyncConnection(self, node, await self._borrow(node))
        except Exception as error:
            raise await self.trouble(error, b"") from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.shield(self._in_background(work))

    async def _to_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        """As `shielded`, but whoever is cancelled meanwhile hears of it in the end.

        What he does next must not overtake what is under way here.
        """
        task = self._in_background(work)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:  # noqa: PERF203  # each time that it is cancelled
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _has_ended(conn: RedisAsyncConnection) -> bool:
    # redis-py has no public word for it that would not read. What the loop has seen by now is seen.
    reader = getattr(conn, "_reader", None)
    if not conn.is_connected or reader is None:
        return True
    return isinstance(reader, asyncio.StreamReader) and (reader.at_eof() or reader.exception() is not None)


class AsyncConnection(Connection):
    def __init__(self, transport: AsyncTransport, node: Node, conn: RedisAsyncConnection) -> None:
        self._transport = transport
        self._node = node
        self._conn = conn
        self._reading: asyncio.Task[Any] | None = None

    async def send(self, request: bytes) -> None:
        try:
            await wire.send(self._conn, request)
        except (redis_errors.RedisError, OSError) as error:
            raise await self._transport.trouble(error, b"", sent=True) from error

    async def read_within(self, seconds: float) -> Any:
        # One read for the whole wait: a cancelled read could lose what has arrived.
        if self._reading is None:
            self._reading = asyncio.ensure_future(wire.read(self._conn))
        done, _ = await asyncio.wait({self._reading}, timeout=seconds)
        return await self.read() if done else NO_REPLY

    async def read(self) -> Any:
        reading, self._reading = self._reading, None
        try:
            if reading is not None:
                return await reading
            return await self._transport.read(self._node, self._conn)
        except (redis_errors.RedisError, OSError) as error:
            raise await self._transport.trouble(error, b"", sent=True) from error

    async def keep(self) -> None:
        await self._transport.give_back(self._node, self._conn)

    async def drop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())
        await self._conn.disconnect(nowait=True)
