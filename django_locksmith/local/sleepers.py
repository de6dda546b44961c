"""Who sleeps until a place in a rate limit has come, in one process (or event loop): one of them listens for all.

A pause moves places that are booked already. So that not each sleeper has to ask where his is now, one listens in Redis
for the news; the others see to them as they wake. When his place comes, the one whose place is the farthest goes on
reading in his stead, on the same connection: so a pause costs one look of each, and what is not moved costs none.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .events import Event


class Line(Protocol):
    """A wait for news, in Redis, that is under way."""

    async def news_within(self, seconds: float) -> Any:
        """The number of the news, `None` if there will be none, or that neither came in these seconds."""

    async def leave(self) -> None:
        """End it."""


class Sleepers:
    """Those of one rate limit."""

    def __init__(self, event: type[Event]) -> None:
        self.event = event
        self.line: Line | None = None
        """Whoever listens has it."""
        self.read_until = 0.0
        """Monotonic seconds: what happened before has been heard of, as far as somebody listened."""
        self.heard = 0
        """The number of the last news."""
        self.sleepers: list[Sleeper] = []
        self.listener: Sleeper | None = None
        # A signal handler may come in between, and sleep, too.
        self.mutex = threading.RLock()

    def join(self, heard: int, until: float) -> Sleeper:
        """One more, until then (monotonic seconds). `heard`: the last news when the place was booked."""
        self.hear(heard)
        with self.mutex:
            mine = Sleeper(self, until)
            self.sleepers.append(mine)
            return mine

    def hear(self, number: int, *, wake: bool = False) -> None:
        """There are news of this number: each sees to them as he wakes. `wake`: now, for places may come sooner."""
        with self.mutex:
            self.heard = max(self.heard, number)
            if wake:
                for each in self.sleepers:
                    each.wake()

    def farthest(self) -> Sleeper:
        """The one whose place comes last."""
        return max(self.sleepers, key=lambda each: each.until)

    def hand_on(self) -> None:
        """Nobody listens now: it is up to the one who sleeps the longest."""
        if self.sleepers:
            self.farthest().wake()


class Sleeper:
    """One of them; `until`: when his place comes, as far as he knows."""

    def __init__(self, sleepers: Sleepers, until: float) -> None:
        self._all = sleepers
        self._heard = sleepers.heard
        self._event = sleepers.event()
        self.until = until

    def wake(self) -> None:
        """Something has happened that he is to see to."""
        self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Until something happens, or so many seconds are over."""
        await self._event.wait(seconds)
        self._event = self._all.event()  # one is for one wait; and whoever wakes him has said why before

    @property
    def has_news(self) -> bool:
        """Are there news that he has not seen to yet?"""
        return self._heard < self._all.heard

    def saw_to_it(self) -> int:
        """From here on only later news count. The number of the last ones."""
        self._heard = self._all.heard
        return self._heard

    @property
    def is_covered(self) -> bool:
        """Does somebody read the line, or did until his place came? Then what he has not heard of has not happened.

        But for what is under way to him just then; and where the connection has gone silent, for what happened since.
        """
        everybody = self._all
        return everybody.line is not None and (everybody.listener is not None or self.until <= everybody.read_until)

    def begin_to_listen(self, worth_it: float) -> bool:
        """Is it up to him to listen? If nobody does it yet, to begin it, his place is beyond `worth_it` (monotonic).

        Not alone: then there is nobody to be told, and to look once is as cheap.
        """
        everybody = self._all
        with everybody.mutex:
            pays = everybody.line or (len(everybody.sleepers) > 1 and self.until > worth_it)
            if pays and everybody.listener is None and everybody.farthest() is self:
                everybody.listener = self
            return everybody.listener is self

    def end_listening(self, *, hand_on: bool = True) -> None:
        """Leave it to the next one. `hand_on=False`: it cannot be done just now."""
        everybody = self._all
        with everybody.mutex:
            if everybody.listener is self:
                everybody.listener = None
                if hand_on:
                    everybody.hand_on()

    def leave(self) -> Line | None:
        """He sleeps no more. If he was the last, the wait that is to be ended. Harmless if repeated."""
        everybody = self._all
        with everybody.mutex:
            if self in everybody.sleepers:
                everybody.sleepers.remove(self)
            self.end_listening(hand_on=False)
            if everybody.sleepers:
                if everybody.listener is None:  # also where he was the one who had been woken for it
                    everybody.hand_on()
                return None
            line, everybody.line = everybody.line, None
            return line
