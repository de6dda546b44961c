"""Real workers for the tests of queues: processes in the project of queue_project.py, and their Valkey."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery

from tests.helpers import ROOT, servers
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from tests.helpers.deployments import Deployment
    from tests.helpers.servers import Server

CELERY = (
    *("-m", "celery", "-A", "tests.helpers.queue_project", "worker", "--loglevel", "INFO"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)


class Worker:
    """A worker process, the leader of a process group of its own; what it says goes to a file."""

    def __init__(self, said: Path, *command: str, **env: str) -> None:
        self._said = said
        with said.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        return self._said.read_text()

    def has_said(self, words: str) -> None:
        """Return when it has."""
        poll(lambda: words in self.said or self.process.poll() is not None, within=60, every=0.05)
        assert words in self.said, self.said

    def ends(self) -> str:
        """What it said, when it has ended by itself and well."""
        assert self.process.wait(60) == 0, self.said
        return self.said

    def kill(self) -> None:
        """Kill it and its children, and return when all are gone: they share its connections."""
        self._signal_all(signal.SIGKILL)
        self.process.wait(10)
        poll(lambda: not self._signal_all(signal.SIGKILL), within=30)

    def _signal_all(self, number: int) -> bool:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True


class Queues:
    """A Valkey for queues and their results (the locks are elsewhere), and workers for them."""

    def __init__(self, server: Server, there: redis.Redis, app: Celery, locks: str, folder: Path) -> None:
        self.server = server
        self.there = there
        self.app = app
        self._folder = folder
        self._env = {f"LOCKSMITH_TEST_{name}": value for name, value in _where(server.url, locks, folder).items()}
        self.workers: list[Worker] = []

    def start(self, *command: str) -> Worker:
        """Start a process in the project of the queues."""
        worker = Worker(self._folder / f"said-{len(self.workers)}", *command, **self._env)
        self.workers.append(worker)
        return worker

    def celery(self, processes: int = 1) -> Worker:
        """A Celery worker, which may take a moment until it is ready."""
        return self.start(*CELERY, "--hostname", f"worker-{len(self.workers)}", "--concurrency", str(processes))

    def kill_and_replace(self, worker: Worker) -> Worker:
        """Kill a whole worker, and start another."""
        worker.kill()
        # kombu before 5.6 looks for what the dead have left behind when a worker starts, and then seldom.
        poll(lambda: self.there.zcount("unacked_index", 0, time.time() - 2.1), within=30)
        return self.celery()

    def task(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The signature of one of the project's tasks."""
        return self.app.signature(f"tests.helpers.queue_project.{name}", args, kwargs)

    def survives(self, number: str) -> None:
        """Send the task of this number; some of them are to be killed at their first run."""
        task = self.task("survives", f"key-{int(number) % 5}", doomed=int(number) % 20 == 7)
        task.apply_async(task_id=number, ignore_result=True)

    def entered(self, key: str) -> list[int]:
        """Return when a task is at work with this key: its process, and the worker's."""
        told = self.there.blpop([f"entered:{key}"], 30)
        assert told, "no task came that far"
        return json.loads(told[1])

    def kill_all(self) -> None:
        for worker in self.workers:
            worker.kill()


def _where(queues: str, locks: str, folder: Path) -> dict[str, str]:
    return {"LOCKS": locks, "QUEUES": queues, "FOLDER": str(folder)}


@contextmanager
def without_workers(locks: Deployment, folder: Path) -> Iterator[Queues]:
    with (
        servers.running(servers.valkey_binary()) as server,
        server.client(socket_timeout=None) as there,
        Celery(broker=server.url, backend=server.url, set_as_current=False) as app,
    ):
        queues = Queues(server, there, app, locks.server.url, folder)
        try:
            yield queues
        finally:
            queues.kill_all()
            gc.collect()  # a result that is collected later would ask the server that is gone
