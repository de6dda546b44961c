"""Where the locks live: a django-redis alias or a URL; one server, Sentinel, Redis Cluster, or memory for tests.

First tries, releases and probes use connections of the pool. For what may take long, or must not fail when the pool is
empty (waits, renewals, all of asyncio), a connection is made beside the pool, with its settings.
"""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from functools import cached_property, lru_cache, partial
from importlib import import_module
from inspect import Parameter, signature
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import redis.asyncio.connection as aconnection
import redis.connection as connection
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.exceptions import ImproperlyConfigured
from django_redis.client import DefaultClient, ShardClient
from redis import exceptions as redis_errors
from redis.cluster import RedisCluster

from .key_names import slot_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection as RedisAsyncConnection
    from redis.cluster import ClusterNode
    from redis.connection import ConnectionPool

ANSWER_WITHIN = 5.0
"""Seconds that a server may keep silent, where the pool sets no `socket_timeout` (redis-py before 8 does not)."""

_URL_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "memory")
# The cause tells what exactly is wrong; it is not quoted here, for it may contain a part of the password.
_BAD_URL = "LOCKSMITH['REDIS'] is not a usable URL; is its port a number, and its password percent-encoded?"
# What belongs to the pool and not to a connection, would retry behind our back, or changes what replies look like.
_NOT_OURS = ("maint_", "oss_", "orig_", "himport_", "event_dispatcher", "retry", "cache", "decode_responses")
_SMALL_POOL = 10
_FAKE_BLOCK = 0.1
_EMPTY_POOL = ("Too many connections", "No connection available")


class RedisConnection(Protocol):
    """The part of redis-py's connections that is used here; redis-py itself leaves it untyped."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send_packed_command(self, command: tuple[bytes], *, check_health: bool) -> None: ...
    def read_response(self, *, disconnect_on_error: bool, timeout: float = ...) -> Any: ...
    def can_read(self, timeout: float) -> bool: ...


def is_open(conn: RedisConnection) -> bool:
    """Has it a socket? redis-py before 8 has no public word for it, and would quietly connect again on a send."""
    return getattr(conn, "_sock", None) is not None


_kept: WeakKeyDictionary[ConnectionPool, dict[int, list[RedisConnection]]] = WeakKeyDictionary()
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
        # A pool without a time limit would wait for ever for a server that keeps silent.
        self._pool = pool if limit is not None else self._limited(pool)
        # redis-py before 5.3 wants to know what the connection is for; later ones warn when told.
        name_wanted = signature(self._pool.get_connection).parameters["command_name"].default is Parameter.empty
        self._purpose = ("EVALSHA",) if name_wanted else ()
        # fakeredis runs a command while it is sent; a thread that waits there must come back to look around.
        self.longest_block = _FAKE_BLOCK if _is_fake(self._dial_class) else inf
        self._spares: set[RedisConnection] = set()
        # We keep one connection of the pool between two requests: an acquire is soon followed by its release, and the
        # pool's bookkeeping costs as much as the request. Not of a small pool, which may need it elsewhere.
        self._kept: list[RedisConnection] = _kept.setdefault(self._pool, {}).setdefault(os.getpid(), [])
        self._may_keep = self._pool.max_connections >= _SMALL_POOL

    def _limited(self, pool: ConnectionPool) -> ConnectionPool:
        return connection.ConnectionPool(
            connection_class=self._dial_class, max_connections=pool.max_connections, **self._settings
        )

    def borrow(self) -> RedisConnection:
        """A connection of the pool; one of our own when the pool is empty, for a holder must be able to release."""
        try:
            kept = self._kept.pop()
        except IndexError:
            pass
        else:
            if is_open(kept):
                return kept
            self._pool.release(cast("Any", kept))  # closed meanwhile; the pool knows how, and to whom, to connect again
        try:
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
            self._kept.append(conn)
        else:
            self._pool.release(cast("Any", conn))

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
        # Reads are given their time one by one; a time limit of the connection would cost a task for each send.
        settings.update(socket_timeout=None, socket_connect_timeout=self.socket_timeout)
        conn: RedisAsyncConnection = dial_class(**settings)
        try:
            await asyncio.wait_for(conn.connect(), self.socket_timeout)  # type: ignore[no-untyped-call]  # redis-py
        except BaseException:
            await conn.disconnect(nowait=True)  # it may have a socket already, and a server that keeps silent
            raise
        return conn


class Deployment(ABC):
    """All the servers that one set of locks lives on."""

    cluster: bool
    has_replicas = True
    """May it have some, for `LOCKSMITH["MIN_REPLICAS"]` to speak of?"""

    @abstractmethod
    def node_for(self, lock: bytes) -> Node:
        """The server that owns this key."""

    @abstractmethod
    def nodes(self) -> list[Node]:
        """All servers that own keys."""

    def changed(self) -> None:  # noqa: B027  # only a cluster has something to do
        """Servers have moved: ask where the keys are now."""


class OneServer(Deployment):
    """A single server, or the primary that Sentinel names."""

    cluster = False

    def __init__(self, pool: ConnectionPool) -> None:
        self._node = Node(pool)

    def node_for(self, lock: bytes) -> Node:
        return self._node

    def nodes(self) -> list[Node]:
        return [self._node]


class Memory(OneServer):
    """A server in the memory of this process, empty at first: the same scripts, run by fakeredis.

    Raises `ImproperlyConfigured` where that is not installed.
    """

    has_replicas = False

    def __init__(self) -> None:
        fake = _fakeredis()
        super().__init__(
            connection.ConnectionPool(
                connection_class=getattr(fake, "FakeRedisConnection", fake.FakeConnection),
                server=fake.FakeServer(version=(7,)),
                socket_timeout=ANSWER_WITHIN,
            )
        )


_memories: dict[str, Memory] = {}
"""Those that `memory://` URLs name: all services of this process share them. A forked child has its own."""
os.register_at_fork(after_in_child=_memories.clear)


class Cluster(Deployment):
    """Redis Cluster. redis-py keeps the map of slots; each node's pool is used as a single server's."""

    cluster = True

    def __init__(self, connect: Callable[[], RedisCluster]) -> None:
        self._connect = connect
        self._nodes: dict[str, Node] = {}
        self._asking = threading.Lock()

    @cached_property
    def _client(self) -> RedisCluster:
        # Made at the first use that finds the cluster up: its client cannot be made without asking it.
        return self._connect()

    def _node(self, cluster_node: ClusterNode) -> Node:
        name = str(cluster_node.name)
        if name not in self._nodes:
            self._nodes[name] = Node(self._client.get_redis_connection(cluster_node).connection_pool)
        return self._nodes[name]

    def node_for(self, lock: bytes) -> Node:
        return self._node(self._client.nodes_manager.get_node_from_slot(slot_of(lock)))

    def nodes(self) -> list[Node]:
        return [self._node(cluster_node) for cluster_node in self._client.get_primaries()]  # type: ignore[no-untyped-call]  # redis-py

    def changed(self) -> None:
        # One thread asks for all; the others go on with the map they have, and come back if it was wrong.
        if self._asking.acquire(blocking=False):
            try:
                self._client.nodes_manager.initialize()
            finally:
                self._asking.release()


def open_deployment(where: str) -> Deployment:
    """What `LOCKSMITH["REDIS"]` names: an alias of CACHES, or a URL.

    Raises `ImproperlyConfigured` that says what to change. A single server is not contacted yet; a cluster is, but may
    be down.
    """
    if "://" in where:
        return _open_url(where)
    make_client = partial(_cache_for(where).client.get_client, write=True)
    try:
        client = make_client()
    except redis_errors.RedisClusterException:
        return Cluster(make_client)
    return Cluster(lambda: client) if isinstance(client, RedisCluster) else OneServer(client.connection_pool)


def check_deployment(where: str) -> None:
    """Raise what `open_deployment` would, as far as it can be told without contacting a server."""
    if "://" in where:
        if _check_url(where) == "memory":
            _fakeredis()
    else:
        _cache_for(where)


def _cache_for(alias: str) -> Any:
    if alias not in caches.settings:
        known = ", ".join(map(repr, caches.settings))
        raise ImproperlyConfigured(
            f"LOCKSMITH['REDIS'] names {alias!r}, which is no alias in CACHES ({known}) and no redis:// URL"
        )
    try:
        cache = caches[alias]
    except InvalidCacheBackendError as error:
        raise ImproperlyConfigured(f"LOCKSMITH['REDIS'] names the cache {alias!r}: {error}") from error
    client = getattr(cache, "client", None)
    if not isinstance(client, DefaultClient):
        raise ImproperlyConfigured(
            f"LOCKSMITH['REDIS'] names the cache {alias!r}, whose backend is {type(cache).__name__}, not django-redis."
            f" Set CACHES[{alias!r}]['BACKEND'] to 'django_redis.cache.RedisCache', name another alias,"
            " or give a redis:// URL"
        )
    if isinstance(client, ShardClient):
        raise ImproperlyConfigured(
            f"LOCKSMITH['REDIS'] names the cache {alias!r}, whose ShardClient spreads keys over servers that know"
            " nothing of each other; locks need one server, Sentinel or Redis Cluster"
        )
    return cache


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        scheme, _ = parts.scheme, parts.port  # the port is read when it is asked for
    except ValueError as error:
        raise ImproperlyConfigured(_BAD_URL) from error
    if scheme not in _URL_SCHEMES:
        known = ", ".join(f"{known}://" for known in _URL_SCHEMES)
        raise ImproperlyConfigured(f"LOCKSMITH['REDIS'] has the URL scheme {scheme!r}; known are {known}")
    return scheme


def _open_url(url: str) -> Deployment:
    scheme = _check_url(url)
    if scheme == "memory":
        return _memories.get(url) or _memories.setdefault(url, Memory())
    try:
        if scheme.endswith("+cluster"):
            url = url.replace("+cluster", "", 1)
            connection.parse_url(url)  # type: ignore[no-untyped-call]  # says now what is wrong with the URL
            return Cluster(partial(RedisCluster.from_url, url))
        return OneServer(connection.ConnectionPool.from_url(url))
    except ValueError as error:
        raise ImproperlyConfigured(_BAD_URL) from error


def _fakeredis() -> Any:
    try:
        import_module("lupa")  # without it fakeredis works, but knows no scripts
        return import_module("fakeredis")
    except ImportError as error:
        raise ImproperlyConfigured(
            "locks in memory need fakeredis with Lua, which is not installed: pip install"
            f" 'django-redis-locksmith[testing]' ({error})"
        ) from error


def _is_fake(dial_class: Any) -> bool:
    return str(dial_class.__module__).startswith("fakeredis")


@lru_cache(maxsize=16)
def _async_twin(dial_class: Any) -> tuple[Any, frozenset[str] | None]:
    """The asyncio class for a connection class, and which settings it takes (`None`: the same)."""
    if _is_fake(dial_class):
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
