"""Many visitors, one rate-limited API, and ways to share what it says: as a table, or as a page to play with."""

from __future__ import annotations

import json
import signal
import sys
import time
from argparse import ArgumentTypeError
from contextlib import ExitStack, contextmanager
from http.cookiejar import CookieJar
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

from django.core.management import BaseCommand, CommandError

from weather.forecasts import WAYS
from weather.scenes import MANY, SCENES
from weather.surroundings import ADMIN, database, some_redis, wake, weather_api, web_server

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable, Iterator

PAUSE = 4
"""Seconds for which the API is closed to who has called too often: long enough to be seen."""
SECONDS = 1
"""How long the API takes for a forecast."""
ONE, MANY_CITIES = ("unlocked", "cache-lock", "get-or-set"), ("many-unlocked", "many-get-or-set", "many-rate-limit")
"""The scenes: all want one forecast, and each wants others."""
PATIENCE = 300
"""Seconds after which the demo gives up on its own servers."""


class Progress:
    """A bar that is drawn anew on a terminal; in a file or pipe, one plain line when a way is through."""

    def __init__(self, stream: TextIO, way: str, total: int) -> None:
        self._stream = stream
        self._way = way
        self._total = total

    def show(self, done: int) -> None:
        """So many visitors are done."""
        if self._stream.isatty():
            filled = 30 * done // self._total
            self._stream.write(f"\r{self._line(done)}  [{'#' * filled}{'.' * (30 - filled)}]")
            self._stream.flush()

    def end(self, done: int) -> None:
        """No more will be."""
        if self._stream.isatty():
            self._stream.write("\n")
        else:
            self._stream.write(f"{self._line(done)}\n")

    def _line(self, done: int) -> str:
        return f"{self._way:<18}{done:>4} of {self._total} are done"


class Page:
    """The page with the buttons, pressed by a program."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._cookies = CookieJar()
        self._web = build_opener(ProxyHandler({}), HTTPCookieProcessor(self._cookies))
        self._web.open(url, timeout=PATIENCE).close()  # brings the cookie against cross-site requests

    def play(self, scene: str) -> Iterator[dict[str, Any]]:
        """Press a button; how it stands, again and again until the crowd is gone."""
        token = next(cookie.value or "" for cookie in self._cookies if cookie.name == "csrftoken")
        form = urlencode({"scene": scene, "face": "sync"}).encode()
        picture = self._ask(Request(f"{self._url}/run/", form, {"X-CSRFToken": token}))
        give_up = time.monotonic() + PATIENCE
        while picture["running"]:
            if time.monotonic() > give_up:
                raise CommandError(f"The servers did not answer within {PATIENCE} s.")
            yield picture
            time.sleep(0.1)
            picture = self._ask(Request(f"{self._url}/run/"))
        if picture["trouble"]:
            raise CommandError(picture["trouble"])
        yield picture

    def _ask(self, request: Request) -> dict[str, Any]:
        try:
            with self._web.open(request, timeout=PATIENCE) as reply:
                picture: dict[str, Any] = json.load(reply)
                return picture
        except OSError as error:
            raise CommandError(f"The page's server does not answer: {error}") from error


class Command(BaseCommand):
    help = "Let many visitors want one forecast that is not in the cache, and show what the rate-limited API saw."

    def add_arguments(self, parser: ArgumentParser) -> None:
        number = _number
        parser.add_argument("--page", action="store_true", help="serve the page on which one sees it, until Ctrl-C")
        parser.add_argument("--port", type=number(0, 65535), default=8000, help="of the page (default: 8000; 0: any)")
        parser.add_argument("--processes", type=number(1, 32), default=4, help="servers (default: 4)")
        parser.add_argument("--threads", type=number(1, 100), default=25, help="visitors of each server (default: 25)")
        parser.add_argument(
            "--rate", type=number(1, 1000), default=10, help="calls a second the API allows (default: 10)"
        )
        parser.add_argument("--json", action="store_true", help="print the figures as JSON")

    def handle(
        self, *args: Any, page: bool, port: int, processes: int, threads: int, rate: int, **options: Any
    ) -> None:
        for ending in (signal.SIGTERM, signal.SIGHUP):  # the second: its terminal has been closed
            signal.signal(ending, lambda number, frame: sys.exit(128 + number))
        try:
            sys.stderr.write(f"Starting {processes} servers for {processes * threads} visitors ...\n")
            with _everything(processes, threads, rate, port if page else None) as url:
                if page:
                    self._serve(url)
                crowd = processes * threads
                rows = [self._try(scene, url, crowd) for scene in ONE]
                many = [self._try(scene, url, MANY) for scene in MANY_CITIES]
        except KeyboardInterrupt:
            sys.stderr.write("\nStopped.\n")
            sys.exit(0 if page else 128 + signal.SIGINT)
        if options["json"]:
            self.stdout.write(json.dumps([*rows, *many], indent=2))
            return
        allowed = f"{crowd} visitors of {processes} servers; {rate} calls a second allowed"
        self._print(rows, f"One forecast: {allowed}")
        self._print(many, f"{MANY} forecasts: {allowed}")
        self.stdout.write("\nTo see it in a browser: manage.py demo --page")

    def _serve(self, url: str) -> None:
        name, password = ADMIN
        self.stdout.write(f"Open {url}/          in a browser: the weather")
        self.stdout.write(f"     {url}/shop/     umbrellas: double clicks, and a report")
        self.stdout.write(f"     {url}/admin/    the locks; user {name}, password {password}: in this demo only")
        self.stdout.write("Ctrl-C ends it.")
        self.stdout.flush()
        while True:
            signal.pause()

    def _try(self, scene: str, url: str, size: int) -> dict[str, Any]:
        title = "get_or_set alone" if scene == "many-get-or-set" else WAYS[SCENES[scene].way].title
        progress = Progress(sys.stderr, title, size)
        done = 0
        counters: dict[str, Any] = {}
        for picture in Page(url).play(scene):
            counters = picture["counters"]
            done = counters["served"] + counters["failed"]
            progress.show(done)
        progress.end(done)
        return {"way": title, "forecasts": SCENES[scene].cities, **counters}

    def _print(self, rows: list[dict[str, Any]], title: str) -> None:
        self.stdout.write(f"\n{title}\n\n")
        self.stdout.write(
            f"{'':<18}{'API calls':>10}{'429s':>7}{'served':>9}{'failed':>9}{'Redis commands':>17}{'longest wait':>15}"
        )
        for row in rows:
            self.stdout.write(
                "{way:<18}{calls:>10}{refused:>7}{served:>9}{failed:>9}{commands:>17}{longest_wait:>13.2f} s".format(
                    **row
                )
            )


@contextmanager
def _everything(processes: int, threads: int, rate: int, port: int | None) -> Iterator[str]:
    """The URL of the page; around it a Redis, the API, and the servers that the visitors visit.

    With a port, which people can know, there is also a database, for the shop and the admin.
    """
    with ExitStack() as started:
        redis_url = started.enter_context(some_redis())
        api_url = started.enter_context(weather_api(rate, PAUSE, SECONDS))
        env = {
            "REDIS_URL": redis_url,
            "WEATHER_API": api_url,
            "WEATHER_RATE": f"{rate}/s",
            "VISITORS": str(processes * threads),
        }
        if port is not None:
            env["DATABASE"] = started.enter_context(database())
        servers = [started.enter_context(web_server(env)) for _ in range(processes)]
        page = started.enter_context(web_server(env | {"SERVERS": " ".join(servers)}, port or 0))
        for url in (*servers, page):
            wake(url)
        yield page


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdigit() or not least <= int(text) <= most:
            raise ArgumentTypeError(f"must be a whole number from {least} to {most}")
        return int(text)

    return number
