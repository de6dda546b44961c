"""The requests and replies of rate limits: key names and Lua below, plain messages above. Decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .key_names import names_of_rate
from .lock_store import TOO_LATE, too_late
from .lua import BOOK, PLACE, RESCHEDULE, UNBOOK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .key_names import RateNames
    from .lock_store import LockStore
    from .lua import Script

    Windows = Sequence[tuple[int, float]]

_WITHOUT_LIMIT = b"-1"


class Place(NamedTuple):
    """A place in the schedule, `left` seconds after the reply came, whose time that is. `number` 0: it is not ours."""

    received: float
    left: float
    server_time: float
    number: int


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

    async def book(
        self, names: RateNames, windows: Sequence[tuple[int, float]], cost: int, wait: float | None
    ) -> Place:
        """Book the next place, if it is no further away than `wait` seconds (`None`: however far that is)."""
        wanted = _WITHOUT_LIMIT if wait is None else b"%d" % int(min(wait, 1e9) * 1e6)
        booked, now, place, *number = await self._run(BOOK, names, b"%d" % cost, wanted, *_numbers(windows))
        return Place(self.now(), max(0, place - now) / 1e6, now / 1e6, number[0] if booked else 0)

    async def place(self, names: RateNames, number: int) -> float:
        """How many seconds away the place of this number is now; 0 if it has come."""
        now, place = await self._store.run(PLACE, names, b"%d" % number)
        return float(max(0, place - now)) / 1e6

    async def unbook(self, names: RateNames, number: int, cost: int) -> None:
        """Give a place back, if it is the last. Not to be repeated: another one may have its number by then."""
        await self._run(UNBOOK, names, b"%d" % number, b"%d" % cost)

    async def reschedule(
        self, names: RateNames, windows: Windows, pause: float, counted: int = 0, age: float = 0.0
    ) -> float:
        """No place for `pause` seconds; and the API has `counted` calls in the window that began `age` seconds ago.

        The seconds until there is a place.
        """
        says = b"%d" % int(pause * 1e6), b"%d" % counted, b"%d" % int(max(0.0, age) * 1e6)
        return float(await self._run(RESCHEDULE, names, *says, *_numbers(windows))) / 1e6

    async def _run(self, script: Script, names: RateNames, *arguments: bytes) -> Any:
        node = self._store.transport.node_for(names.lock)
        valid = await self._store.valid_until(node, names.lock)
        reply = await self._store.run(script, names, b"%d" % valid, *arguments)
        if reply == TOO_LATE or reply == [TOO_LATE]:
            raise too_late(node)
        return reply


def _numbers(windows: Windows) -> list[bytes]:
    return [b"%d" % number for calls, seconds in windows for number in (calls, round(seconds * 1e6))]
