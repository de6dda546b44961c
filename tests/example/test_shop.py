"""The shop of the example project, run for real: servers, a worker, a database file, a hundred requests at once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request
from uuid import uuid4

import pytest
from celery import Celery

from django_locksmith import Locksmith
from tests.example.test_example import EXAMPLE, PATIENCE, WEB, Run, environment, run, wait_until
from tests.helpers.servers import free_port, running, valkey_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["run"]  # the fixture

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader:ResourceWarning")


def manage(*command: str, **env: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", *command],
        cwd=EXAMPLE,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running(valkey_binary()) as server:
        yield server.url


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shop") / "db.sqlite3"
    manage("migrate", "--verbosity", "0", DATABASE=str(path))
    return path


def ask(database: Path, query: str, **values: str) -> tuple[int, ...]:
    """The one row that the database answers."""
    with closing(sqlite3.connect(database, timeout=PATIENCE)) as connection, connection:
        return connection.execute(query, values).fetchone()


class Server:
    """A server of the example, and a visitor's browser that has its cookie."""

    def __init__(self, said: Path, redis_url: str, database: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/shop/"
        command = ("-m", "uvicorn", "config.asgi:application", "--port", str(port))
        self._process = Run(said, *command, REDIS_URL=redis_url, DATABASE=str(database))

    def wake(self) -> None:
        wait_until(lambda: "running on" in self._process.said, "the server listens")
        with WEB.open(self.url, timeout=PATIENCE) as page:
            self._token = SimpleCookie(page.headers["Set-Cookie"])["csrftoken"].value

    def buy(self, path: str, **fields: str) -> str:
        """The address of the receipt."""
        headers = {"Cookie": f"csrftoken={self._token}", "X-CSRFToken": self._token, "Accept": "text/html"}
        with WEB.open(Request(self.url + path, urlencode(fields).encode(), headers), timeout=PATIENCE) as page:
            return page.url.partition("/shop/")[2]

    @property
    def said(self) -> str:
        return self._process.said

    def end(self) -> None:
        self._process.signal_group(signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def servers(redis_url: str, database: Path) -> Iterator[list[Server]]:
    started = [Server(database.with_name(f"said-{number}"), redis_url, database) for number in range(2)]
    try:
        for server in started:
            server.wake()
        yield started
    finally:
        for server in started:
            server.end()


def buy_at_once(servers: list[Server], path: str, number: str, times: int) -> set[str]:
    """The same form, sent by so many at the same moment, to one server and the other; the receipts."""
    gate, receipts, trouble = threading.Barrier(times), [], []

    def click(server: Server) -> None:
        gate.wait(PATIENCE)
        try:
            receipts.append(server.buy(path, number=number, umbrella="drizzle"))
        except Exception as error:
            trouble.append(error)

    threads = [threading.Thread(target=click, args=[servers[turn % len(servers)]]) for turn in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not trouble
    assert len(receipts) == times
    return set(receipts)


def counts(database: Path, number: str) -> tuple[int, ...]:
    """Requests, orders and charges with this number."""
    tables = ("click", "order", "charge")
    looks = (f"(SELECT count(*) FROM shop_{table} WHERE number = :number)" for table in tables)
    return ask(database, f"SELECT {', '.join(looks)}", number=number.replace("-", ""))


def gone(database: Path) -> int:
    """How many were taken from the shelf."""
    return ask(database, 'SELECT "full" - "left" FROM shop_umbrella WHERE slug = \'drizzle\'')[0]


def test_order_that_comes_a_hundred_times_at_once_is_one_charge(servers: list[Server], database: Path) -> None:
    """A hundred requests with one order number, at two servers at once: one order, one charge, one umbrella gone.

    The same form without the lock charges again and again, although the database refuses a second order.
    """
    number = str(uuid4())
    assert buy_at_once(servers, "", number, 100) == {f"receipt/{number}/"}
    assert counts(database, number) == (100, 1, 1)
    assert gone(database) == 1
    number = str(uuid4())
    assert buy_at_once(servers, "unlocked/", number, 10) == {f"receipt/{number}/"}
    clicks, orders, charges = counts(database, number)
    assert (clicks, orders) == (10, 1)
    assert charges > 1
    assert gone(database) == 1 + charges, "the shelf itself is always locked: nothing is lost there"


def test_order_that_cannot_be_understood_is_not_charged(servers: list[Server], database: Path) -> None:
    """A number that is none, or that is written in another way than the page's, gets a page that says so."""
    number = str(uuid4())
    for wrong in ("7", number.upper(), number.replace("-", "")):
        with pytest.raises(HTTPError) as refused:
            servers[0].buy("", number=wrong, umbrella="drizzle")
        with refused.value as answer:
            assert answer.code == 400
            assert "Your card was not charged." in answer.read().decode()
    assert counts(database, number) == (0, 0, 0)


def test_report_is_streamed_to_one_at_a_time(servers: list[Server]) -> None:
    """The report comes line by line; meanwhile nobody else gets it, from any server; who goes away gives it free."""
    one, other = servers

    def look() -> tuple[int, str]:
        try:
            answer = WEB.open(Request(f"{other.url}report/", headers={"Accept": "text/html"}), timeout=PATIENCE)
        except HTTPError as turned_away:
            answer = turned_away
        with answer:
            return answer.status, answer.read().decode()

    with WEB.open(f"{one.url}report/", timeout=PATIENCE) as report:
        assert report.readline() == b"umbrella,price,left,orders,charges\r\n"
        for name in (b"Drizzle,", b"Downpour,"):
            status, page = look()
            assert status == 409
            assert "One moment, please" in page
            assert report.readline().startswith(name)
    wait_until(lambda: look()[0] == 200, "the report is free, though it was not read to its end")
    assert "Traceback" not in one.said + other.said


@pytest.mark.slow
def test_nightly_task_that_is_sent_twice_runs_once(run: Callable[..., Run], redis_url: str, database: Path) -> None:
    """Two servers' beats send the nightly task: one worker fills the shelves, the other skips it."""
    names = "print([entry['task'] for entry in app.conf.beat_schedule.values()], 'shop.tasks.restock' in app.tasks)"
    schedule = run("-c", f"from config.celery import app; app.loader.import_default_modules(); {names}")
    command = ("-m", "celery", "-A", "config", "worker", "--concurrency", "2", "--loglevel", "INFO")
    worker = run(*command, REDIS_URL=redis_url, DATABASE=str(database))
    ask(database, 'UPDATE shop_umbrella SET "left" = 0 RETURNING 1')
    with Locksmith(redis=redis_url)("stock:drizzle"):  # the first task gets no further than this
        with Celery(broker=redis_url) as app:
            for _ in range(2):
                app.send_task("shop.tasks.restock", ignore_result=True)
        wait_until(lambda: "Skipped(key='nightly'" in worker.said, "one of the tasks was skipped")
        assert worker.said.count(" succeeded in ") == 1
    wait_until(lambda: worker.said.count(" succeeded in ") == 2, "both are done")
    assert ask(database, 'SELECT count(*) FROM shop_umbrella WHERE "left" < "full"') == (0,)
    assert "{'drizzle': 1000, 'downpour': 250, 'storm': 2}" in worker.said
    worker.process.terminate()
    assert worker.wait() == 0
    assert "Traceback" not in worker.said
    assert schedule.wait() == 0
    assert schedule.said == "['shop.tasks.restock'] True\n"


def test_models_have_their_migrations(database: Path) -> None:
    """Whoever follows the README gets the tables that the code wants."""
    manage("makemigrations", "--check", "--dry-run", DATABASE=str(database))
