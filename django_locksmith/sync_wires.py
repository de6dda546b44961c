"""Exchanges for threads: every call blocks the thread that makes it."""

from __future__ import annotations

import threading
import time
from functools import lru_cache
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions as redis_errors

from .connections import is_open
from .exceptions import ServerTrouble
from .records import NO_REPLY
from .wires import REDIS_ERRORS, SILENCE, SPOILED, Bell, Line, Wires

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .connections import Connection, Deployment, Node

T = TypeVar("T")


_FRESH = 1.0
"""Seconds for which an idle connection is taken to be open."""


@lru_cache(maxsize=16)
def _reads_in_time(kind: type[Connection]) -> bool:
    """Can a single read be given its time? With redis-py from 8 on; it saves system calls before the read."""
    return "timeout" in signature(kind.read_response).parameters


class SyncBell(Bell):
    at_once = 2  # threads that wake up together only wait for each other

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        # Ringing twice is ringing once. Nobody but the one waiter acquires, so a locked lock stays locked in between.
        if self._lock.locked():
            self._lock.release()

    async def wait(self, seconds: float) -> None:
        self._lock.acquire(timeout=seconds)


class SyncWires(Wires):
    """Exchanges of one process."""

    bell = SyncBell

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment)
        self._idle: dict[Node, list[tuple[Connection, float]]] = {}

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

    def _undo(self, conn: Connection, undo: Callable[[], bytes] | None, error: BaseException) -> None:
        try:
            if undo and not isinstance(error, redis_errors.ConnectionError) and is_open(conn):
                conn.send_packed_command((undo(),), check_health=False)
                # The undo answers with a number, what it undoes with a list. One who kept silent is not waited for.
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

    async def line_to(self, node: Node) -> SyncLine:
        idle = self._idle.setdefault(node, [])
        while idle:
            conn, since = idle.pop()
            # One that has just been used is not looked at: should it be closed all the same, asking again is cheap.
            if self.now() - since < _FRESH or not _has_ended(conn):
                return SyncLine(self, conn, idle)
            conn.disconnect()
        try:
            return SyncLine(self, node.dial(), idle)
        except redis_errors.RedisError as error:
            raise self.trouble(error, b"") from error

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  # a coroutine in shape only: the thread is to sleep

    async def sheltered(self, work: Coroutine[Any, Any, T]) -> T:
        return await work

    async def close(self) -> None:
        for idle in list(self._idle.values()):
            while idle:
                idle.pop()[0].disconnect()


def _has_ended(conn: Connection) -> bool:
    try:
        return conn.can_read(0)  # nothing was asked: what there is to read is its end
    except redis_errors.RedisError:
        return True


class SyncLine(Line):
    def __init__(self, wires: SyncWires, conn: Connection, idle: list[tuple[Connection, float]]) -> None:
        self._wires = wires
        self._conn = conn
        self._idle = idle

    async def send(self, request: bytes) -> None:
        try:
            self._conn.send_packed_command((request,), check_health=False)
        except redis_errors.RedisError as error:
            raise self._wires.trouble(error, b"") from error

    async def read_within(self, seconds: float) -> Any:
        try:
            if _reads_in_time(type(self._conn)):
                return self._conn.read_response(disconnect_on_error=False, timeout=seconds)
            if not self._conn.can_read(seconds):
                return NO_REPLY
        except redis_errors.TimeoutError:
            return NO_REPLY
        except redis_errors.RedisError as error:
            raise self._wires.trouble(error, b"") from error
        return await self.read()

    async def read(self) -> Any:
        try:
            return self._conn.read_response(disconnect_on_error=False)
        except redis_errors.RedisError as error:
            raise self._wires.trouble(error, b"") from error

    async def keep(self) -> None:
        self._idle.append((self._conn, self._wires.now()))

    async def drop(self) -> None:
        self._conn.disconnect()
