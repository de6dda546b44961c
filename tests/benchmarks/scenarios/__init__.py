"""The scenarios by name, in the order in which they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import contended, drain, event_loop, handoff, listing, many_keys, pair, rate_limit, refresh, slots, stampede

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..figures import Result
    from ..server import Stage

SCENARIOS: Final[dict[str, Callable[[Stage], Result]]] = {
    "pair": pair.run,
    "handoff": handoff.run,
    "contended": contended.run,
    "drain": drain.run,
    "asyncio": event_loop.run,
    "listing": listing.run,
    "stampede": stampede.run,
    "refresh": refresh.run,
    "rate_limit": rate_limit.run,
    "many_keys": many_keys.run,
    "slots": slots.run,
}
