"""The lock's requests and replies: key names and Lua below, plain messages above. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import NoScriptError, ResponseError

from ..exceptions import LockUnavailable, ServerTrouble
from ..records import LockInfo
from ..tokens import read_holder
from . import lock_requests
from .key_names import decode, encode, glob_escape, is_lock, names_in_cluster, names_on_one_server
from .lua import ABANDON, EXTEND, LOOK, LOOK_ALONE, RELEASE, RELEASE_ALONE
from .messages import Answer, Busy, Granted, Mode, NoReply, Refused
from .node import TIME
from .packing import bulk, head, pack, request
from .transport import is_moving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from .key_names import Keyring, Names
    from .lua import Script
    from .messages import Attempt, Holding
    from .node import Node
    from .transport import Connection, Transport

_REPLICAS_WITHIN = 1.0
"""Seconds that the replicas have to confirm a grant."""
TOO_LATE = -2
_LONGEST_BLOCK = 10.0**8
"""Seconds; three years are without limit, and Redis takes no more than some 300,000 of them."""
_PAGE = 500
_MANY = 1024


GivesBack = Callable[["LockStore"], Coroutine[Any, Any, Any]]
"""What gives back what is not needed any more."""


class LockStore:
    """The locks of one prefix on one deployment, over the transport of one process or event loop."""

    def __init__(self, transport: Transport, prefix: str, min_replicas: int = 0) -> None:
        self.transport = transport
        self.now = transport.now
        self.sleep = transport.sleep
        self.shielded = transport.shielded
        self.prefix = prefix
        self._call = transport.call
        self.min_replicas = min_replicas
        self.give_back_later: Callable[[GivesBack, float], None] = _leave_it
        """Go on trying, in the background and by a store for threads, for so many seconds."""
        # The keys in Redis of a lock, by its key.
        make_names = names_in_cluster if transport.deployment.cluster else names_on_one_server
        self.names = _NamesCache(partial(make_names, prefix)).__getitem__

    # ---- taking and giving back

    async def acquire(self, attempt: Attempt, wait: float, mode: Mode) -> Answer:
        """Ask for the lock; join its queue for `wait` seconds if it is busy (0: do not)."""
        if self.min_replicas:
            return await self._acquire_with_replicas(attempt, wait, mode)
        lock = attempt.names.lock
        node = self.transport.node_for(lock)
        undo = lock_requests.UndoAttempt(attempt)
        sent = self.now()
        valid = node.clock.us_at(sent + node.socket_timeout)
        if valid is None:
            valid = await self.valid_until(node, lock)
            sent = self.now()
        try:
            reply = await self._call(lock, lock_requests.acquire(attempt, wait, mode, valid), undo)
            attempt.sent = True
        except NoScriptError:
            await self._call(lock, pack(b"SCRIPT", b"LOAD", RELEASE.text))  # a release may be its last word, too
            valid = await self.valid_until(node, lock)
            sent = self.now()
            reply = await self._call(lock, lock_requests.acquire(attempt, wait, mode, valid, full=True), undo)
            attempt.sent = True
        except BaseException:
            attempt.sent = attempt.sent or undo.sent
            raise
        return self.answer(node, reply, sent)

    async def valid_until(self, node: Node, lock: bytes) -> int:
        """By the server's clock, in µs: when we shall have given up waiting for the reply to a request sent now."""
        valid = node.clock.us_at(self.now() + node.socket_timeout)
        if valid is None:
            sent = self.now()
            reply = await self._call(lock, TIME)
            node.clock.read(sent, self.now(), reply)
            valid = node.clock.us_at(self.now() + node.socket_timeout)
            assert valid is not None
        return valid

    def answer(self, node: Node, reply: list[Any], sent: float) -> Answer:
        """What a reply of the script that acquires says."""
        if reply[0] < 0:
            if reply[0] == TOO_LATE:
                raise too_late(node)
            return Refused()
        server_time = reply[1] / 1e6
        if sent >= node.clock.tells_more_at:
            node.clock.heard(sent, self.now(), server_time)
        if reply[0] == 1:
            return Granted(reply[-1], sent, server_time)
        return Busy(sent, server_time, reply[2] / 1000 if reply[2] >= 0 else None, decode(reply[3]))

    async def _acquire_with_replicas(self, attempt: Attempt, wait: float, mode: Mode) -> Answer:
        # WAIT speaks of the writes of its own connection.
        node = self.transport.node_for(attempt.names.lock)
        valid = await self.valid_until(node, attempt.names.lock)
        async with self._connection_to(node) as connection:
            attempt.sent = True
            sent = self.now()
            await connection.send(lock_requests.acquire(attempt, wait, mode, valid))
            try:
                reply = await connection.read()
            except NoScriptError:
                await connection.send(lock_requests.acquire(attempt, wait, mode, valid, full=True))
                reply = await connection.read()
            answer = self.answer(node, reply, sent)
            if isinstance(answer, Granted):
                await self.confirm(connection, attempt.names)
            return answer

    async def confirm(self, connection: Connection, names: Names) -> None:
        """See that enough replicas have the grant that came over this connection."""
        await connection.send(pack(b"WAIT", b"%d" % self.min_replicas, b"%d" % int(_REPLICAS_WITHIN * 1000)))
        # It may take longer than a reply usually may.
        confirmed = await connection.read_within(_REPLICAS_WITHIN)
        if isinstance(confirmed, NoReply):
            confirmed = await connection.read()
        if confirmed < self.min_replicas:
            raise LockUnavailable(
                f"the lock {names.key!r} was granted, but only {confirmed} of the {self.min_replicas} replicas that"
                f" LOCKSMITH['MIN_REPLICAS'] asks for had it after {_REPLICAS_WITHIN:g} s"
            )

    async def block_for_baton(self, attempt: Attempt, wait: float) -> BlockedWait:
        """Block on the baton for all of `wait` (seconds), with the claim already behind it."""
        node = self.transport.node_for(attempt.names.lock)
        wait = min(wait, node.longest_block)
        connection = await self.transport.connection_to(node)
        try:
            seconds = b"0" if wait > _LONGEST_BLOCK else b"%.3f" % max(wait, 0.001)
            # The claim needs no time of its own: the queue says for how long its sender is waited for.
            await connection.send(
                pack(b"BLPOP", attempt.names.baton, seconds)
                + lock_requests.acquire(attempt, 0, "claim", lock_requests.EVER)
            )
        except BaseException:
            await connection.drop()
            raise
        return BlockedWait(self, node, connection, attempt)

    async def release(self, attempt: Attempt) -> bool:
        """Give the lock back; `False` if it was not held with this token. Harmless if repeated."""
        names = attempt.names
        token = attempt.packed or bulk(attempt.token)
        try:
            return bool(await self._call(names.lock, head(RELEASE, names) + token))
        except NoScriptError:
            return bool(await self.run(RELEASE, names, attempt.token))
        except ServerTrouble as trouble:
            if not is_moving(trouble.error):
                raise
            return bool(await self.run(RELEASE_ALONE, names, attempt.token))

    def abandon_later(self, attempt: Attempt) -> None:
        """As `abandon`, in the background, until its lease has ended."""
        self.give_back_later(lambda store: store.abandon(attempt), attempt.lease)

    async def abandon(self, attempt: Attempt) -> None:
        """Leave no trace of a token, whatever became of it: give the lock back, leave the queue, pass the baton on."""
        await self.run(ABANDON, attempt.names, attempt.token, b"1")

    async def extend(self, attempt: Attempt, ms: int, mode: Literal["add", "set"]) -> tuple[float, float]:
        """Change the lease; when this was asked, and how many seconds are left from then (0: the lock is lost)."""
        names = attempt.names
        node = self.transport.node_for(names.lock)
        valid = await self.valid_until(node, names.lock)
        sent = self.now()
        left = await self.run(EXTEND, names, attempt.token, b"%d" % ms, b"%d" % valid, mode.encode())
        if left == TOO_LATE:
            raise too_late(node)
        return sent, left / 1000

    async def renew(
        self, node: Node, leases: Sequence[tuple[Holding, int]]
    ) -> tuple[float, list[float | BaseException]]:
        """Renew many leases of one server in one exchange, for so many ms each.

        When this was asked; and of each the seconds left, or the error that its server answered with.
        """
        valid = await self.valid_until(node, leases[0][0].names.lock)
        sent = self.now()
        requests = [
            request(EXTEND, attempt.names, attempt.token, b"%d" % ms, b"%d" % valid, b"renew") for attempt, ms in leases
        ]
        try:
            left = await self._replies(node, requests)
        except NoScriptError:
            await self._replies(node, [pack(b"SCRIPT", b"LOAD", EXTEND.text)])
            left = await self._replies(node, requests)
        return sent, [too_late(node) if each == TOO_LATE else _seconds(each) for each in left]

    async def _replies(self, node: Node, requests: list[bytes]) -> list[Any]:
        """The replies to many requests, or the errors that they were answered with. Raises `NoScriptError`."""
        try:
            connection = await self.transport.connection_to(node)
        except ServerTrouble as trouble:
            if trouble.mute:
                raise
            connection = await self.transport.connection_of_pool(node)  # the server may take no more clients
        replies: list[Any] = []
        unknown: NoScriptError | None = None
        try:
            await connection.send(b"".join(requests))
            for _ in requests:
                try:
                    replies.append(await connection.read())
                except NoScriptError as error:  # noqa: PERF203  # each reply must be read
                    unknown = error
                except (LockUnavailable, ServerTrouble) as error:
                    if not isinstance(error.__cause__, ResponseError):
                        raise
                    replies.append(error)
        except BaseException:
            await connection.drop()
            raise
        await connection.keep()
        if unknown is not None:
            raise unknown
        return replies

    # ---- looking in

    async def look(self, names: Names) -> LockInfo | None:
        """One lock as it is now, or `None` if nobody has it."""
        try:
            reply = await self.run(LOOK, names)
        except ServerTrouble as trouble:
            if not is_moving(trouble.error):
                raise
            reply = await self.run(LOOK_ALONE, names)
        return _info(names, reply)

    async def keys(self) -> list[str]:
        """The keys of all locks that may be held: what the index says, or, in a cluster, what a scan finds."""
        found: set[str] = set()
        if self.transport.deployment.cluster:
            pattern = encode(glob_escape(self.prefix)) + b"*"
            for node in self.transport.nodes():
                async for page in self._pages(node, b"SCAN", (), b"MATCH", pattern):
                    found.update(decode(name) for name in page if is_lock(self.prefix, name))
        else:
            index = self.names("").index
            async for page in self._pages(self.transport.node_for(index), b"ZSCAN", (index,)):
                # Every other one is a score; and one without a name is the last fence.
                found.update(decode(name) for name in page[::2] if name)
        return [name[len(self.prefix) :] for name in found]

    async def _pages(
        self, node: Node, command: bytes, key: tuple[bytes, ...], *rest: bytes
    ) -> AsyncIterator[list[bytes | str]]:
        cursor = b"0"
        async with self._connection_to(node) as connection:
            while True:
                await connection.send(pack(command, *key, cursor, *rest, b"COUNT", b"%d" % _PAGE))
                following, page = await connection.read()
                yield page
                cursor = following if isinstance(following, bytes) else str(following).encode()
                if cursor == b"0":
                    return

    async def look_at(self, many: Sequence[Names]) -> list[LockInfo]:
        """Many locks as they are now; those that nobody has are left out."""
        found = []
        groups: dict[Node, list[Names]] = {}
        for names in many:
            groups.setdefault(self.transport.node_for(names.lock), []).append(names)
        for node, group in groups.items():
            async with self._connection_to(node) as connection:
                for start in range(0, len(group), _PAGE):
                    page = group[start : start + _PAGE]
                    await connection.send(b"".join(request(LOOK, names) for names in page))
                    for names in page:
                        try:
                            info = _info(names, await connection.read())
                        except NoScriptError:
                            info = await self.look(names)
                        if info is not None:
                            found.append(info)
        return found

    # ---- how

    async def run(self, script: Script, names: Keyring, *arguments: bytes) -> Any:
        try:
            return await self.transport.call(names.lock, request(script, names, *arguments))
        except NoScriptError:
            return await self.transport.call(names.lock, request(script, names, *arguments, full=True))

    @asynccontextmanager
    async def _connection_to(self, node: Node) -> AsyncIterator[Connection]:
        """A connection that is kept if all goes well, and dropped if not."""
        connection = await self.transport.connection_to(node)
        try:
            yield connection
        except BaseException:
            await connection.drop()
            raise
        await connection.keep()


def _leave_it(work: GivesBack, seconds: float) -> None:
    """It ends with its lease."""


class _NamesCache(dict[str, "Names"]):
    """The names of the locks used of late. A plain dict: `lru_cache` would cost three times as much."""

    def __init__(self, make: Callable[[str], Names]) -> None:
        self._make = make

    def __missing__(self, key: str) -> Names:
        if len(self) >= _MANY:
            self.clear()
        names = self[key] = self._make(key)
        return names


class BlockedWait:
    """A waiter blocked in Redis, whose claim Redis runs as soon as the baton, or the end of the wait, wakes it."""

    def __init__(self, store: LockStore, node: Node, connection: Connection, attempt: Attempt) -> None:
        self._store = store
        self._node = node
        self._connection = connection
        self._attempt = attempt
        # The reply to the BLPOP: the baton, or nil at the end of the wait. The reply to the claim says which it was.
        self.woken = connection.read_within
        self.open = True

    async def claimed(self) -> Answer:
        """The reply to the claim. Afterwards others may use the connection."""
        sent = self._store.now()
        try:
            reply = await self._connection.read()
        except NoScriptError:
            await self._connection.send(lock_requests.acquire(self._attempt, 0, "claim", lock_requests.EVER, full=True))
            reply = await self._connection.read()
        answer = self._store.answer(self._node, reply, sent)
        if self._store.min_replicas and isinstance(answer, Granted):
            await self._store.confirm(self._connection, self._attempt.names)
        self.open = False
        await self._connection.keep()
        return answer

    async def leave(self) -> None:
        """Close the connection, whose replies have not all been read."""
        self.open = False
        await self._connection.drop()


def _seconds(reply: Any) -> float | BaseException:
    return reply if isinstance(reply, BaseException) else float(reply) / 1000


def too_late(node: Node) -> ServerTrouble:
    """What a request is that reached the server when it was not valid any more."""
    # Slower than we waited, or what we know of its clock is not true any more: it is asked before the next request.
    node.clock.forget()
    return ServerTrouble(TimeoutError("a request reached Redis after its time"))


def _info(names: Names, reply: list[Any]) -> LockInfo | None:
    now_us, holder, left, waiters, fence = reply
    if not holder:
        return None
    by = read_holder(decode(holder))
    # The index may still know the fence of a dead holder, when other software has the lock.
    minted = int(float(fence)) if fence and by is not None and by.host else None
    return LockInfo(
        key=names.key,
        holder=by,
        # A fence is the server's clock at the grant, as long as that clock was never set back.
        held_for=None if minted is None else max(0.0, (now_us - minted) / 1e6),
        remaining=left / 1000 if left >= 0 else None,
        fence=minted,
        waiters=waiters,
    )
