"""Exchanges for threads: every call blocks the thread that makes it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions as redis_errors

from ..exceptions import ServerTrouble
from .messages import NO_REPLY
from .node import is_open
from .transport import ASKING, FAILURES, REDIS_ERRORS, SILENCE, Connection, Transport, ask_at, is_spoiled
from .wire import exchange, receive

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .connections import Deployment
    from .node import Node
    from .transport import Undo
    from .wire import RedisConnection

T = TypeVar("T")

_MOST_IDLE = 20
"""Connections to wait on that are kept for each server, when many have waited at one time."""


class SyncTransport(Transport):
    """Exchanges of one process."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment)
        self._idle: dict[Node, list[tuple[RedisConnection, float]]] = {}

    async def call(self, lock: bytes, request: bytes, undo: Undo | None = None) -> Any:
        return self.call_now(lock, request, undo)

    def call_now(self, lock: bytes, request: bytes, undo: Undo | None = None) -> Any:
        try:
            node = self.one_node or self.deployment.node_for(lock)
            conn = node.borrow()
        except Exception as error:
            raise self.trouble(error, lock) from error
        try:
            if undo is not None:
                undo.sent = True
            reply = exchange(conn, request)
        except BaseException as error:
            if not isinstance(error, redis_errors.ResponseError):
                node.clock.forget()
                self._hang_up(conn, None if isinstance(error, FAILURES) else undo)
            elif is_spoiled(error):
                conn.disconnect()
            node.give_back(conn)
            if self.deployment.cluster and (where := ask_at(error)):
                return self._ask_elsewhere(where, lock, request)
            if isinstance(error, Exception):
                raise self.trouble(error, lock, sent=True) from error
            raise
        node.give_back(conn)
        if self.outage.since is not None:
            self.outage.over()
        return reply

    def _ask_elsewhere(self, where: tuple[str, int], lock: bytes, request: bytes) -> Any:
        """The key has been moved already, though the rest of its slot has not."""
        try:
            node = self.deployment.node_at(*where)
            conn = node.borrow()
            try:
                conn.send_packed_command((ASKING + request,), check_health=False)
                conn.read_response(disconnect_on_error=False)
                return conn.read_response(disconnect_on_error=False)
            except BaseException as error:
                if not isinstance(error, redis_errors.ResponseError):
                    conn.disconnect()
                raise
            finally:
                node.give_back(conn)
        except Exception as error:
            raise self.trouble(error, lock, sent=True) from error

    def _hang_up(self, conn: RedisConnection, undo: Undo | None) -> None:
        """Close it. `undo`: the caller was interrupted, not the connection."""
        try:
            if undo and is_open(conn):
                conn.send_packed_command((undo.undo(),), check_health=False)
                # The undo's reply is a number, that of what it undoes a list.
                while isinstance(conn.read_response(disconnect_on_error=False), list):
                    continue
        except redis_errors.RedisError:
            pass  # not confirmed; the policy tries another connection, and the lease ends in any case
        finally:
            conn.disconnect()

    def trouble(self, error: BaseException, lock: bytes, *, sent: bool = False) -> BaseException:
        explained = self.explain(error, lock, sent=sent)
        if self.deployment.cluster and isinstance(explained, ServerTrouble):
            try:
                self.deployment.changed(self.patience(explained))
            except (*REDIS_ERRORS, *SILENCE):
                pass  # nobody knows yet; the next try will ask again
        return explained

    async def connection_to(self, node: Node) -> SyncConnection:
        idle = self._idle.setdefault(node, [])
        while idle:
            conn, since = idle.pop()
            if node.is_usable(conn, time.monotonic() - since):
                return SyncConnection(self, node, conn, idle)
            conn.disconnect()
        try:
            return SyncConnection(self, node, node.dial(), idle)
        except redis_errors.RedisError as error:
            raise self.trouble(error, b"") from error

    async def connection_of_pool(self, node: Node) -> SyncConnection:
        try:
            return _PoolConnection(self, node)
        except redis_errors.RedisError as error:
            raise self.trouble(error, b"") from error

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  # a coroutine in shape only: the thread is to sleep

    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        return await work

    async def close(self) -> None:
        for idle in list(self._idle.values()):
            while idle:
                idle.pop()[0].disconnect()


class SyncConnection(Connection):
    def __init__(
        self, transport: SyncTransport, node: Node, conn: RedisConnection, idle: list[tuple[RedisConnection, float]]
    ) -> None:
        self._transport = transport
        self._limit = node.socket_timeout
        self._conn = conn
        self._idle = idle

    async def send(self, request: bytes) -> None:
        try:
            self._conn.send_packed_command((request,), check_health=False)
        except redis_errors.RedisError as error:
            raise self._transport.trouble(error, b"", sent=True) from error

    async def read_within(self, seconds: float) -> Any:
        try:
            return receive(self._conn, seconds)
        except redis_errors.TimeoutError:
            return NO_REPLY
        except redis_errors.RedisError as error:
            raise self._transport.trouble(error, b"", sent=True) from error

    async def read(self) -> Any:
        try:
            return receive(self._conn, self._limit)
        except redis_errors.RedisError as error:
            raise self._transport.trouble(error, b"", sent=True) from error

    async def keep(self) -> None:
        if len(self._idle) < _MOST_IDLE:
            self._idle.append((self._conn, time.monotonic()))
        else:
            self._conn.disconnect()

    async def drop(self) -> None:
        self._conn.disconnect()


class _PoolConnection(SyncConnection):
    """One of the pool's, lent for a moment."""

    def __init__(self, transport: SyncTransport, node: Node) -> None:
        super().__init__(transport, node, node.borrow(), [])
        self._node = node

    async def keep(self) -> None:
        self._node.give_back(self._conn)

    async def drop(self) -> None:
        self._conn.disconnect()
        self._node.give_back(self._conn)
