"""What time it is at a server, by what its replies said: a request carries until when it is valid, by that clock.

A caller who gives up after a timeout cannot take back a request that is still on its way. So that it does nothing when
it comes too late, it says itself until when it may act; and that must be no later than its caller's patience, by the
server's clock. Between a request and its reply lies the moment in which the server looked at its clock: so each reply
bounds the difference of the two clocks from both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_DRIFT = 0.0005
"""How far two clocks may part, for each second: what NTP corrects at most without setting a clock."""
_JUST_NOW = 0.1
"""Seconds in which a clock tells nothing new."""
_TOO_VAGUE = 0.5
"""Seconds for which a reply was under way that is not to be the only one to tell the time."""
_OLD = 600.0
"""Seconds after which the server is asked again rather than trusting in so little drift."""


class ServerClock:
    """The clock of one server. Seconds; local times are those of our own monotonic clock. May be shared by threads."""

    __slots__ = ("_known", "tells_more_at")

    def __init__(self) -> None:
        self._known: tuple[float, float] | None = None  # server's minus local, at the most; when this was heard
        self.tells_more_at = 0.0
        """Before this local time, a reply says nothing new."""

    def heard(self, sent: float, received: float, server_time: float) -> None:
        """A request that was sent and answered at these local times saw this time at the server."""
        known = self._known
        if known is None and received - sent > _TOO_VAGUE:
            return  # by that, what is sent now would be too late already: it is asked anew
        self._hear(known, sent, received, server_time)

    def _hear(self, known: tuple[float, float] | None, sent: float, received: float, server_time: float) -> None:
        offset = server_time - received  # the least that it can be
        if known is not None:
            before, at = known
            offset = min(max(before - (received - at) * _DRIFT, offset), server_time - sent)
        self._known = offset, received
        self.tells_more_at = received + _JUST_NOW

    def read(self, sent: float, received: float, reply: Sequence[Any]) -> None:
        """As `heard`, of the reply to the command TIME."""
        self._hear(self._known, sent, received, int(reply[0]) + int(reply[1]) / 1e6)

    def forget(self) -> None:
        """It may be another server's, or have been set."""
        self._known = None
        self.tells_more_at = 0.0

    def us_at(self, local: float) -> int | None:
        """Server's time at this local time, in µs: not later than it will be, maybe a little sooner. `None`: ask it."""
        if self._known is None:
            return None
        offset, at = self._known
        age = local - at
        return None if age > _OLD else int((local + offset - age * _DRIFT) * 1e6)
