"""Exchanges for one event loop, on connections of its own, which are closed with it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions as redis_errors

from ..exceptions import ServerTrouble
from .messages import NO_REPLY
from .transport import REDIS_ERRORS, SPOILED, Connection, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from redis.asyncio.connection import AbstractConnection as RedisAsyncConnection

    from .connections import Deployment, Node

T = TypeVar("T")


class AsyncTransport(Transport):
    """Exchanges of one event loop."""

    MOST_CALLS = 50  # at one time; the others wait their turn
    MOST_IDLE = 10  # connections kept for each server

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment)
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Node, list[RedisAsyncConnection]] = {}
        self._calls = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._reading: dict[RedisAsyncConnection, tuple[float, Callable[[], bytes] | None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._closing: AsyncGenerator[None, None] | None = None

    async def call(self, lock: bytes, request: bytes, undo: Callable[[], bytes] | None = None) -> Any:
        if self._calls < self.MOST_CALLS:
            self._calls += 1
        else:
            await self._wait_for_turn()
        try:
            try:
                node = self.deployment.node_for(lock)
                idle = self._idle.get(node)
                conn = idle.pop() if idle else await self._dial(node)
            except Exception as error:
                raise await self.trouble(error, lock) from error
            try:
                await conn.send_packed_command(request, check_health=False)
                reply = await self.read(node, conn, undo)
            except BaseException as error:
                if not isinstance(error, redis_errors.ResponseError):
                    await self.shielded(self._undo(node, conn, undo, error))
                elif isinstance(error, SPOILED):
                    await conn.disconnect(nowait=True)
                else:
                    await self.give_back(node, conn)
                if isinstance(error, Exception):
                    raise await self.trouble(error, lock) from error
                raise
            await self.give_back(node, conn)
            return reply
        finally:
            self._end_turn()

    async def _wait_for_turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._end_turn()
            raise

    def _end_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the turn goes from hand to hand; the number of calls stays
                return
        self._calls -= 1

    async def _undo(
        self, node: Node, conn: RedisAsyncConnection, undo: Callable[[], bytes] | None, error: BaseException
    ) -> None:
        try:
            if isinstance(error, redis_errors.ConnectionError):
                await self._drop_idle(node)  # they have likely been closed with it
            elif undo and conn.is_connected:
                await conn.send_packed_command(undo(), check_health=False)
                # The undo's reply is a number, that of what it undoes a list.
                while isinstance(await self.read(node, conn), list):
                    continue
        except (redis_errors.RedisError, OSError):
            pass  # not confirmed; the policy tries another connection, and the lease ends in any case
        finally:
            await conn.disconnect(nowait=True)

    # One timer for all reads, instead of one each: it goes off when the oldest that is under way has had its time.

    async def read(self, node: Node, conn: RedisAsyncConnection, undo: Callable[[], bytes] | None = None) -> Any:
        """The next reply. A server that keeps silent gets what `undo` makes to find when it wakes."""
        self._reading[conn] = (self._loop.time() + node.socket_timeout, undo)
        if self._timer is None:
            self._timer = self._loop.call_later(node.socket_timeout, self._end_silent_reads)
        try:
            return await conn.read_response(disconnect_on_error=False)
        except redis_errors.ConnectionError as error:
            if conn in self._reading:
                raise
            raise redis_errors.TimeoutError(f"no answer within {node.socket_timeout:g} s") from error
        finally:
            self._reading.pop(conn, None)

    def _end_silent_reads(self) -> None:
        now = self._loop.time()
        for conn, (until, undo) in list(self._reading.items()):
            if until <= now:
                del self._reading[conn]
                self._in_background(self._hang_up(conn, undo))
        nearest = min((until for until, _ in self._reading.values()), default=None)
        self._timer = None if nearest is None else self._loop.call_at(nearest, self._end_silent_reads)

    async def _hang_up(self, conn: RedisAsyncConnection, undo: Callable[[], bytes] | None) -> None:
        try:
            if undo:
                await conn.send_packed_command(undo(), check_health=False)
        finally:
            await conn.disconnect(nowait=True)

    async def trouble(self, error: BaseException, lock: bytes) -> BaseException:
        explained = self.explain(error, lock)
        if self.deployment.cluster and isinstance(explained, ServerTrouble):
            try:
                await asyncio.to_thread(self.deployment.changed)
            except REDIS_ERRORS:
                pass  # nobody knows yet; the next try will ask again
        return explained

    async def _dial(self, node: Node) -> RedisAsyncConnection:
        await self._close_with_loop()
        return await node.dial_async()

    async def give_back(self, node: Node, conn: RedisAsyncConnection) -> None:
        idle = self._idle.setdefault(node, [])
        if len(idle) < self.MOST_IDLE:
            idle.append(conn)
        else:
            await conn.disconnect(nowait=True)

    async def _drop_idle(self, node: Node) -> None:
        for conn in self._idle.pop(node, []):
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
        idle = self._idle.get(node)
        try:
            return AsyncConnection(self, node, idle.pop() if idle else await self._dial(node))
        except Exception as error:
            raise await self.trouble(error, b"") from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.shield(self._in_background(work))

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


class AsyncConnection(Connection):
    def __init__(self, transport: AsyncTransport, node: Node, conn: RedisAsyncConnection) -> None:
        self._transport = transport
        self._node = node
        self._conn = conn
        self._reading: asyncio.Task[Any] | None = None

    async def send(self, request: bytes) -> None:
        try:
            await self._conn.send_packed_command(request, check_health=False)
        except (redis_errors.RedisError, OSError) as error:
            raise await self._transport.trouble(error, b"") from error

    async def read_within(self, seconds: float) -> Any:
        # One read for the whole wait: a cancelled read could lose what has arrived.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._conn.read_response(disconnect_on_error=False))
        done, _ = await asyncio.wait({self._reading}, timeout=seconds)
        return await self.read() if done else NO_REPLY

    async def read(self) -> Any:
        reading, self._reading = self._reading, None
        try:
            if reading is not None:
                return await reading
            return await self._transport.read(self._node, self._conn)
        except (redis_errors.RedisError, OSError) as error:
            raise await self._transport.trouble(error, b"") from error

    async def keep(self) -> None:
        await self._transport.give_back(self._node, self._conn)

    async def drop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())
        await self._conn.disconnect(nowait=True)
