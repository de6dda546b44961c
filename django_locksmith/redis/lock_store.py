"""The lock's requests and replies: key names and Lua below, plain messages above. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import NoScriptError, ResponseError

from ..exceptions import LockUnavailable, ServerTrouble, SlotsDiffer
from ..tokens import looks_like_a_token
from . import lock_requests
from .key_names import decode
from .look_store import LookStore
from .messages import Answer, Busy, Granted, Mode, NoReply, Refused
from .node import TIME
from .packing import bulk, head, pack, request
from .transport import is_moving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .key_names import Names
    from .messages import Attempt, Holding
    from .node import Node
    from .transport import Connection, Transport

_REPLICAS_WITHIN = 1.0
"""Seconds that the replicas have to confirm a grant."""
TOO_LATE = -2
_OTHER_SLOTS = -3
LONGEST_BLOCK = 10.0**8
"""Seconds; three years are without limit, and Redis takes no more than some 300,000 of them."""
_KEEP_INDEX_MS = 600_000
"""Stands in acquire_free.lua, too."""
_SWEEP_EVERY = 1024
"""Of so many grants, one has the locks looked for that are over."""
_SWEEP_WITHIN = 60.0
"""Seconds; what cannot be asked by then is left to the next time."""
MOST_WAITING = 500
"""Connections of one process or event loop that wait in Redis at one time."""


GivesBack = Callable[["LockStore"], Coroutine[Any, Any, Any]]
"""What gives back what is not needed any more."""


class LockStore(LookStore):
    """The locks of one prefix on one deployment, over the transport of one process or event loop."""

    def __init__(self, transport: Transport, prefix: str | Callable[[], str], min_replicas: int = 0) -> None:
        super().__init__(transport, prefix)
        self._call = transport.call
        self._call_now = transport.call_now
        self.min_replicas = min_replicas
        self.give_back_later: Callable[[GivesBack, float], None] = _leave_it
        """Go on trying, in the background and by a store for threads, for so many seconds."""
        self.waiting: set[object] = set()
        """Those who wait in Redis now, each on a connection."""
        self._sweeps = not transport.deployment.cluster

    # ---- taking and giving back

    async def acquire(self, attempt: Attempt, wait: float, mode: Mode, sent: float | None = None) -> Answer:
        """Ask for the lock; join its queue for `wait` seconds if it is busy (0: do not). `sent`: what time it is."""
        if self.min_replicas:
            return await self._acquire_with_replicas(attempt, wait, mode)
        lock = attempt.names.lock
        node = self.transport.one_node or self.transport.node_for(lock)
        if sent is None:
            sent = self.now()
        valid = node.clock.us_at(sent + node.socket_timeout)
        if valid is None:
            valid = await self.valid_until(node, lock)
            sent = self.now()
        try:
            reply = await self._call(lock, lock_requests.acquire(attempt, wait, mode, valid), attempt)
        except NoScriptError:
            await self.load(lock, attempt.names.scripts.release)  # a release may be its last word, too
            valid = await self.valid_until(node, lock)
            sent = self.now()
            reply = await self._call(lock, lock_requests.acquire(attempt, wait, mode, valid, full=True), attempt)
        return self.answer(attempt, node, reply, sent)

    def try_now(self, attempt: Attempt, sent: float) -> Answer | None:
        """As a first `acquire`, on the spot, for threads. `None`: it takes more than one request, so ask by that."""
        lock = attempt.names.lock
        node = self.transport.one_node or self.transport.node_for(lock)
        valid = node.clock.us_at(sent + node.socket_timeout)
        if valid is None or self.min_replicas:
            return None
        try:
            reply = self._call_now(lock, lock_requests.acquire(attempt, attempt.wait, "try", valid), attempt)
        except NoScriptError:
            return None
        return self.answer(attempt, node, reply, sent)

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

    def answer(self, attempt: Attempt, node: Node, reply: list[Any], sent: float) -> Answer:
        """What a reply of the script that acquires says."""
        if reply[0] < 0:
            if reply[0] == TOO_LATE:
                raise too_late(node)
            if reply[0] == _OTHER_SLOTS:
                wanted = attempt.names.slots
                raise SlotsDiffer(attempt.names.key, wanted.number if wanted else 1, float(reply[1]))
            return Refused()
        server_time = reply[1] / 1e6
        if sent >= node.clock.tells_more_at:
            node.clock.heard(sent, self.now(), server_time)
        if reply[0] == 1:
            if self._sweeps and reply[1] % _SWEEP_EVERY == 0:
                self.give_back_later(partial(LockStore.sweep, prefix=self.prefix), _SWEEP_WITHIN)
            if attempt.names.slots is not None and attempt.names.slots.listed:
                attempt.slot = attempt.names.slots.name_of(reply.pop())
            return Granted(reply[-1], sent, server_time)
        holder = decode(reply[3])
        left = reply[2] / 1000 if reply[2] >= 0 else None
        return Busy(sent, server_time, left, holder if looks_like_a_token(holder) else "")

    async def _acquire_with_replicas(self, attempt: Attempt, wait: float, mode: Mode) -> Answer:
        # WAIT speaks of the writes of its own connection.
        node = self.transport.node_for(attempt.names.lock)
        valid = await self.valid_until(node, attempt.names.lock)
        async with self.connection_to(node) as connection:
            attempt.sent = True
            sent = self.now()
            await connection.send(lock_requests.acquire(attempt, wait, mode, valid))
            try:
                reply = await connection.read()
            except NoScriptError:
                await connection.send(lock_requests.acquire(attempt, wait, mode, valid, full=True))
                reply = await connection.read()
            answer = self.answer(attempt, node, reply, sent)
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

    async def block_for_baton(self, attempt: Attempt, wait: float) -> BlockedWait | None:
        """Block on the baton for all of `wait` (seconds), with the claim already behind it.

        `None`: so many wait already that there is no connection for one more.
        """
        place = self.place_to_wait()
        if place is None:
            return None
        try:
            node = self.transport.node_for(attempt.names.lock)
            wait = min(wait, node.longest_block)
            connection = await self.transport.connection_to(node)
        except BaseException:
            self.waiting.discard(place)
            raise
        try:
            seconds = b"0" if wait > LONGEST_BLOCK else b"%.3f" % max(wait, 0.001)
            # The claim needs no time of its own: the queue says for how long its sender is waited for.
            await connection.send(
                pack(b"BLPOP", attempt.names.baton, seconds)
                + lock_requests.acquire(attempt, 0, "claim", lock_requests.EVER)
            )
        except BaseException:
            self.waiting.discard(place)
            await connection.drop()
            raise
        return BlockedWait(self, node, connection, attempt, place)

    def place_to_wait(self) -> object | None:
        """A place among those who may wait in Redis; `None` if all are taken. It is left by `waiting.discard`."""
        place = object()
        self.waiting.add(place)  # first, for others do so at the same time
        if len(self.waiting) <= MOST_WAITING:
            return place
        self.waiting.discard(place)
        return None

    async def release(self, attempt: Attempt) -> bool:
        """Give the lock back; `False` if it was not held with this token. Harmless if repeated."""
        names = attempt.names
        token = attempt.packed or bulk(attempt.token)
        try:
            return bool(await self._call(names.lock, head(names.scripts.release, names) + token))
        except NoScriptError:
            return bool(await self.run(names.scripts.release, names, attempt.token))
        except ServerTrouble as trouble:
            if not is_moving(trouble.error):
                raise
            return bool(await self.run(names.scripts.release_alone, names, attempt.token))

    def release_now(self, attempt: Attempt) -> bool | None:
        """As `release`, on the spot, for threads. `None`: it takes more than one request, so do it by that."""
        names = attempt.names
        try:
            token = attempt.packed or bulk(attempt.token)
            return bool(self._call_now(names.lock, head(names.scripts.release, names) + token))
        except NoScriptError:
            return None

    def abandon_later(self, attempt: Attempt) -> None:
        """As `abandon`, in the background, until its lease has ended."""
        self.give_back_later(lambda store: store.abandon(attempt), attempt.lease)

    async def abandon(self, attempt: Attempt) -> None:
        """Leave no trace of a token, whatever became of it: give the lock back, leave the queue, pass the baton on."""
        await self.run(attempt.names.scripts.abandon, attempt.names, attempt.token, b"1")

    async def extend(self, attempt: Attempt, ms: int, mode: Literal["add", "set"]) -> tuple[float, float]:
        """Change the lease; when this was asked, and how many seconds are left from then (0: the lock is lost)."""
        names = attempt.names
        node = self.transport.node_for(names.lock)
        valid = await self.valid_until(node, names.lock)
        sent = self.now()
        left = await self.run(names.scripts.extend, names, attempt.token, b"%d" % ms, b"%d" % valid, mode.encode())
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

        def renewal(each: Holding, ms: int, *, full: bool = False) -> bytes:
            arguments = each.token, b"%d" % ms, b"%d" % valid, b"renew"
            return request(each.names.scripts.extend, each.names, *arguments, full=full)

        requests = [renewal(*lease) for lease in leases]
        companions = {key: ms for each, ms in leases for key in each.names.companions}
        requests += [pack(b"PEXPIRE", key, b"%d" % (ms + _KEEP_INDEX_MS)) for key, ms in companions.items()]
        try:
            left = await self._replies(node, requests)
        except NoScriptError:
            firsts = {each.names.scripts.extend: at for at, (each, _) in reversed([*enumerate(leases)])}
            for at in firsts.values():
                requests[at] = renewal(*leases[at], full=True)  # from then on it is known
            left = await self._replies(node, requests)
        return sent, [too_late(node) if each == TOO_LATE else _seconds(each) for each in left[: len(leases)]]

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


class BlockedWait:
    """A waiter blocked in Redis, whose claim Redis runs as soon as the baton, or the end of the wait, wakes it."""

    def __init__(self, store: LockStore, node: Node, connection: Connection, attempt: Attempt, place: object) -> None:
        self._store = store
        self._node = node
        self._connection = connection
        self._attempt = attempt
        self._place = place
        # The reply to the BLPOP: the baton, or nil at the end of the wait. The reply to the claim says which it was.
        self.woken = connection.read_within
        self.open = True

    async def claimed(self) -> Answer:
        """The reply to the claim. Afterwards others may use the connection."""
        self._store.waiting.discard(self._place)
        sent = self._store.now()
        try:
            reply = await self._connection.read()
        except NoScriptError:
            await self._connection.send(lock_requests.acquire(self._attempt, 0, "claim", lock_requests.EVER, full=True))
            reply = await self._connection.read()
        answer = self._store.answer(self._attempt, self._node, reply, sent)
        if self._store.min_replicas and isinstance(answer, Granted):
            await self._store.confirm(self._connection, self._attempt.names)
        self.open = False
        await self._connection.keep()
        return answer

    async def leave(self) -> None:
        """Close the connection, whose replies have not all been read."""
        self.open = False
        self._store.waiting.discard(self._place)
        await self._connection.drop()


def _leave_it(work: GivesBack, seconds: float) -> None:
    """It ends with its lease."""


def _seconds(reply: Any) -> float | BaseException:
    return reply if isinstance(reply, BaseException) else float(reply) / 1000


def too_late(node: Node) -> ServerTrouble:
    """What a request is that reached the server when it was not valid any more."""
    # Slower than we waited, or what we know of its clock is not true any more: it is asked before the next request.
    node.clock.forget()
    return ServerTrouble(TimeoutError("a request reached Redis after its time"))
