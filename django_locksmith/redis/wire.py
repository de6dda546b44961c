"""Requests and replies on connections of redis-py, past what redis-py does around them.

Its layers between a socket and hiredis cost as much as all else on a lock's way through Python. Where a connection is
not what we know (no hiredis, fakeredis, a version that names its parts otherwise), redis-py's own methods do the same;
and what a server pushes between replies is left to redis-py.
"""

from __future__ import annotations

import struct
import sys
from asyncio import StreamReader, StreamWriter
from functools import lru_cache
from inspect import signature
from socket import SO_RCVTIMEO, SO_SNDTIMEO, SOL_SOCKET, socket
from typing import TYPE_CHECKING, Any, Protocol

from redis import exceptions as redis_errors

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection as RedisAsyncConnection


class RedisConnection(Protocol):
    """The part of redis-py's connections that is used here; redis-py itself leaves it untyped."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send_packed_command(self, command: tuple[bytes], *, check_health: bool) -> None: ...
    def read_response(self, *, disconnect_on_error: bool, timeout: float = ...) -> Any: ...
    def can_read(self, timeout: float) -> bool: ...


_NOT_ENOUGH: Any = None
_Parser: Any = None
_AsyncParser: Any = None
_Push: Any = ()
try:
    import hiredis
    from redis._parsers import hiredis as _parsers

    _NOT_ENOUGH = _parsers.NOT_ENOUGH_DATA
    _Parser, _AsyncParser = _parsers._HiredisParser, _parsers._AsyncHiredisParser
    _Push = getattr(hiredis, "PushNotification", ())
except (ImportError, AttributeError):  # a version of redis-py that has them elsewhere
    pass

_READ_AT_ONCE = 4096
# Not where gevent or eventlet stand in for sockets: theirs wait in an event loop, which would then wait for ever.
_SYSTEM_CAN = sys.platform == "linux" and socket.__module__ == "socket"
_ENDED = "the server closed the connection"
_SILENT = "no answer within the time"


def exchange(conn: RedisConnection, request: bytes) -> Any:
    """A request's reply. Raises redis-py's errors, also where the server answered with one."""
    parser: Any = getattr(conn, "_parser", None)
    sock: Any = getattr(conn, "_sock", None)
    if type(parser) is not _Parser or not isinstance(sock, socket) or parser._reader is None:
        conn.send_packed_command((request,), check_health=False)
        return conn.read_response(disconnect_on_error=False)
    try:
        sock.sendall(request)
    except OSError as error:
        raise _broken(error) from error
    return _received(parser, sock)


def receive(conn: RedisConnection, seconds: float) -> Any:
    """The next reply, as `exchange`; `redis.TimeoutError` if it does not come within this time."""
    parser: Any = getattr(conn, "_parser", None)
    sock: Any = getattr(conn, "_sock", None)
    if type(parser) is not _Parser or not isinstance(sock, socket) or parser._reader is None:
        if _reads_in_time(type(conn)):
            return conn.read_response(disconnect_on_error=False, timeout=seconds)
        if not conn.can_read(seconds):
            raise redis_errors.TimeoutError(_SILENT)
        return conn.read_response(disconnect_on_error=False)
    return _received(parser, sock, seconds)


@lru_cache(maxsize=16)
def _reads_in_time(kind: type[RedisConnection]) -> bool:
    """Can a single read be given its time? With redis-py from 8 on; it saves system calls before the read."""
    return "timeout" in signature(kind.read_response).parameters


def _received(parser: Any, sock: socket, seconds: float | None = None) -> Any:
    reader = parser._reader
    reply = reader.gets()
    try:
        if seconds is not None and reply is _NOT_ENOUGH:  # one that came with the last costs no look at the clock
            sock.settimeout(seconds)
        while reply is _NOT_ENOUGH:
            data = sock.recv(_READ_AT_ONCE)
            if not data:
                raise redis_errors.ConnectionError(_ENDED)
            reader.feed(data)
            reply = reader.gets()
    except OSError as error:
        raise _broken(error) from error
    if type(reply) is list or type(reply) is int:  # nearly always
        return reply
    if isinstance(reply, Exception):
        raise reply
    if isinstance(reply, _Push):
        _hand_on(parser, reply)
        return _received(parser, sock, seconds)
    return reply


def _broken(error: OSError) -> redis_errors.RedisError:
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return redis_errors.TimeoutError(_SILENT)
    return redis_errors.ConnectionError(f"the connection broke: {error}")


def leave_time_to_system(conn: RedisConnection, seconds: float) -> None:
    """Have the system end reads and writes that take longer, instead of Python, which asks it before each of them.

    For connections on which nothing but `exchange` is used. A signal with a handler begins the time anew.
    """
    sock: Any = getattr(conn, "_sock", None)
    if (
        type(sock) is socket
        and sock.gettimeout() is not None
        and _SYSTEM_CAN
        and type(getattr(conn, "_parser", None)) is _Parser
    ):
        limit = struct.pack("@ll", *divmod(max(1, int(seconds * 1e6)), 1_000_000))
        sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, limit)
        sock.setsockopt(SOL_SOCKET, SO_SNDTIMEO, limit)
        sock.settimeout(None)


def leave_time_to_python(conn: RedisConnection, seconds: float) -> None:
    """As redis-py knows it: others are to use the connection, or the limit of one reply was another."""
    sock: Any = getattr(conn, "_sock", None)
    if isinstance(sock, socket) and sock.gettimeout() != seconds:
        sock.settimeout(seconds)


async def send(conn: RedisAsyncConnection, request: bytes) -> None:
    """Write. What the server does not take at once waits in the process: there is little of it, as replies bound it."""
    writer = conn._writer
    if not isinstance(writer, StreamWriter) or type(conn._parser) is not _AsyncParser:
        await conn.send_packed_command(request, check_health=False)
        return
    try:
        writer.write(request)
    except (OSError, RuntimeError) as error:
        raise redis_errors.ConnectionError(f"the connection broke: {error}") from error


async def read(conn: RedisAsyncConnection) -> Any:
    """The next reply. Raises redis-py's errors, also where the server answered with one."""
    parser: Any = conn._parser
    stream = conn._reader
    if type(parser) is not _AsyncParser or not isinstance(stream, StreamReader) or parser._reader is None:
        return await conn.read_response(disconnect_on_error=False)
    reader = parser._reader
    try:
        reply = reader.gets()
        while reply is _NOT_ENOUGH:
            data = await stream.read(_READ_AT_ONCE)
            if not data:
                raise redis_errors.ConnectionError(_ENDED)
            reader.feed(data)
            reply = reader.gets()
    except OSError as error:
        raise redis_errors.ConnectionError(f"the connection broke: {error}") from error
    if type(reply) is list or type(reply) is int:
        return reply
    if isinstance(reply, Exception):
        raise reply
    if isinstance(reply, _Push):
        handled = _hand_on(parser, reply)
        if handled is not None:
            await handled
        return await read(conn)
    return reply


def _hand_on(parser: Any, push: Any) -> Any:
    """To redis-py, if it wants to know; older ones take it for a reply."""
    if getattr(parser, "_hiredis_PushNotificationType", None) is not None:
        return parser.handle_push_response(push)
    return None
