"""What is played on the page, and in the demo: a crowd, a way to the forecast, an API with a limit."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from django.urls import reverse
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from django_locksmith import LocksmithError, locksmith

from . import forecasts
from .crowd import Crowd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .surroundings import Api

MANY = 300
"""Cities of which each has visitors of its own."""
FACES = {"sync": "forecast", "async": "aforecast"}
"""The two views that a crowd can visit."""


@dataclass(frozen=True)
class Scene:
    """`over_limit`: the forecast in the cache is old, and somebody else has just used up the API's limit.

    `cities`: so many forecasts are wanted, each by somebody else; 1 = all want the same.
    """

    way: str
    city: str
    over_limit: bool = False
    cities: int = 1

    def names(self) -> list[str]:
        return [self.city] if self.cities == 1 else [f"{self.city} {number}" for number in range(1, self.cities + 1)]

    def paths(self, face: str) -> list[str]:
        return [reverse(FACES[face], args=[name]) + f"?way={self.way}" for name in self.names()]


# Each has a city of its own, so that none finds what another one left in the cache.
SCENES = {
    "unlocked": Scene("unlocked", "Lisbon"),
    "cache-lock": Scene("cache-lock", "Oslo"),
    "get-or-set": Scene("get-or-set", "Reykjavik"),
    "over-limit-cache-lock": Scene("cache-lock", "Turku", over_limit=True),
    "over-limit": Scene("get-or-set", "Bergen", over_limit=True),
    "many-unlocked": Scene("unlocked", "Village", cities=MANY),
    "many-get-or-set": Scene("get-or-set", "Harbour", cities=MANY),
    "many-rate-limit": Scene("rate-limit", "Valley", cities=MANY),
}


class RunIsOn(Exception):
    """There is one API, so one crowd at a time."""


class Run:
    """One scene, as it is played by a thread of its own."""

    def __init__(self, name: str, face: str, api: Api, crowd: Crowd) -> None:
        self.name = name
        self.face = face
        self.running = True
        self.trouble = ""
        self._scene = SCENES[name]
        self._api = api
        self._crowd = crowd
        self._phase = "waiting for the curtain"
        self._log: dict[str, Any] = {"calls": []}
        self._commands = 0
        self._rate = 0

    def play(self) -> None:
        """The whole scene."""
        try:
            self._prepare()
            self._phase = "visitors come"
            before = commands_so_far()
            self._crowd.come()
            self._commands = commands_so_far() - before - 1  # but for the question itself
            self._log = self._api.log()
            self._rate = self._log["rate"]
        except OSError as error:
            self.trouble = f"The weather API does not answer: {error}"
        except (LocksmithError, RedisError) as error:
            self.trouble = str(error)
        finally:
            self._phase = "done"
            self.running = False

    def _prepare(self) -> None:
        self._phase = "emptying the cache"
        self._api.reset()
        for name in self._scene.names():
            locksmith.invalidate(forecasts.cache_key(name))
        if self._scene.over_limit:
            self._phase = "letting the forecast go stale"
            old = forecasts.forecast(self._scene.city, fresh_for=1)
            time.sleep(max(0.0, old["good_until"] - time.time()) + 0.1)
            self._api.reset()
            self._api.use_up()

    def picture(self) -> dict[str, Any]:
        """All that the page draws. Times in seconds since the crowd came."""
        if self.running:
            self._log = self._api.log()
            self._rate = self._log["rate"]
        zero = self._crowd.arrived or time.monotonic()
        return {
            "scene": self.name,
            "face": self.face,
            "path": self._scene.paths(self.face)[0],
            "cities": self._scene.cities,
            "rate": self._rate,
            "running": self.running,
            "phase": self._phase,
            "trouble": self.trouble,
            "now": time.monotonic() - zero,
            "over": self._crowd.over,
            "calls": [
                {**call, "at": call["at"] - zero, "answered": _since(zero, call["answered"])}
                for call in self._log["calls"]
            ],
            "visitors": [
                {**asdict(visitor), "began": _since(zero, visitor.began), "ended": _since(zero, visitor.ended)}
                for visitor in self._crowd.visitors
            ],
            "counters": self._counters(),
        }

    def _counters(self) -> dict[str, float]:
        visitors = self._crowd.visitors
        return {
            "calls": len(self._log["calls"]),
            "refused": sum(call["retry_after"] > 0 for call in self._log["calls"]),
            "served": sum(visitor.served for visitor in visitors),
            "failed": sum(visitor.missed for visitor in visitors),
            "commands": self._commands,
            "longest_wait": round(max(visitor.longest for visitor in visitors), 3),
        }


def commands_so_far() -> int:
    """How many commands the Redis of cache and locks has run, for whomever."""
    count: int = get_redis_connection().info("stats")["total_commands_processed"]
    return count


def _since(zero: float, moment: float | None) -> float | None:
    return None if moment is None else moment - zero


class Stage:
    """Where one scene is played at a time, in this process. The page that shows it must ask the same process."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._run: Run | None = None

    def begin(self, name: str, face: str, api: Api, servers: Sequence[str], visitors: int) -> Run:
        """Play a scene in the background. Raises `RunIsOn` while another one is played."""
        scene = SCENES[name]
        with self._guard:
            if self._run and self._run.running:
                raise RunIsOn
            log = api.log()
            # So long that some come after the API's pause, too.
            over = 1.5 * log["pause"] if scene.over_limit else 0
            self._run = Run(name, face, api, Crowd(visitors, servers, scene.paths(face), over))
            Thread(target=self._run.play, daemon=True).start()
            return self._run

    def picture(self) -> dict[str, Any]:
        """How it stands; empty before the first scene."""
        return self._run.picture() if self._run else {}


stage = Stage()
