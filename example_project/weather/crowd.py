"""The crowd: visitors who make real HTTP requests, all at the same moment or one after another."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from threading import Barrier, Thread
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from . import visits

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE = 90
"""Seconds after which a visitor gives up."""

NOT_SERVED = frozenset(("refused", "failed"))

_web = build_opener(ProxyHandler({}))


@dataclass
class Visitor:
    """How one visitor fared, who asks for one forecast after the other.

    Times of the monotonic clock, which all processes of a machine share.
    """

    number: int
    server: int
    began: float | None = None
    ended: float | None = None
    source: str = ""
    """`fetched`, `waited`, `cache`, `stale`: see `Visit.source`; `refused` and `failed` got no forecast. The worst."""
    of: str = ""
    """Whose call of the API it was that got the forecast."""
    served: int = 0
    missed: int = 0
    longest: float = 0.0
    """Seconds that the slowest forecast took."""

    def visit(self, urls: Sequence[str]) -> None:
        self.began = began = time.monotonic()
        worst = ""
        for url in urls:
            source, self.of = _ask(Request(url, headers={visits.HEADER: str(self.number)}))
            now = time.monotonic()
            if source in NOT_SERVED:
                self.missed += 1
                worst = source
            else:
                self.served += 1
                self.longest = max(self.longest, now - began)
            began = now
        self.source = worst or source
        self.ended = began


class Crowd:
    """So many visitors, spread over the servers as a load balancer does it. `over`: seconds in which they come.

    Each asks for his share of the paths; where there is but one, all ask for that.
    """

    def __init__(self, size: int, servers: Sequence[str], paths: Sequence[str], over: float = 0) -> None:
        self.visitors = [Visitor(number, number % len(servers) + 1) for number in range(1, size + 1)]
        self.over = over
        self.arrived: float | None = None
        self._servers = servers
        self._paths = paths

    def come(self) -> None:
        """Let them come; returns when the last one is gone."""
        start = Barrier(len(self.visitors), action=self._note_arrival)
        threads = [Thread(target=self._send, args=(visitor, start), daemon=True) for visitor in self.visitors]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _note_arrival(self) -> None:
        self.arrived = time.monotonic()

    def _send(self, visitor: Visitor, start: Barrier) -> None:
        start.wait()
        time.sleep(self.over * (visitor.number - 1) / len(self.visitors))
        paths = self._paths[visitor.number - 1 :: len(self.visitors)] if len(self._paths) > 1 else self._paths
        visitor.visit([self._servers[visitor.server - 1] + path for path in paths])


def _ask(request: Request) -> tuple[str, str]:
    try:
        with _web.open(request, timeout=PATIENCE) as reply:
            told = reply.headers[visits.ANSWER]
    except HTTPError as error:
        with error:
            told = error.headers[visits.ANSWER]
    except OSError:
        told = None  # no answer at all
    answer = json.loads(told) if told else {}
    return answer.get("source", "failed"), answer.get("of", "")
