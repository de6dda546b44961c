"""One server that takes writes, as this process reaches it: connections of the pool of django-redis, and beside it.

First tries, releases and probes use connections of the pool. For what may take long, or must not fail when the pool is
empty (waits, renewals, all of asyncio), a connection is made beside the pool, with its settings.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from functools import lru_cache
from inspect import Parameter, signature
from math import inf
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import redis.asyncio.connection as aconnection
import redis.connection as connection
from redis import exceptions as redis_errors

from .packing import pack
from .server_clock import ServerClock
from .wire import RedisConnection, exchange, leave_time_to_python, leave_time_to_system

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection as RedisAsyncConnection
    from redis.connection import ConnectionPool

ANSWER_WITHIN = 5.0
"""Seconds that a server may keep silent, where the pool sets no `socket_timeout` (redis-py before 8 does not)."""
IDLE = 0.01
"""Seconds after which a connection is looked at before it is used: by then a server may have restarted, or closed it. A
request on it would be lost, and asking again would not tell what the first one did."""

# What belongs to the pool and not to a connection, would retry behind our back, or changes what replies look like.
_NOT_OURS = ("maint_", "oss_", "orig_", "himport_", "event_dispatcher", "retry", "cache", "decode_responses")
_SMALL_POOL = 50
_FAKE_BLOCK = 0.1
_EMPTY_POOL = ("Too many connections", "No connection available")
TIME = pack(b"TIME")


def is_open(conn: RedisConnection) -> bool:
    """Has it a socket? redis-py before 8 has no public word for it, and would quietly connect again on a send."""
    return getattr(conn, "_sock", None) is not None or getattr(_plain(conn), "_sock", None) is not None


def _plain(conn: RedisConnection) -> Any:
    """Without redis-py's client-side cache, which wraps connections (and never sees our requests)."""
    return getattr(conn, "_conn", conn)


_kept: WeakKeyDictionary[ConnectionPool, dict[int, list[tuple[RedisConnection, float]]]] = WeakKeyDictionary()
"""What each process keeps of a pool: shared by all who use that pool, for services may come and go."""


class Node:
    """One server that takes writes, as this process reaches it."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._dial_class = pool.connection_class
        self._settings = {
            name: value for name, value in pool.connection_kwargs.items() if not name.startswith(_NOT_OURS)
        }
        limit = self._dial_class(**self._settings).socket_timeout
        self.socket_timeout: float = ANSWER_WITHIN if limit is None else limit
        self._settings["socket_timeout"] = self.socket_timeout
        self.health_check_interval = float(self._settings.pop("health_check_interval", 0) or 0)
        """Seconds; a connection that was idle for longer is asked for a sign of life before it is used. 0: never."""
        self.clock = ServerClock()
        # A pool without a time limit would wait for ever for a server that keeps silent.
        self._pool = pool if limit is not None else self._limited(pool)
        # redis-py before 5.3 wants to know what the connection is for; later ones warn when told.
        name_wanted = signature(self._pool.get_connection).parameters["command_name"].default is Parameter.empty
        self._purpose = ("EVALSHA",) if name_wanted else ()
        # fakeredis runs a command while it is sent; a thread that waits there must come back to look around.
        self.longest_block = _FAKE_BLOCK if is_fake(self._dial_class) else inf
        self._spares: set[RedisConnection] = set()
        # We keep one connection of the pool between two requests: an acquire is soon followed by its release, and the
        # pool's bookkeeping costs as much as the request. Not of a small pool, which may need it elsewhere.
        self._kept: list[tuple[RedisConnection, float]] = _kept.setdefault(self._pool, {}).setdefault(os.getpid(), [])
        self._known: tuple[object, Any] = None, None
        """The socket that was kept last, and what looks whether it has ended."""
        self._may_keep = self._pool.max_connections >= _SMALL_POOL

    def _limited(self, pool: ConnectionPool) -> ConnectionPool:
        return connection.ConnectionPool(
            connection_class=self._dial_class, max_connections=pool.max_connections, **self._settings
        )

    def borrow(self) -> RedisConnection:
        """A connection of the pool; one of our own when the pool is empty, for a holder must be able to release."""
        try:
            kept, since = self._kept.pop()
        except IndexError:
            pass
        else:
            idle_for = time.monotonic() - since
            # Mostly it has been used just now, and else a hand-over waits for this: no look more than needed.
            if (getattr(kept, "_sock", None) is not None or is_open(kept)) and (
                idle_for < IDLE or self.is_usable(kept, idle_for)
            ):
                return kept
            kept.disconnect()
            self._pool.release(cast("Any", kept))  # closed meanwhile; the pool knows how, and to whom, to connect again
        try:
            if not _would_block(self._pool):
                return cast("RedisConnection", self._pool.get_connection(*self._purpose))
        except redis_errors.ConnectionError as error:
            if not str(error).startswith(_EMPTY_POOL):
                raise
        spare = self.dial()
        self._spares.add(spare)
        return spare

    def give_back(self, conn: RedisConnection) -> None:
        """End a loan."""
        if self._spares and conn in self._spares:
            self._spares.discard(conn)
            conn.disconnect()
        elif self._may_keep and not self._kept:
            sock = getattr(conn, "_sock", None)
            if sock is not self._known[0]:
                leave_time_to_system(conn, self.socket_timeout)
                self._known = sock, _looked(sock)
            self._kept.append((conn, time.monotonic()))
        else:
            self._return(conn)

    def _return(self, conn: RedisConnection) -> None:
        leave_time_to_python(conn, self.socket_timeout)
        self._known = None, None
        self._pool.release(cast("Any", conn))

    def keep_nothing(self) -> None:
        """Give the connections that are kept back to their pool."""
        while self._kept:
            self._return(self._kept.pop()[0])

    def is_usable(self, conn: RedisConnection, idle_for: float) -> bool:
        """May a connection that was idle for so many seconds be used, as far as one can see?"""
        if idle_for < IDLE:
            return True
        try:
            sock: Any = getattr(_plain(conn), "_sock", None)
            known, look = self._known
            if sock is not known:
                look = _looked(sock)
            # Nothing was asked, so all that can be read is its end. redis-py makes four system calls of it.
            if look.poll(0) if look is not None else conn.can_read(0):
                return False
            if 0 < self.health_check_interval < idle_for:
                # A load balancer may have forgotten it, and tells nobody.
                leave_time_to_python(conn, self.socket_timeout)
                exchange(conn, TIME)
        except redis_errors.RedisError:
            return False
        return True

    def dial(self) -> RedisConnection:
        """A connection beside the pool, connected."""
        conn = cast("RedisConnection", self._dial_class(**self._settings))
        conn.connect()  # not left to the first send: that would pass by Sentinel
        return conn

    async def dial_async(self) -> RedisAsyncConnection:
        """A connection of the running event loop, connected."""
        settings = dict(self._settings)
        sentinel = settings.pop("connection_pool", None)
        if sentinel is not None:
            settings["host"], settings["port"] = await asyncio.to_thread(sentinel.get_master_address)
        dial_class, accepted = _async_twin(self._dial_class)
        settings = {name: value for name, value in settings.items() if accepted is None or name in accepted}
        connect_within = settings.get("socket_connect_timeout") or self.socket_timeout
        # Reads are given their time one by one; a time limit of the connection would cost a task for each send.
        settings.update(socket_timeout=None, socket_connect_timeout=connect_within)
        conn: RedisAsyncConnection = dial_class(**settings)
        try:
            await asyncio.wait_for(conn.connect(), connect_within)  # type: ignore[no-untyped-call]  # redis-py
        except BaseException:
            await conn.disconnect(nowait=True)  # it may have a socket already, and a server that keeps silent
            raise
        return conn


def is_fake(dial_class: Any) -> bool:
    """Does it belong to fakeredis?"""
    return str(dial_class.__module__).startswith("fakeredis")


def _looked(sock: Any) -> select.poll | None:
    """What looks at this socket; `None` if it is none of the system's. Made beforehand: a hand-over may wait for it."""
    try:
        looked = select.poll()
        looked.register(sock, select.POLLIN)
    except (AttributeError, TypeError, ValueError):
        return None
    return looked


def _would_block(pool: ConnectionPool) -> bool:
    # A BlockingConnectionPool without a free connection has its callers wait, for 20 s by default.
    free = getattr(pool, "pool", None)
    return isinstance(pool, connection.BlockingConnectionPool) and free is not None and bool(free.empty())


@lru_cache(maxsize=16)
def _async_twin(dial_class: Any) -> tuple[Any, frozenset[str] | None]:
    """The asyncio class for a connection class, and which settings it takes (`None`: the same)."""
    if is_fake(dial_class):
        from fakeredis import aioredis

        return getattr(aioredis, "FakeAsyncRedisConnection", aioredis.FakeConnection), None
    twin: Any = aconnection.Connection
    if issubclass(dial_class, connection.SSLConnection):
        twin = aconnection.SSLConnection
    elif issubclass(dial_class, connection.UnixDomainSocketConnection):
        twin = aconnection.UnixDomainSocketConnection
    accepted: set[str] = set()
    for base in twin.__mro__:
        accepted.update(signature(base.__init__).parameters)
    return twin, frozenset(accepted - {"parser_class", "redis_connect_func"})
