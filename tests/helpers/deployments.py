"""Where the locks of a test live: each kind of deployment, and settings that lead to it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.test import override_settings
from django_redis.client import SentinelClient

from django_locksmith.redis.connections import Cluster, OneServer
from django_locksmith.runtime.runtime import process
from tests.helpers import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.helpers.servers import Server


SINGLE = ["valkey", "redis-6.2", "system-redis"]
DEPLOYMENTS = [*SINGLE, "sentinel", "cluster"]

SOCKET_TIMEOUT = 1.5
"""Seconds until a server counts as silent that a test makes silent: longer than a busy machine keeps one waiting."""


@dataclass
class Deployment:
    """Where the locks of a test live: what goes into CACHES, and the servers behind it."""

    kind: str
    cache: dict[str, Any]
    servers: list[Server] = field(default_factory=list)

    @property
    def server(self) -> Server:
        return self.servers[0]

    def keys(self) -> set[str]:
        """All keys on all servers."""
        found: set[str] = set()
        for server in self.servers:
            with server.client(encoding_errors="surrogateescape") as client:
                found.update(client.keys("*"))
        return found

    def left_behind(self) -> set[str]:
        """What is there that is not the index, nor a mark of work that was done, which stays for a while."""
        return {key for key in self.keys() if "<index>" not in key and "<done>" not in key}

    def flush(self) -> None:
        for server in self.servers:
            with server.client() as client:
                client.flushall()

    def blocked(self) -> int:
        """How many clients are blocked, on all servers."""
        total = 0
        for server in self.servers:
            with server.client() as client:
                total += client.info("clients")["blocked_clients"]
        return total

    def turn_out(self) -> None:
        """Turn out all blocked clients with an error, as a server does that becomes a replica."""
        for server in self.servers:
            with server.client() as client:
                for each in client.client_list():
                    if "b" in each["flags"]:
                        client.client_unblock(each["id"], error=True)

    def commands(self) -> dict[str, int]:
        """The commands that all servers have run, also inside of scripts; without those that connections begin with."""
        total: dict[str, int] = {}
        for server in self.servers:
            with server.client() as client:
                for name, numbers in client.info("commandstats").items():
                    word = name.removeprefix("cmdstat_").split("|")[0]
                    if word not in ("hello", "client", "config", "info", "cluster", "command", "ping"):
                        total[word] = total.get(word, 0) + numbers["calls"]
        return total

    def forget_commands(self) -> None:
        for server in self.servers:
            with server.client() as client:
                client.config_resetstat()

    def flying(self) -> set[str]:
        """The flights that somebody leads."""
        return {key for key in self.keys() if key.startswith("__locksmith:<flight>")}

    def forget(self, key: str) -> None:
        """Delete a key, on whichever server it is."""
        for server in self.servers:
            with server.client() as client:
                if key in client.keys("*"):
                    client.delete(key)

    def news_outlive(self, ms: int) -> set[str]:
        """The news of flights that will be there for longer than that."""
        found = set()
        for server in self.servers:
            with server.client(encoding_errors="surrogateescape") as client:
                for key in client.keys("__locksmith:<news>*"):
                    if not 0 <= client.pttl(key.encode("utf-8", "surrogateescape")) <= ms:
                        found.add(key)
        return {key for key in found if key in self.keys()}  # one may have ended between the two looks


def alias(url: str, **options: Any) -> dict[str, Any]:
    """A CACHES entry for django-redis."""
    return {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": url,
        "OPTIONS": {"SOCKET_TIMEOUT": 5, "SOCKET_CONNECT_TIMEOUT": 5, **options},
    }


@contextmanager
def deployment_of(kind: str) -> Iterator[Deployment]:
    if kind == "cluster":
        with servers.cluster(servers.valkey_binary()) as nodes:
            factory = "tests.helpers.deployments.ClusterFactory"
            yield Deployment(kind, alias(nodes[0].url, CONNECTION_FACTORY=factory), nodes)
    elif kind == "sentinel":
        with servers.watched_by_sentinel(servers.valkey_binary()) as (primary, _, sentinel):
            cache = alias(
                "redis://primary/0",
                CLIENT_CLASS="tests.helpers.deployments.ReadsFromPrimary",
                CONNECTION_FACTORY="django_redis.pool.SentinelConnectionFactory",
                SENTINELS=[("127.0.0.1", sentinel.port)],
            )
            yield Deployment(kind, cache, [primary])
    else:
        binary = {
            "valkey": servers.valkey_binary,
            "redis-6.2": servers.redis_6_binary,
            "system-redis": servers.system_binary,
        }[kind]()
        assert binary is not None
        with servers.running(binary) as server:
            yield Deployment(kind, alias(server.url), [server])


@contextmanager
def in_force(where: Deployment) -> Iterator[None]:
    """Settings that lead there; in the end the connections that services have kept are given up.

    Services of tests are many and short-lived, and each would keep some out of a pool that all of them share.
    """
    with override_settings(CACHES={"default": where.cache}, LOCKSMITH={"REDIS": "default"}):
        yield
    for runtime in list(process.runtimes):
        deployment, threads = runtime._deployment, runtime._threads
        nodes = [deployment._node] if isinstance(deployment, OneServer) else []
        if isinstance(deployment, Cluster):
            nodes = list(deployment._nodes.values())
        for node in nodes:
            node.keep_nothing()
        if threads is not None:
            for idle in threads.store.transport._idle.values():  # type: ignore[attr-defined]
                while idle:
                    idle.pop()[0].disconnect()


class ReadsFromPrimary(SentinelClient):
    """Values are read from the primary: a replica may be a moment behind, the longer the busier the machine is."""

    def get_next_client_index(self, write: bool = True, tried: list[int] | None = None) -> int:
        return 0


class ClusterFactory:
    """What a user writes to give django-redis a Redis Cluster."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def connect(self, url: str) -> Any:
        from redis.cluster import RedisCluster

        return RedisCluster.from_url(url, socket_timeout=self.options["SOCKET_TIMEOUT"])


def available(kinds: list[str]) -> list[str]:
    """Those that this machine and this Python can run; .ci/run sees to it that it is all of them somewhere."""
    lacking = set()
    if servers.redis_6_binary() is None:
        lacking.add("redis-6.2")
    if servers.system_binary() is None:
        lacking.add("system-redis")
    return [kind for kind in kinds if kind not in lacking]
