"""How bytes go to a server and come back: the words that `sync_transport.py` and `async_transport.py` have in common.

Every method is a coroutine. Those of `SyncTransport` never suspend, so that the policy above is written once.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from redis import exceptions as redis_errors

from .. import clock
from ..exceptions import LockUnavailable, ServerTrouble
from .key_names import not_a_lock
from .packing import pack

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .connections import Deployment
    from .node import Node

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
FAILURES = (redis_errors.RedisError, *SILENCE, OSError)
"""How connections fail; all else comes from outside, and interrupts a caller."""
_REFUSALS = (redis_errors.AuthenticationError, redis_errors.AuthorizationError)
# Failures after which the server, or what we know of it, is not the right one any more.
_SPOILED = (redis_errors.ReadOnlyError, redis_errors.MovedError, redis_errors.MasterDownError)

_PASSING_STATES = (
    "UNBLOCKED",  # a primary that is made a replica ends the waits of its clients
    "NOREPLICAS",  # min-replicas-to-write, until a replica has connected, as after a failover
    "BUSY ",  # somebody's script, or module, has run for long
    "LOADING",
    "MISCONF",  # it cannot save to its disk
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
)
"""What servers begin an error with, while they are in a state that passes by itself; redis-py has no class for some."""


def passing_state(error: BaseException) -> str | None:
    """The state of the server that this error tells of, if it is one that passes by itself.

    Redis before 7 wraps what a command of a script was refused for into an error of its own.
    """
    text = str(error)
    if text.startswith(_PASSING_STATES):
        return text.split(" ", 1)[0]
    if "rror running script" in text:
        return next((state.strip() for state in _PASSING_STATES if f"-{state.strip()} " in f"{text} "), None)
    return None


def is_moving(error: BaseException) -> bool:
    """Are the keys of this request on two nodes just now, for their slot is on its way?"""
    return isinstance(error, redis_errors.TryAgainError) or passing_state(error) == "TRYAGAIN"


def ask_at(error: BaseException) -> tuple[str, int] | None:
    """The node that the key of a slot under migration has been moved to, if this error says so."""
    if isinstance(error, redis_errors.AskError):
        return error.host, error.port
    if isinstance(error, redis_errors.ResponseError) and str(error).startswith("ASK "):  # redis-py 5, for tasks
        host, _, port = str(error).split()[2].rpartition(":")
        return host, int(port)
    return None


def is_spoiled(error: BaseException) -> bool:
    """Is the server at the end of this connection not the right one any more?"""
    return isinstance(error, _SPOILED) or passing_state(error) in ("READONLY", "MASTERDOWN")


_MAP_WITHIN = 1.0
"""Seconds that a cluster has to say where its keys are now; what comes later is of use to the next request."""
ASKING = pack(b"ASKING")
"""Before a request to the node that a key of a slot under migration has been moved to."""


class Undo(Protocol):
    """What undoes a request. `sent`: has that gone out, so that there may be something to undo?"""

    sent: bool

    def undo(self) -> bytes:
        """What is to be sent behind it."""


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

    now = staticmethod(clock.now)

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.outage = deployment.outage
        self.one_node: Node | None = None if deployment.cluster else deployment.nodes()[0]
        """The only server, where there is but one: what is asked for with each request."""

    @abstractmethod
    async def call(self, lock: bytes, request: bytes, undo: Undo | None = None) -> Any:
        """One request on a shared connection to the server that owns `lock`, and its reply.

        Should the caller be interrupted, `undo.undo()` is sent behind the request, on the same connection. After a
        timeout nothing is: what must not come late says so itself (`server_clock.py`).
        """

    def call_now(self, lock: bytes, request: bytes, undo: Undo | None = None) -> Any:
        """As `call`, on the spot: for threads, whom a coroutine would cost as much as the work in it."""
        raise NotImplementedError("tasks wait")

    @abstractmethod
    async def connection_to(self, node: Node) -> Connection:
        """A connection to wait on, to this server."""

    async def connection_of_pool(self, node: Node) -> Connection:
        """As `connection_to`, where none can be made any more."""
        return await self.connection_to(node)

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let time pass."""

    @abstractmethod
    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this to its end, even if the caller is cancelled meanwhile: it must not be left half done."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections that nobody uses."""

    @staticmethod
    def patience(trouble: ServerTrouble) -> float:
        """Seconds to wait for what a cluster says of its nodes: none, where its silence has cost us enough."""
        return 0.0 if trouble.mute else _MAP_WITHIN

    def node_for(self, lock: bytes) -> Node:
        """The server that owns this key."""
        try:
            return self.deployment.node_for(lock)
        except (*REDIS_ERRORS, *SILENCE) as error:
            raise self.explain(error, lock) from error

    def nodes(self) -> list[Node]:
        """All servers that own keys."""
        try:
            return self.deployment.nodes()
        except (*REDIS_ERRORS, *SILENCE) as error:
            raise self.explain(error, b"") from error

    def explain(self, error: BaseException, lock: bytes, *, sent: bool = False) -> BaseException:
        """The error of this package that a redis-py error stands for; others as they are.

        `sent`: the request may have reached the server.
        """
        if isinstance(error, UnicodeError):
            return LockUnavailable("the host that LOCKSMITH['REDIS'] names is no name of a host")
        if isinstance(error, redis_errors.NoScriptError) or not isinstance(error, (redis_errors.RedisError, *_PASSING)):
            return error
        if isinstance(error, redis_errors.MovedError) and not self.deployment.cluster:
            return LockUnavailable(
                "LOCKSMITH['REDIS'] leads to a node of a Redis Cluster, but is set up as a single server; give a"
                " redis+cluster:// URL, or a CONNECTION_FACTORY that makes a redis.cluster.RedisCluster"
            )
        passing = isinstance(error, _PASSING) or passing_state(error) is not None or ask_at(error) is not None
        if passing and not isinstance(error, _REFUSALS):
            # An error that the server answered with says that it did nothing.
            sent = sent and not isinstance(error, redis_errors.ResponseError)
            self.outage.failed(error)
            return ServerTrouble(error, mute=isinstance(error, SILENCE), sent=sent)
        if "WRONGTYPE" in str(error):
            return LockUnavailable(not_a_lock(lock, str(error)))
        return LockUnavailable(f"Redis refused: {error}")
