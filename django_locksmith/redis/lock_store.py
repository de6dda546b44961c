"""The lock's requests and replies: key names and Lua below, plain messages above. Decides nothing."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import lru_cache, partial
from math import ceil, inf
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import NoScriptError

from ..exceptions import LockUnavailable
from ..records import LockInfo
from ..tokens import read_holder
from .key_names import decode, encode, glob_escape, is_lock, names_in_cluster, names_on_one_server
from .lua import ABANDON, ACQUIRE, EXTEND, LOOK, RELEASE, TRY
from .messages import Answer, Busy, Granted, Mode, Refused
from .packing import bulk, head, pack, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from .connections import Node
    from .key_names import Keyring, Names
    from .lua import Script
    from .messages import Attempt, Holding
    from .transport import Connection, Transport

LONG_WAIT = 10.0
"""As much as a script wants to know of a wait: for so long a waiter counts as alive; a live one is heard of before."""
_REPLICAS_WITHIN = 1.0
"""Seconds that the replicas have to confirm a grant."""
_PAGE = 500
_MANY = 1024


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
        # The keys in Redis of a lock, by its key.
        make_names = names_in_cluster if transport.deployment.cluster else names_on_one_server
        self.names = _NamesCache(partial(make_names, prefix)).__getitem__

    # ---- taking and giving back

    async def acquire(self, attempt: Attempt, wait: float, mode: Mode) -> Answer:
        """Ask for the lock; join its queue for `wait` seconds if it is busy (0: do not)."""
        if self.min_replicas:
            return await self._acquire_with_replicas(attempt, wait, mode)
        lock = attempt.names.lock
        sent = self.now()
        # The undo is sent with its text: nobody may be left to read that the script was not known.
        undo = partial(_undo, attempt)
        try:
            reply = await self._call(lock, _acquire(attempt, wait, mode), undo)
        except NoScriptError:
            await self._call(lock, pack(b"SCRIPT", b"LOAD", RELEASE.text))  # a release may be its last word, too
            sent = self.now()
            reply = await self._call(lock, _acquire(attempt, wait, mode, full=True), undo)
        return Granted(reply[-1], sent, reply[1] / 1e6) if reply[0] == 1 else _other_answer(reply, sent)

    async def _acquire_with_replicas(self, attempt: Attempt, wait: float, mode: Mode) -> Answer:
        # WAIT speaks of the writes of its own connection.
        async with self._connection_to(self.transport.node_for(attempt.names.lock)) as connection:
            sent = self.now()
            await connection.send(_acquire(attempt, wait, mode))
            try:
                reply = await connection.read()
            except NoScriptError:
                await connection.send(_acquire(attempt, wait, mode, full=True))
                reply = await connection.read()
            answer = _answer(reply, sent)
            if isinstance(answer, Granted):
                await self.confirm(connection, attempt.names)
            return answer

    async def confirm(self, connection: Connection, names: Names) -> None:
        """See that enough replicas have the grant that came over this connection."""
        await connection.send(pack(b"WAIT", b"%d" % self.min_replicas, b"%d" % int(_REPLICAS_WITHIN * 1000)))
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
            seconds = b"0" if wait == inf else b"%.3f" % max(wait, 0.001)
            await connection.send(pack(b"BLPOP", attempt.names.baton, seconds) + _acquire(attempt, 0, "claim"))
        except BaseException:
            await connection.drop()
            raise
        return BlockedWait(self, connection, attempt)

    async def release(self, attempt: Attempt) -> bool:
        """Give the lock back; `False` if it was not held with this token. Harmless if repeated."""
        names = attempt.names
        token = attempt.packed or bulk(attempt.token)
        try:
            return bool(await self._call(names.lock, head(RELEASE, names) + token))
        except NoScriptError:
            return bool(await self.run(RELEASE, names, attempt.token))

    async def abandon(self, attempt: Attempt) -> None:
        """Leave no trace of a token, whatever became of it: give the lock back, leave the queue, pass the baton on."""
        await self.run(ABANDON, attempt.names, attempt.token, b"1")

    async def extend(self, attempt: Attempt, ms: int, mode: Literal["add", "set"]) -> tuple[float, float]:
        """Change the lease; when this was asked, and how many seconds are left from then (0: the lock is lost)."""
        sent = self.now()
        left = await self.run(EXTEND, attempt.names, attempt.token, b"%d" % ms, mode.encode())
        return sent, left / 1000

    async def renew(self, connection: Connection, leases: Sequence[tuple[Holding, int]]) -> tuple[float, list[float]]:
        """Renew many leases of one server in one exchange; when this was asked, and the seconds left of each."""
        sent = self.now()
        await connection.send(
            b"".join(request(EXTEND, attempt.names, attempt.token, b"%d" % ms, b"renew") for attempt, ms in leases)
        )
        left = []
        unknown = False
        for _ in leases:
            try:
                left.append(await connection.read() / 1000)
            except NoScriptError:  # noqa: PERF203  # each reply must be read, whatever the others are
                unknown = True
        if unknown:
            await connection.send(pack(b"SCRIPT", b"LOAD", EXTEND.text))
            await connection.read()
            return await self.renew(connection, leases)
        return sent, left

    # ---- looking in

    async def look(self, names: Names) -> LockInfo | None:
        """One lock as it is now, or `None` if nobody has it."""
        return _info(names, await self.run(LOOK, names))

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

    def __init__(self, store: LockStore, connection: Connection, attempt: Attempt) -> None:
        self._store = store
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
            await self._connection.send(_acquire(self._attempt, 0, "claim", full=True))
            reply = await self._connection.read()
        answer = _answer(reply, sent)
        if self._store.min_replicas and isinstance(answer, Granted):
            await self._store.confirm(self._connection, self._attempt.names)
        self.open = False
        await self._connection.keep()
        return answer

    async def leave(self) -> None:
        """Close the connection, whose replies have not all been read."""
        self.open = False
        await self._connection.drop()


def _answer(reply: list[Any], sent: float) -> Answer:
    return Granted(reply[-1], sent, reply[1] / 1e6) if reply[0] == 1 else _other_answer(reply, sent)


def _other_answer(reply: list[Any], sent: float) -> Answer:
    if reply[0] == 0:
        left = reply[2] / 1000 if reply[2] >= 0 else None
        return Busy(sent, reply[1] / 1e6, left, decode(reply[3]))
    return Refused()


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


# ---- requests


@lru_cache(maxsize=256)
def _lease_ms(seconds: float) -> bytes:
    return bulk(b"%d" % int(seconds * 1000))


_LONG_WAIT_MS = bulk(b"%d" % (LONG_WAIT * 1000))
_MODES: dict[Mode, bytes] = {mode: bulk(mode.encode()) for mode in ("try", "again", "claim", "probe")}


def _acquire(attempt: Attempt, wait: float, mode: Mode, *, full: bool = False) -> bytes:
    attempt.packed = token = bulk(attempt.token)
    if mode == "try" and wait >= LONG_WAIT:
        return head(TRY, attempt.names, full) + token + _lease_ms(attempt.lease)
    wait_ms = _LONG_WAIT_MS if wait >= LONG_WAIT else bulk(b"%d" % ceil(wait * 1000))
    return b"".join((head(ACQUIRE, attempt.names, full), token, _lease_ms(attempt.lease), wait_ms, _MODES[mode]))


def _undo(attempt: Attempt) -> bytes:
    return request(ABANDON, attempt.names, attempt.token, b"1", full=True)
