"""Child processes for the crash tests: cheap forks of one warm process, which talk by a pipe and are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import Client, Listener
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings
from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def hold(pipe: Connection[Any, Any], locksmith: Any, key: str, timeout: float) -> None:
    """Take the lock, say its fence, and keep it until killed; after being stopped and continued, say what `held` is."""
    lease = locksmith(key, timeout=timeout).acquire()
    pipe.send(lease.fence)
    while pipe.recv() == "held?":
        pipe.send(lease.held)


def hold_slot(pipe: Connection[Any, Any], locksmith: Any, key: str, timeout: float) -> None:
    """Take one of three slots, and have it renewed; say which it is, and then as `hold`."""
    lease = locksmith(key, timeout=timeout, renew=True, slots=["x", "y", "z"]).acquire()
    pipe.send(lease.slot)
    while pipe.recv() == "held?":
        pipe.send(lease.held)


def wait(pipe: Connection[Any, Any], locksmith: Any, key: str, timeout: float) -> None:
    """Wait for the lock until killed."""
    pipe.send("waiting")
    with locksmith(key, timeout=timeout):
        pipe.recv()


def compute(pipe: Connection[Any, Any], locksmith: Any, key: str, timeout: float) -> None:
    """Lead the flight of a value, and compute until killed, or until told what the value is; say what came of it."""

    def populate() -> Any:
        pipe.send("computing")
        return pipe.recv()

    pipe.send(locksmith.get_or_set(key, populate, lease=timeout))
    pipe.recv()


class Nursery:
    """The warm process that children are forked from, and the place where they report."""

    def __init__(self, url: str, **more_settings: Any) -> None:
        self._listener = Listener(("127.0.0.1", 0))
        host, port = self._listener.address[:2]
        command = [sys.executable, "-m", "tests.helpers.children", url, str(host), str(port), json.dumps(more_settings)]
        self._process = subprocess.Popen(command)
        self._orders = self._listener.accept()

    def child(self, work: str, key: str, timeout: float) -> Child:
        """A child that does this work with the lock, or the flight, of this key and lease.

        `work`: the name of a function of this module, or the dotted name of one elsewhere.
        """
        self._orders.send((work, key, timeout))
        return Child(self._listener.accept())

    def close(self) -> None:
        self._orders.close()
        self._process.wait(10)
        self._listener.close()


class Child:
    """A child process that a test started and ends."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        self.pipe = pipe
        self._pid = pipe.recv()

    def says(self, within: float = 30) -> Any:
        assert self.pipe.poll(within), "the child said nothing"
        return self.pipe.recv()

    def signal(self, number: int) -> None:
        os.kill(self._pid, number)

    def kill(self) -> None:
        """Kill it, and return when it is dead."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        with suppress(EOFError, ConnectionResetError):
            while self.pipe.poll(10):
                self.pipe.recv()
        self.pipe.close()


def main(url: str, host: str, port: str, more_settings: str) -> None:
    """Fork a child for each order, until there are no more."""
    cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url, "OPTIONS": {"SOCKET_TIMEOUT": 5}}
    settings.configure(CACHES={"default": cache}, **json.loads(more_settings))
    django.setup()
    from django_locksmith import locksmith

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    orders = Client((host, int(port)))
    with suppress(EOFError):
        while True:
            work, key, timeout = orders.recv()
            if os.fork() == 0:
                orders.close()
                pipe = Client((host, int(port)))
                pipe.send(os.getpid())
                with suppress(EOFError, ConnectionResetError):
                    here = {"hold": hold, "hold_slot": hold_slot, "wait": wait, "compute": compute}
                    (here.get(work) or import_string(work))(pipe, locksmith, key, timeout)
                os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
