"""Replies as servers send them, to threads and tasks: in pieces, with pushes between them, as errors, or not at all."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from django.core.cache import cache
from redis import exceptions as redis_errors

from django_locksmith import locksmith
from django_locksmith.redis import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.helpers.deployments import Deployment

INTRODUCED = {b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n", b"PING": b""}
PUSH = b">2\r\n$7\r\nanybody\r\n$5\r\nthere\r\n"
MANY = b"*3\r\n:1\r\n:2\r\n$4000\r\n" + b"x" * 4000 + b"\r\n"


class Server:
    """Answers the first request with these pieces, each sent by itself; `None`: closes the connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._clients: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self.pieces: Sequence[bytes | None] = ()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._clients.append(client)
            asked: list[bytes] = []
            while b"PING" not in asked:  # before it, redis-py introduces itself
                asked = re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", client.recv(4000))
                client.sendall(b"".join(INTRODUCED.get(command, b"+OK\r\n") for command in asked))
            for piece in self.pieces:
                if piece is None:
                    client.shutdown(socket.SHUT_RDWR)
                else:
                    client.sendall(piece)

    def close(self) -> None:
        for each in (self._listener, *self._clients):
            each.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def _ask(port: int) -> Any:
    conn: Any = redis.Connection(port=port, protocol=3, socket_timeout=0.3)
    conn.connect()
    try:
        return wire.exchange(conn, b"*1\r\n$4\r\nPING\r\n")
    finally:
        conn.disconnect()


def _ask_by_the_system(port: int) -> Any:
    conn: Any = redis.Connection(port=port, protocol=3, socket_timeout=0.3)
    conn.connect()
    try:
        wire.leave_time_to_system(conn, 0.3)
        return wire.exchange(conn, b"*1\r\n$4\r\nPING\r\n")
    finally:
        conn.disconnect()


def _ask_in_task(port: int) -> Any:
    async def ask() -> Any:
        conn: Any = redis.asyncio.Connection(port=port, protocol=3)
        await conn.connect()
        try:
            await wire.send(conn, b"*1\r\n$4\r\nPING\r\n")
            return await wire.read(conn)
        finally:
            await conn.disconnect(nowait=True)

    return asyncio.run(ask())


@pytest.fixture(params=[_ask, _ask_by_the_system, _ask_in_task], ids=["sync", "by the system", "async"])
def ask(request: pytest.FixtureRequest, server: Server) -> Callable[..., Any]:
    def ask(*pieces: bytes | None) -> Any:
        server.pieces = pieces
        return request.param(server.port)

    return ask


@pytest.mark.parametrize(
    ("pieces", "reply"),
    [
        ([b":7\r\n"], 7),
        ([b"*2\r\n:1\r\n$2\r\nab\r\n"], [1, b"ab"]),
        ([b"$-1\r\n"], None),
        ([b"+OK\r\n"], b"OK"),
        ([MANY[:1], MANY[1:9], MANY[9:3000], MANY[3000:]], [1, 2, b"x" * 4000]),
        ([PUSH, b":7\r\n"], 7),
        ([PUSH + PUSH + b":7", b"\r\n"], 7),
    ],
    ids=["number", "list", "nil", "status", "pieces", "push", "pushes"],
)
def test_reply(ask: Callable[..., Any], pieces: list[bytes], reply: object) -> None:
    """A reply is the same however it comes; what the server pushes before it is no reply."""
    assert ask(*pieces) == reply


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (b"-NOSCRIPT No matching script\r\n", redis_errors.NoScriptError),
        (b"-READONLY You can't write\r\n", redis_errors.ReadOnlyError),
        (b"-NOREPLICAS Not enough\r\n", redis_errors.ResponseError),
    ],
)
def test_refused(ask: Callable[..., Any], error: bytes, kind: type[Exception]) -> None:
    """An error that the server answers with is raised as redis-py's error of its kind."""
    with pytest.raises(kind):
        ask(error)


@pytest.mark.parametrize("pieces", [(None,), (b"*2\r\n:1\r\n", None)], ids=["at once", "in the middle"])
def test_closed_by_the_server(ask: Callable[..., Any], pieces: tuple[bytes | None, ...]) -> None:
    """The end of the connection is a connection error, as much of the reply as came before."""
    with pytest.raises(redis_errors.ConnectionError):
        ask(*pieces)


@pytest.mark.parametrize("ask", [_ask, _ask_by_the_system])
def test_silent(server: Server, ask: Callable[[int], Any]) -> None:
    """To threads, silence is a timeout by the connection's own limit; tasks have their transport's."""
    with pytest.raises(redis_errors.TimeoutError):
        ask(server.port)


def test_limit_of_a_kept_connection(valkey: Deployment) -> None:
    """A connection that is kept has its limit in the system, where that can; when the pool has it, as redis-py does."""
    with locksmith("k"):
        pass
    node = locksmith.runtime().deployment().nodes()[0]
    ((kept, _),) = node._kept
    sock: Any = kept._sock  # type: ignore[attr-defined]  # redis-py
    assert sock.gettimeout() == (None if wire._SYSTEM_CAN else node.socket_timeout)
    if wire._SYSTEM_CAN:
        limit = struct.unpack("@ll", sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
        assert limit == (node.socket_timeout, 0)
    node.keep_nothing()
    assert sock.gettimeout() == node.socket_timeout
    assert cache.get("nothing") is None  # by the same connection
    with locksmith("k"):
        assert sock.gettimeout() is None or not wire._SYSTEM_CAN


@pytest.mark.parametrize("ask", [_ask, _ask_in_task], ids=["sync", "async"], indirect=True)
def test_without_hiredis(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where redis-py's parts are not those that are known, its own methods do the same."""
    monkeypatch.setattr(wire, "_Parser", None)
    monkeypatch.setattr(wire, "_AsyncParser", None)
    assert ask(MANY[:9], MANY[9:]) == [1, 2, b"x" * 4000]
    with pytest.raises(redis_errors.NoScriptError):
        ask(b"-NOSCRIPT No matching script\r\n")
    with pytest.raises(redis_errors.ConnectionError):
        ask(b"*2\r\n:1\r\n", None)
