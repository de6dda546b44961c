"""The requests and replies of rate limits: key names and Lua below, plain messages above. Decides nothing."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import NoScriptError

from ..records import RateInfo, WindowInfo
from .key_names import decode, encode, index_of_rates, names_of_rate, rate_of_state, states_of_rates
from .listening import listen
from .lock_requests import EVER
from .lock_store import TOO_LATE, too_late
from .lua import BOOK, LOOK_RATE, PASS_TIME, PLACE, RESCHEDULE, UNBOOK
from .packing import request

if TYPE_CHECKING:
    from ..rates import Rate
    from .key_names import RateNames
    from .listening import Listener
    from .lock_store import LockStore
    from .lua import Script
    from .transport import Undo

_WITHOUT_LIMIT = b"-1"


class Place(NamedTuple):
    """A place in the schedule, `left` seconds after the reply came. `number` 0: it is not ours.

    `at`: when it comes, by the server's clock.
    """

    received: float
    left: float
    at: float
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

    async def book(self, names: RateNames, rate: Rate, cost: int, wait: float | None, by: bytes) -> Place:
        """Book the next place, if it is no further away than `wait` seconds (`None`: however far that is).

        `by`: a token, so that asked once more it books no second place.
        """
        wanted = _WITHOUT_LIMIT if wait is None else b"%d" % int(min(wait, 1e9) * 1e6)
        arguments = b"%d" % cost, wanted, by, *_arguments(rate)
        reply = await self._run(BOOK, names, *arguments, undo=_UndoBooking(names, cost, by))
        booked, now, place, *more = reply
        number, moved = more if booked else (0, 0)
        return Place(self.now(), max(0, place - now) / 1e6, max(place, now) / 1e6, number, moved)

    async def place(self, names: RateNames, number: int) -> tuple[float, float | None]:
        """How far away the place of this number is now, and when it comes by the server's clock.

        In seconds; less than 0 if it has come. 0 and `None` if it is forgotten.
        """
        now, place = await self._store.run(PLACE, names, b"%d" % number)
        return ((place - now) / 1e6, place / 1e6) if place else (0.0, None)

    async def unbook(self, names: RateNames, number: int, cost: int, by: bytes) -> None:
        """Give a place back, if it is the last. Not to be repeated: another one may have its number by then.

        `number` 0: whoever booked it was interrupted before he heard of it, if it was booked at all.
        """
        await self._run(UNBOOK, names, b"%d" % number, b"%d" % cost, by)

    async def listen(self, names: RateNames, since: int, seconds: float) -> Listener[int]:
        """Block, on a connection of our own, until places were moved; the number of these news. `ServerTrouble`."""
        return await listen(self._store, names.lock, (names.news, b"%d-0" % since), seconds, _number_of_news)

    async def reschedule(self, names: RateNames, rate: Rate, pause: float, counted: int = 0, age: float = 0.0) -> float:
        """No place for `pause` seconds; and the API has `counted` calls in the window that began `age` seconds ago.

        The seconds until there is a place.
        """
        says = b"%d" % int(pause * 1e6), b"%d" % counted, b"%d" % int(max(0.0, age) * 1e6)
        return float(await self._run(RESCHEDULE, names, *says, *_arguments(rate))) / 1e6

    async def pass_time(self, names: RateNames, seconds: float) -> int:
        """For tests: its schedule is so many seconds further on. The number of the news, 0 = there is no such limit."""
        moved: int = await self._store.run(PASS_TIME, names, b"%d" % ceil(seconds * 1e6))
        return moved

    async def look(self, names: RateNames) -> RateInfo | None:
        """One as it is now, or `None` if nobody has used it of late."""
        reply = await self._store.run(LOOK_RATE, names)
        if not reply:
            return None
        now, pause, rate, kept, last, waiting, following, *used = reply
        windows = [each.split("/") for each in decode(kept).split(" ")]
        return RateInfo(
            name=names.key,
            rate=decode(rate),
            windows=tuple(
                WindowInfo(int(calls), int(us) / 1e6, many) for (calls, us), many in zip(windows, used, strict=True)
            ),
            waiting=waiting,
            last_place_in=max(0, last - now) / 1e6,
            next_place_in=max(0, following - now) / 1e6,
            paused_for=max(0, pause - now) / 1e6,
        )

    async def all_names(self) -> list[str]:
        """Those of all limits that have been used of late: what the index says, or, in a cluster, what a scan finds."""
        prefix = self._store.prefix
        found = await self._store.names_in(index_of_rates(prefix), states_of_rates(prefix), b"hash")
        names = (rate_of_state(prefix, state) for state in found)
        return sorted(name for name in names if name is not None)

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


def _arguments(rate: Rate) -> list[bytes]:
    windows = [b"%d" % number for calls, seconds in rate.windows for number in (calls, round(seconds * 1e6))]
    return [encode(rate.text), *windows]
