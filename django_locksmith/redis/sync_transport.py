"""Exchanges for threads: every call blocks the thread that makes it."""

from __future__ import annotations

import time
from functools import lru_cache
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions as redis_errors

from ..exceptions import ServerTrouble
from .connections import is_open
from .messages import NO_REPLY
from .transport import REDIS_ERRORS, SILENCE, SPOILED, Connection, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .connections import Deployment, Node, RedisConnection

T = TypeVar("T")


_FRESH = 1.0
"""Seconds for which an idle connection is taken to be open."""


@lru_cache(maxsize=16)
def _reads_in_time(kind: type[RedisConnection]) -> bool:
    """Can a single read be given its time? With redis-py from 8 on; it saves system calls before the read."""
    return "timeout" in signature(kind.read_response).parameters


class SyncTransport(Transport):
    """Exchanges of one process."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment)
        self._idle: dict[Node, list[tuple[RedisConnection, float]]] = {}

    async def call(self, lock: bytes, request: bytes, undo: Callable[[], bytes] | None = None) -> Any:
        try:
            node = self.deployment.node_for(lock)
            conn = node.borrow()
        except Exception as error:
            raise self.trouble(error, lock) from error
        try:
            conn.send_packed_command((request,), check_health=False)
            reply = conn.read_response(disconnect_on_error=False)
        except BaseException as error:
            if not isinstance(error, redis_errors.ResponseError):
                self._undo(conn, undo, error)
            elif isinstance(error, SPOILED):
                conn.disconnect()
            node.give_back(conn)
            if isinstance(error, Exception):
                raise self.trouble(error, lock) from error
            raise
        node.give_back(conn)
        return reply

    def _undo(self, conn: RedisConnection, undo: Callable[[], bytes] | None, error: BaseException) -> None:
        try:
            if undo and not isinstance(error, redis_errors.ConnectionError) and is_open(conn):
                conn.send_packed_command((undo(),), check_health=False)
                # The undo's reply is a number, that of what it undoes a list. A silent server is not waited for.
                while not isinstance(error, SILENCE) and isinstance(
                    conn.read_response(disconnect_on_error=False), list
                ):
                    continue
        except redis_errors.RedisError:
            pass  # not confirmed; the policy tries another connection, and the lease ends in any case
        finally:
            conn.disconnect()

    def trouble(self, error: BaseException, lock: bytes) -> BaseException:
        explained = self.explain(error, lock)
        if self.deployment.cluster and isinstance(explained, ServerTrouble):
            try:
                self.deployment.changed()
            except REDIS_ERRORS:
                pass  # nobody knows yet; the next try will ask again
        return explained

    async def connection_to(self, node: Node) -> SyncConnection:
        idle = self._idle.setdefault(node, [])
        while idle:
            conn, since = idle.pop()
            # A connection that was just used is not checked: should it be closed all the same, asking again is cheap.
            if self.now() - since < _FRESH or not _has_ended(conn):
                return SyncConnection(self, conn, idle)
            conn.disconnect()
        try:
            return SyncConnection(self, node.dial(), idle)
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


def _has_ended(conn: RedisConnection) -> bool:
    try:
        return conn.can_read(0)  # nothing was asked, so all that can be read is the end of the connection
    except redis_errors.RedisError:
        return True


class SyncConnection(Connection):
    def __init__(
        self, transport: SyncTransport, conn: RedisConnection, idle: list[tuple[RedisConnection, float]]
    ) -> None:
        self._transport = transport
        self._conn = conn
        self._idle = idle

    async def send(self, request: bytes) -> None:
        try:
            self._conn.send_packed_command((request,), check_health=False)
        except redis_errors.RedisError as error:
            raise self._transport.trouble(error, b"") from error

    async def read_within(self, seconds: float) -> Any:
        try:
            if _reads_in_time(type(self._conn)):
                return self._conn.read_response(disconnect_on_error=False, timeout=seconds)
            if not self._conn.can_read(seconds):
                return NO_REPLY
        except redis_errors.TimeoutError:
            return NO_REPLY
        except redis_errors.RedisError as error:
            raise self._transport.trouble(error, b"") from error
        return await self.read()

    async def read(self) -> Any:
        try:
            return self._conn.read_response(disconnect_on_error=False)
        except redis_errors.RedisError as error:
            raise self._transport.trouble(error, b"") from error

    async def keep(self) -> None:
        self._idle.append((self._conn, self._transport.now()))

    async def drop(self) -> None:
        self._conn.disconnect()
