"""Where the locks live: an alias of CACHES or a URL; one server, Sentinel, Redis Cluster, or memory for tests."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from functools import cached_property, partial
from importlib import import_module
from inspect import signature
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis.connection as connection
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.cache.backends.redis import RedisCache
from django.core.exceptions import ImproperlyConfigured
from django_redis.client import DefaultClient, ShardClient
from redis import Redis
from redis import exceptions as redis_errors
from redis.cluster import RedisCluster

from .. import forks
from .errands import Errand
from .key_names import slot_of
from .node import ANSWER_WITHIN, Node
from .outage import Outage

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.cluster import ClusterNode
    from redis.connection import ConnectionPool


_VALKEY = {
    "valkey": "redis",
    "valkeys": "rediss",
    "valkey+cluster": "redis+cluster",
    "valkeys+cluster": "rediss+cluster",
}
"""How Valkey's clients call what redis-py speaks, too."""
_URL_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", *_VALKEY, "memory")
# What exactly is wrong is not told, nor where: it may contain a part of the password.
_BAD_URL = (
    "LOCKSMITH['REDIS'] is not a usable URL; is its port a number, is its password percent-encoded, and has each of its"
    " options a value that it can have?"
)
_BY_HOST = ("redis", "rediss")  # redis-py takes what is no number there for 0
_ALIAS = re.compile(r"[\w .-]{1,60}")
_OPTIONS_OF_VALKEY = ("USERNAME", "PASSWORD", "SOCKET_TIMEOUT", "SOCKET_CONNECT_TIMEOUT")
_TIMES = ("socket_timeout", "socket_connect_timeout")


class Deployment(ABC):
    """All the servers that one set of locks lives on."""

    cluster: bool
    has_replicas = True
    """May it have some, for `LOCKSMITH["MIN_REPLICAS"]` to speak of?"""

    @cached_property
    def outage(self) -> Outage:
        """Whether it answers, for all who ask it in this process."""
        return Outage()

    @abstractmethod
    def node_for(self, lock: bytes) -> Node:
        """The server that owns this key."""

    @abstractmethod
    def nodes(self) -> list[Node]:
        """All servers that own keys."""

    def node_at(self, host: str, port: int) -> Node:
        """The server at this address, which another one of the cluster has named."""
        raise LookupError(f"no cluster, and no node {host}:{port}")

    def changed(self, wait: float) -> None:  # noqa: B027  # only a cluster has something to do
        """Servers have moved: ask where the keys are now, and wait for the answer for so many seconds at most."""


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
forks.in_child(_memories.clear)


class Cluster(Deployment):
    """Redis Cluster. redis-py keeps the map of slots; each node's pool is used as a single server's."""

    cluster = True

    def __init__(self, connect: Callable[[], RedisCluster]) -> None:
        self._nodes: dict[str, Node] = {}
        self._made: RedisCluster | None = None
        self._connecting = Errand("locksmith-cluster", connect)
        self._asking = Errand("locksmith-cluster", lambda: self._client.nodes_manager.initialize())

    @property
    def _client(self) -> RedisCluster:
        # Made at the first use that finds the cluster up: its client cannot be made without asking it.
        if self._made is None:
            self._made = self._connecting.result(ANSWER_WITHIN)
        return self._made

    def _node(self, cluster_node: ClusterNode) -> Node:
        name = str(cluster_node.name)
        if name not in self._nodes:
            self._nodes[name] = Node(self._client.get_redis_connection(cluster_node).connection_pool)
        return self._nodes[name]

    def node_for(self, lock: bytes) -> Node:
        return self._node(self._client.nodes_manager.get_node_from_slot(slot_of(lock)))

    def node_at(self, host: str, port: int) -> Node:
        known = self._client.nodes_manager.get_node(host, port)
        if known is None:
            self.changed(ANSWER_WITHIN)
            known = self._client.nodes_manager.get_node(host, port)
        if known is None:
            raise redis_errors.ClusterError(f"the cluster does not know its node {host}:{port}")
        return self._node(known)

    def nodes(self) -> list[Node]:
        return [self._node(cluster_node) for cluster_node in self._client.get_primaries()]  # type: ignore[no-untyped-call]  # redis-py

    def changed(self, wait: float) -> None:
        self._asking.result(wait)


def open_deployment(where: str) -> Deployment:
    """What `LOCKSMITH["REDIS"]` names: an alias of CACHES, or a URL.

    Raises `ImproperlyConfigured` that says what to change. A single server is not contacted yet; a cluster is, but may
    be down.
    """
    if "://" in where:
        return _open_url(where)
    make_client = _client_maker(where)
    try:
        client = make_client()
    except redis_errors.RedisClusterException:
        return Cluster(make_client)
    if isinstance(client, RedisCluster):
        return Cluster(lambda: client)
    try:
        return OneServer(client.connection_pool)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"LOCKSMITH['REDIS'] names {where!r}, whose OPTIONS in CACHES redis-py refuses: {error}"
        ) from error


def check_deployment(where: str) -> None:
    """Raise what `open_deployment` would, as far as it can be told without contacting a server."""
    if "://" in where:
        if _check_url(where) == "memory":
            _fakeredis()
        else:
            _pool_of(where)
    else:
        _client_maker(where)


def _client_maker(alias: str) -> Callable[[], Any]:
    """What makes a client of redis-py for the primary of this cache. Raises `ImproperlyConfigured`."""
    cache = _cache_for(alias)
    if isinstance(cache, RedisCache):  # Django's own
        return partial(cache._cache.get_client, write=True)
    if type(cache).__module__.startswith("django_valkey."):
        pool = _pool_of_valkey(alias, caches.settings[alias])
        return lambda: Redis(connection_pool=pool)
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
    return partial(client.get_client, write=True)


def _pool_of_valkey(alias: str, settings: dict[str, Any]) -> ConnectionPool:
    """django-valkey has a client of its own, and connections of it: here are such of redis-py to the same server."""
    options = settings.get("OPTIONS") or {}
    if "CLIENT_CLASS" in options and not str(options["CLIENT_CLASS"]).endswith(".DefaultClient"):
        raise ImproperlyConfigured(
            f"LOCKSMITH['REDIS'] names the cache {alias!r}, whose CLIENT_CLASS of django-valkey locks cannot use; give"
            " the URL of its server, or of its cluster (redis+cluster://)"
        )
    given = settings.get("LOCATION") or ""
    url = given.split(",")[0] if isinstance(given, str) else str(given[0])
    found = {name.lower(): options[name] for name in _OPTIONS_OF_VALKEY if options.get(name) is not None}
    return _pool_of(url, **found, **(options.get("CONNECTION_POOL_KWARGS") or {}))


def _cache_for(alias: str) -> Any:
    if alias not in caches.settings:
        known = ", ".join(map(repr, caches.settings))
        said = f"names {alias!r}" if _ALIAS.fullmatch(alias) else "says something"  # maybe a password
        raise ImproperlyConfigured(
            f"LOCKSMITH['REDIS'] {said}, which is no alias in CACHES ({known}) and no redis:// URL"
        )
    try:
        return caches[alias]
    except InvalidCacheBackendError as error:
        raise ImproperlyConfigured(f"LOCKSMITH['REDIS'] names the cache {alias!r}: {error}") from error


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        scheme, _ = parts.scheme, parts.port  # the port is read when it is asked for
        database = parts.path.strip("/")
        if not url.isprintable() or (database and not database.isdigit() and scheme in _BY_HOST):
            raise ValueError
    except ValueError:
        raise ImproperlyConfigured(_BAD_URL) from None
    if scheme not in _URL_SCHEMES:
        known = ", ".join(f"{known}://" for known in _URL_SCHEMES)
        said = f"the URL scheme {scheme!r}" if re.fullmatch("[a-z+]{1,12}", scheme) else "a URL scheme that is unknown"
        raise ImproperlyConfigured(f"LOCKSMITH['REDIS'] has {said}; known are {known}")
    return scheme


def _open_url(url: str) -> Deployment:
    scheme = _check_url(url)
    if scheme == "memory":
        return _memories.get(url) or _memories.setdefault(url, Memory())
    pool = _pool_of(url)
    if scheme.endswith("+cluster"):
        return Cluster(partial(RedisCluster.from_url, _for_redis_py(url)))
    return OneServer(pool)


def _for_redis_py(url: str) -> str:
    scheme, rest = url.split("://", 1)
    return f"{_VALKEY.get(scheme, scheme).removesuffix('+cluster')}://{rest}"


def _pool_of(url: str, **options: Any) -> ConnectionPool:
    try:
        pool = connection.ConnectionPool.from_url(_for_redis_py(url), **options)
        _check_options(pool)
    except (TypeError, ValueError, redis_errors.RedisError):
        raise ImproperlyConfigured(_BAD_URL) from None
    return pool


def _check_options(pool: ConnectionPool) -> None:
    """Raise what is wrong with the options of a URL, without contacting the server."""
    given = pool.connection_kwargs
    known: set[str] = set()
    for base in pool.connection_class.__mro__:
        known.update(signature(base.__init__).parameters)
    if unknown := sorted(given.keys() - known):
        names = ", ".join(name for name in unknown if name.isidentifier() and len(name) < 40)
        raise ImproperlyConfigured(f"LOCKSMITH['REDIS'] is a URL with an option that redis-py does not have: {names}")
    for name in _TIMES:
        seconds = given.get(name)
        if seconds is not None and not 0 < seconds < inf:
            raise ImproperlyConfigured(f"LOCKSMITH['REDIS'] is a URL whose {name} is not more than 0 seconds")
    pool.connection_class(**given)


def _fakeredis() -> Any:
    try:
        import_module("lupa")  # without it fakeredis works, but knows no scripts
        return import_module("fakeredis")
    except ImportError as error:
        raise ImproperlyConfigured(
            "locks in memory need fakeredis with Lua, which is not installed: pip install"
            f" 'django-redis-locksmith[testing]' ({error})"
        ) from error
