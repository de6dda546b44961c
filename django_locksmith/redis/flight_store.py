"""The flights' requests and replies: key names and Lua below, plain messages above. Decides nothing."""

from __future__ import annotations

import json
import re
from math import ceil
from typing import TYPE_CHECKING, Any, get_args

from redis.exceptions import NoScriptError

from ..exceptions import LockUnavailable
from ..tokens import looks_like_a_token
from .key_names import decode, names_of_flight
from .listening import listen
from .lock_store import TOO_LATE, too_late
from .lua import JOIN, LAND, LANDING, VOID
from .messages import Follows, Leads, News, NewsOf, Paused, Permission
from .packing import request

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from .key_names import FlightNames
    from .listening import Listener
    from .lock_store import LockStore


_SECONDS = re.compile(r"\d{1,10}(\.\d{1,9})?")
_KIND = re.compile(r"[\w.<>]*")


class FlightStore:
    """The flights of one prefix, over the transport of one process or event loop."""

    def __init__(self, store: LockStore) -> None:
        self._store = store
        self._transport = store.transport
        self.now = store.now
        self.sleep = store.sleep
        self.shielded = store.shielded

    def names(self, key: str) -> FlightNames:
        """The keys of a flight. Raises `ValueError` where the prefix does not fit a cluster."""
        return names_of_flight(self._store.prefix, key, in_cluster=self._transport.deployment.cluster)

    async def join(self, names: FlightNames, token: bytes, lease: float) -> Leads | Follows | Paused:
        """Lead the flight, or hear who does, or why nobody may."""
        node = self._transport.node_for(names.lock)
        valid = await self._store.valid_until(node, names.lock)
        arguments = (token, b"%d" % int(lease * 1000), b"%d" % valid)
        undo = _UndoJoin(names, token)
        sent = self.now()
        try:
            reply = await self._transport.call(names.lock, request(JOIN, names, *arguments), undo)
        except NoScriptError:
            for later in (LANDING, LAND):  # they may be its last words
                await self._store.load(names.lock, later)
            sent = self.now()
            reply = await self._transport.call(names.lock, request(JOIN, names, *arguments, full=True), undo)
        if reply[0] == TOO_LATE:
            raise too_late(node)
        if reply[0] == 1:
            return Leads(sent)
        if reply[0] == 2:
            return Paused(reply[1] / 1000, _pause(names, reply[2]))
        leader = decode(reply[2]).removeprefix("landing:")
        return Follows(sent, reply[1] / 1000, leader if looks_like_a_token(leader) else "", _bytes(reply[3]))

    def give_back_later(self, names: FlightNames, token: bytes, lease: float) -> None:
        """We may lead it, or lead it and cannot say so: whoever works in the background ends it."""

        def void(store: LockStore) -> Coroutine[Any, Any, Any]:
            return FlightStore(store).land(names, token, News("void"))

        self._store.give_back_later(void, lease)

    async def landing(self, names: FlightNames, token: bytes) -> Permission:
        """About to store the value: is the flight still ours, and is the value to live?"""
        return Permission(await self._store.run(LANDING, names, token))

    async def land(self, names: FlightNames, token: bytes, news: News, pause: float = 0.0) -> bool:
        """End the flight, and tell all who wait how; `False` if it was not ours any more. Harmless if repeated.

        `pause`: seconds during which nobody may lead.
        """
        # Redis counts from the beginning of the millisecond in which it is asked: one more, or it would end too soon.
        ms = ceil(pause * 1000) + 1 if pause > 0 else 0
        arguments = (token, news.what.encode(), _text(news.kind), _text(news.message), b"%d" % ms)
        return bool(await self._store.run(LAND, names, *arguments))

    async def void(self, names: FlightNames, landing: bool, settle: float = 0.0) -> bytes | None:
        """Have a flight bring back nothing. If it is landing, and not to be stopped, the last news before that.

        `settle`: seconds during which values are not to live for long.
        """
        reply = await self._store.run(VOID, names, b"1" if landing else b"0", b"%d" % ceil(settle * 1000))
        return _bytes(reply[1]) if reply[0] else None

    async def listen(self, names: FlightNames, since: bytes, seconds: float) -> Listener[News]:
        """Block, on a connection of our own, until there are news after `since`."""
        return await listen(self._store, names.lock, (names.news, since), seconds, _news_or_void)


class _UndoJoin:
    """Ends a flight of ours, or nothing."""

    def __init__(self, names: FlightNames, token: bytes) -> None:
        self._names = names
        self._token = token
        self.sent = False

    def undo(self) -> bytes:
        """With its text: nobody may be left to read that the script was not known."""
        return request(LAND, self._names, self._token, b"void", b"", b"", b"0", full=True)


def _news_or_void(_: Any, fields: Sequence[bytes | str]) -> News:
    # What nobody of us can have said is as good as no result: whoever waits looks again.
    return _news(*map(decode, fields[1::2])) or News("void")


def _pause(names: FlightNames, kept: bytes | str) -> News:
    """Why nobody may lead. Raises `LockUnavailable` where nobody of us can have said that."""
    try:
        said = json.loads(decode(kept))
        news = _news(*said) if isinstance(said, list) else None
    except (ValueError, RecursionError):
        news = None
    if news is None or news.what not in ("failed", "later"):
        raise LockUnavailable(
            f"what the key {decode(names.pause)!r} holds is no pause of a flight: delete it, or it ends by itself"
        )
    return news


def _news(*said: Any) -> News | None:
    """What was said, if it is something that land.lua and void.lua say."""
    if len(said) != 3 or not all(isinstance(each, str) for each in said):
        return None
    what, kind, message = said
    if what not in get_args(NewsOf) or not _KIND.fullmatch(kind):
        return None
    if what == "later" and not _SECONDS.fullmatch(message):
        return None
    return News(what, kind, message)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _bytes(name: bytes | str) -> bytes:
    return name if isinstance(name, bytes) else name.encode()
