"""How bytes go to a server and come back: the words that `sync_transport.py` and `async_transport.py` have in common.

Every method is a coroutine. Those of `SyncTransport` never suspend, so that the policy above is written once.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

from redis import exceptions as redis_errors

from ..exceptions import LockUnavailable, ServerTrouble

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .connections import Deployment, Node

T = TypeVar("T")

REDIS_ERRORS = (redis_errors.RedisError, redis_errors.RedisClusterException)  # the second is none of the first
SILENCE = (redis_errors.TimeoutError, asyncio.TimeoutError, TimeoutError)
_PASSING = (
    redis_errors.ConnectionError,
    *SILENCE,
    OSError,
    redis_errors.ReadOnlyError,
    redis_errors.ClusterDownError,
    redis_errors.MasterDownError,
    redis_errors.TryAgainError,
    redis_errors.MovedError,
    redis_errors.AskError,
    redis_errors.RedisClusterException,
)
_REFUSALS = (redis_errors.AuthenticationError, redis_errors.AuthorizationError)
# Failures after which the server, or what we know of it, is not the right one any more.
SPOILED = (redis_errors.ReadOnlyError, redis_errors.MovedError, redis_errors.MasterDownError)


class Connection(ABC):
    """A connection of one's own, to wait on. Used by one caller at a time."""

    @abstractmethod
    async def send(self, request: bytes) -> None:
        """Write."""

    @abstractmethod
    async def read_within(self, seconds: float) -> Any:
        """The next reply, or `NO_REPLY` if it did not come in this time."""

    @abstractmethod
    async def read(self) -> Any:
        """The next reply. Raises what the server answered with an error."""

    @abstractmethod
    async def keep(self) -> None:
        """All replies have been read: keep the connection for the next caller who waits."""

    @abstractmethod
    async def drop(self) -> None:
        """Close the connection, whatever it is in the middle of."""


class Transport(ABC):
    """Exchanges with the servers of one deployment. Raises `ServerTrouble`, `LockUnavailable` or `NoScriptError`."""

    now = staticmethod(time.monotonic)

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    @abstractmethod
    async def call(self, lock: bytes, request: bytes, undo: Callable[[], bytes] | None = None) -> Any:
        """One request on a shared connection to the server that owns `lock`, and its reply.

        Where the reply stays unknown, what `undo` makes is sent behind the request, on the same connection: whenever
        the server gets to the one, it gets to the other.
        """

    @abstractmethod
    async def connection_to(self, node: Node) -> Connection:
        """A connection to wait on, to this server."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let time pass."""

    @abstractmethod
    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this to its end, even if the caller is cancelled meanwhile: it must not be left half done."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections that nobody uses."""

    def node_for(self, lock: bytes) -> Node:
        """The server that owns this key."""
        try:
            return self.deployment.node_for(lock)
        except REDIS_ERRORS as error:
            raise self.explain(error, lock) from error

    def nodes(self) -> list[Node]:
        """All servers that own keys."""
        try:
            return self.deployment.nodes()
        except REDIS_ERRORS as error:
            raise self.explain(error, b"") from error

    def explain(self, error: BaseException, lock: bytes) -> BaseException:
        """The error of this package that a redis-py error stands for; others as they are."""
        if isinstance(error, redis_errors.NoScriptError) or not isinstance(error, (redis_errors.RedisError, *_PASSING)):
            return error
        if isinstance(error, redis_errors.MovedError) and not self.deployment.cluster:
            return LockUnavailable(
                "LOCKSMITH['REDIS'] leads to a node of a Redis Cluster, but is set up as a single server; give a"
                " redis+cluster:// URL, or a CONNECTION_FACTORY that makes a redis.cluster.RedisCluster"
            )
        # A primary that is made a replica ends the waits of its clients by this; redis-py has no class for it.
        unblocked = str(error).startswith("UNBLOCKED")
        if unblocked or (isinstance(error, _PASSING) and not isinstance(error, _REFUSALS)):
            return ServerTrouble(error, mute=isinstance(error, SILENCE))
        if str(error).startswith("WRONGTYPE"):
            name = lock.decode("utf-8", "replace")
            return LockUnavailable(
                f"a key of the lock {name!r} holds something that is no lock: {error};"
                " delete it, or choose another key or PREFIX"
            )
        return LockUnavailable(f"Redis refused: {error}")
