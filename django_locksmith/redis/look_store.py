"""Looking at locks: one by its key, or all that are held. Changes nothing but what is known to be over."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ResponseError

from ..exceptions import LockUnavailable, ServerTrouble
from ..records import LockInfo
from ..tokens import looks_like_a_token, read_holder
from .key_names import ANY_SLOTS, decode, encode, glob_escape, is_lock, not_a_lock
from .lua import FORGET, LOOK, LOOK_ALONE
from .packing import pack, request
from .store import Store
from .transport import is_moving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from .key_names import Names
    from .node import Node

logger = logging.getLogger("django_locksmith.redis")

_PAGE = 500
_SAMPLE = 64
"""Entries of the index that are looked at together."""
_FEW = 0.25
"""The share of them that may be over: with more, the next ones are looked at, too."""
_LARGEST_FENCE = 2**53
_MOST = 10**9
"""More than any number of slots, less than any time in ms: stands in slots_kept.lua and slots.lua, too."""
_LAST_TIME = 10**14
"""More than any time in ms, less than any fence: stands in slots.lua, too."""


class LookStore(Store):
    """What there is to see of the locks of one prefix."""

    async def look(self, names: Names) -> list[LockInfo]:
        """Who has one lock now. `LockUnavailable` where its key holds something else."""
        names = names.with_slots(ANY_SLOTS)
        try:
            reply = await self.run(LOOK, names)
        except ServerTrouble as trouble:
            if not is_moving(trouble.error):
                raise
            reply = await self.run(LOOK_ALONE, names)
        return _infos(names, reply)

    async def keys(self) -> list[str]:
        """The keys of all locks that may be held: what the index says, or, in a cluster, what a scan finds."""
        prefix = self.prefix
        index, pattern = self.names("").index, encode(glob_escape(prefix)) + b"*"
        found = await self.names_in(index, pattern, b"string")
        if self.transport.deployment.cluster:
            found |= await self.names_in(index, pattern, b"zset")
        # One without a name is the last fence.
        return [decode(name)[len(prefix) :] for name in found if name and is_lock(prefix, name)]

    async def names_in(self, index: bytes, pattern: bytes, kind: bytes) -> set[bytes | str]:
        """What stands in this index; in a cluster, which has none, the keys of this kind that match the pattern."""
        found: set[bytes | str] = set()
        if self.transport.deployment.cluster:
            for node in self.transport.nodes():
                async for page in self._pages(node, b"SCAN", (), b"MATCH", pattern, b"TYPE", kind):
                    found.update(page)
        else:
            async for page in self._pages(self.transport.node_for(index), b"ZSCAN", (index,)):
                found.update(page[::2])  # every other one is a score
        return found

    async def _pages(
        self, node: Node, command: bytes, key: tuple[bytes, ...], *rest: bytes
    ) -> AsyncIterator[list[bytes | str]]:
        cursor = b"0"
        async with self.connection_to(node) as connection:
            while True:
                await connection.send(pack(command, *key, cursor, *rest, b"COUNT", b"%d" % _PAGE))
                following, page = await connection.read()
                yield page
                cursor = following if isinstance(following, bytes) else str(following).encode()
                if cursor == b"0":
                    return

    async def look_at(self, many: Sequence[Names]) -> list[LockInfo]:
        """Many locks as they are now; those that nobody has are left out, and what turns out to be no lock."""
        found: list[LockInfo] = []
        no_locks: list[LockUnavailable] = []
        prefixed = self.prefix != ""
        groups: dict[Node, list[Names]] = {}
        for names in many:
            groups.setdefault(self.transport.node_for(names.lock), []).append(names.with_slots(ANY_SLOTS))
        for node, group in groups.items():
            async with self.connection_to(node) as connection:
                for start in range(0, len(group), _PAGE):
                    page = group[start : start + _PAGE]
                    await connection.send(b"".join(request(LOOK, names) for names in page))
                    for names in page:
                        try:
                            try:
                                reply = await connection.read()
                            except NoScriptError:
                                reply = await self.run(LOOK, names)
                            infos = _infos(names, reply)
                        except LockUnavailable as trouble:
                            if not (trouble.__cause__ is None or isinstance(trouble.__cause__, ResponseError)):
                                raise
                            no_locks.append(trouble)
                            continue
                        # Without a prefix, what we have not granted is anybody's. Slots are nobody else's.
                        if prefixed or isinstance(reply[1], list) or reply[-1]:
                            found += infos
        if no_locks:
            logger.info("%d keys hold no lock, and are not listed; one of them: %s", len(no_locks), no_locks[0])
        return found

    async def sweep(self, prefix: str) -> None:
        """Forget the locks whose leases have ended by themselves, until few of those that are known are over.

        For a deployment whose locks share an index. It looks at some by chance, as Redis does to find expired keys: so
        the index stays about as small as the number of locks that are held.
        """
        # The prefix of whoever asked for it: whose it would be now, and here in the background, is another question.
        index = self._make_names(prefix, "").index
        while True:
            sample = await self.transport.call(index, pack(b"ZRANDMEMBER", index, b"%d" % _SAMPLE))
            names = [encode(name) if isinstance(name, str) else name for name in sample if name]
            foreign = [name for name in names if not is_lock(prefix, name)]
            ours = [name for name in names if name not in foreign]
            if foreign:
                await self.transport.call(index, pack(b"ZREM", index, *foreign))
            if not ours:
                return
            request = pack(b"EVAL", FORGET.text, b"%d" % (len(ours) + 1), index, *ours)
            if await self.transport.call(index, request) < _FEW * len(ours):
                return


def _infos(names: Names, reply: list[Any]) -> list[LockInfo]:
    if isinstance(reply[1], list):
        return _infos_of_slots(names, *reply)
    now_us, holder, left, waiters, fence = reply
    if left == -2:  # there is no such key
        return []
    token = decode(holder)
    if not (fence or looks_like_a_token(token)):
        raise LockUnavailable(not_a_lock(names.lock, f"its {len(holder)} bytes are no token"))
    by = read_holder(token)
    # The index may still know the fence of a dead holder, when other software has the lock.
    minted = _fence(fence) if by is not None and by.host else None
    return [
        LockInfo(
            key=names.key,
            holder=by,
            held_for=_age(minted, now_us),
            remaining=left / 1000 if left >= 0 else None,
            fence=minted,
            waiters=waiters,
        )
    ]


def _infos_of_slots(names: Names, now_us: int, members: list[Any], waiters: int) -> list[LockInfo]:
    """Each holder, what ends first before the others; then those on their way from one to the next."""
    now = now_us // 1000
    scores = {decode(member): float(score) for member, score in zip(members[::2], members[1::2], strict=True)}
    listed, number = next((name, score) for name, score in scores.items() if 1 <= score <= _MOST)
    slots = _read_names(listed)
    found = []
    for token, ends in scores.items():
        if now + 1 <= abs(ends) < _LAST_TIME:  # not what says how many there are, nor what has ended
            fence = _fence(scores.get(f"@{token}")) if ends > 0 else None
            slot = int(ends % 1 * 1024) if ends > 0 else 0
            info = LockInfo(
                key=names.key,
                holder=read_holder(token) if ends > 0 else None,
                held_for=_age(fence, now_us),
                remaining=(int(abs(ends)) - now - 1) / 1000,  # whole ms
                fence=fence,
                waiters=waiters,
                slots=int(number),
                slot=slots[slot - 1] if 0 < slot <= len(slots) else "",
            )
            found.append(info)
    found.sort(key=lambda info: (info.holder is None, info.remaining))
    return [replace(info, taken=len(found)) for info in found]


def _read_names(member: str) -> list[str]:
    try:
        names = json.loads(member)
    except (ValueError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _age(fence: int | None, now_us: int) -> float | None:
    # A fence is the server's clock at the grant, as long as that clock was never set back.
    return None if fence is None else max(0.0, (now_us - fence) / 1e6)


def _fence(score: bytes | str | float | None) -> int | None:
    fence = float(score or 0)
    return int(fence) if 0 < fence < _LARGEST_FENCE else None
