"""The requests and replies of rate limits: key names and Lua below, plain messages above. Decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import NoScriptError

from .key_names import decode, names_of_rate
from .listening import listen
from .lock_requests import EVER
from .lock_store import TOO_LATE, too_late
from .lua import BOOK, PLACE, RESCHEDULE, UNBOOK
from .packing import request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .key_names import RateNames
    from .listening import Listener
    from .lock_store import LockStore
    from .lua import Script
    from .transport import Undo

    Windows = Sequence[tuple[int, float]]

_WITHOUT_LIMIT = b"-1"


class Place(NamedTuple):
    """A place in the schedule, `left` seconds after the reply came, whose time that is. `number` 0: it is not ours."""

    received: float
    left: float
    server_time: float
    number: int
    moved: int
    """The number of the last news that places were moved."""


class RateStore:
    """The rate limits of one prefix, over the transport of one process or event loop."""

    def __init__(self, store: LockStore) -> None:
        self._store = store
        self.now = store.now
        self.sleep = store.sleep
        self.shielded = store.shielded

    def names(self, name: str) -> RateNames:
        """The keys of a rate limit. Raises `ValueError` where the prefix does not fit a cluster."""
        return names_of_rate(self._store.prefix, name, in_cluster=self._store.transport.deployment.cluster)

    async def book(self, names: RateNames, windows: Windows, cost: int, wait: float | None, by: bytes) -> Place:
        """Book the next place, if it is no further away than `wait` seconds (`None`: however far that is).

        `by`: a token, so that asked once more it books no second place.
        """
        wanted = _WITHOUT_LIMIT if wait is None else b"%d" % int(min(wait, 1e9) * 1e6)
        arguments = b"%d" % cost, wanted, by, *_numbers(windows)
        reply = await self._run(BOOK, names, *arguments, undo=_UndoBooking(names, cost, by))
        booked, now, place, *more = reply
        number, moved = more if booked else (0, 0)
        return Place(self.now(), max(0, place - now) / 1e6, now / 1e6, number, moved)

    async def place(self, names: RateNames, number: int) -> float:
        """How many seconds away the place of this number is now; 0 if it has come."""
        now, place = await self._store.run(PLACE, names, b"%d" % number)
        return float(max(0, place - now)) / 1e6

    async def unbook(self, names: RateNames, number: int, cost: int, by: bytes) -> None:
        """Give a place back, if it is the last. Not to be repeated: another one may have its number by then.

        `number` 0: whoever booked it was interrupted before he heard of it, if it was booked at all.
        """
        await self._run(UNBOOK, names, b"%d" % number, b"%d" % cost, by)

    async def listen(self, names: RateNames, since: int, seconds: float) -> Listener[int]:
        """Block, on a connection of our own, until places were moved; the number of these news. `ServerTrouble`."""
        return await listen(self._store, names.lock, (names.news, b"%d-0" % since), seconds, _number_of_news)

    async def reschedule(
        self, names: RateNames, windows: Windows, pause: float, counted: int = 0, age: float = 0.0
    ) -> float:
        """No place for `pause` seconds; and the API has `counted` calls in the window that began `age` seconds ago.

        The seconds until there is a place.
        """
        says = b"%d" % int(pause * 1e6), b"%d" % counted, b"%d" % int(max(0.0, age) * 1e6)
        return float(await self._run(RESCHEDULE, names, *says, *_numbers(windows))) / 1e6

    async def _run(self, script: Script, names: RateNames, *arguments: bytes, undo: Undo | None = None) -> Any:
        call = self._store.transport.call
        node = self._store.transport.node_for(names.lock)
        arguments = b"%d" % await self._store.valid_until(node, names.lock), *arguments
        try:
            reply = await call(names.lock, request(script, names, *arguments), undo)
        except NoScriptError:
            reply = await call(names.lock, request(script, names, *arguments, full=True), undo)
        if reply == TOO_LATE or reply == [TOO_LATE]:
            raise too_late(node)
        return reply


class _UndoBooking:
    """Gives the place back that a booker who is interrupted has not heard of yet."""

    def __init__(self, names: RateNames, cost: int, by: bytes) -> None:
        self._names = names
        self._arguments = b"%d" % EVER, b"0", b"%d" % cost, by
        self.sent = False

    def undo(self) -> bytes:
        """With its text: nobody may be left to read that the script was not known."""
        return request(UNBOOK, self._names, *self._arguments, full=True)


def _number_of_news(name: bytes | str, _: object) -> int:
    return int(decode(name).partition("-")[0])


def _numbers(windows: Windows) -> list[bytes]:
    return [b"%d" % number for calls, seconds in windows for number in (calls, round(seconds * 1e6))]
