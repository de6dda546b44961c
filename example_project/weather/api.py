"""Somebody else's weather API, with a rate limit: `python -m weather.api --port 8765`. Knows nothing of Django.

GET /forecast/<city>  takes a while; above the limit, 429 with Retry-After
GET /stats            what it saw: {"calls": ..., "refused": ...}
GET /log              its limits, and every call: when, from whom (`X-Caller`), how it was answered
POST /reset           forget that
POST /use-up          as if somebody else had just used up the limit
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import threading
import time
import zlib
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class Limiter:
    """Lets `rate` calls pass in any one second, then none for `pause` seconds; and keeps a log.

    Times are those of the monotonic clock, which all processes of a machine share.
    """

    def __init__(self, rate: int, pause: float) -> None:
        self.rate = rate
        self.pause = pause
        self._guard = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Start anew: nothing seen, the whole second free."""
        with self._guard:
            self._passed: deque[float] = deque(maxlen=self.rate)
            self._closed_until = 0.0
            self._log: list[dict[str, Any]] = []

    def use_up(self) -> None:
        """Somebody else makes all the calls of this second, and one more."""
        with self._guard:
            self._closed_until = time.monotonic() + self.pause

    def admit(self, caller: str) -> dict[str, Any]:
        """Log a call. It may pass if its `retry_after`, whole seconds, is 0; `answered` is for who answers it."""
        with self._guard:
            now = time.monotonic()
            if now >= self._closed_until and len(self._passed) == self.rate and now < self._passed[0] + 1:
                self._closed_until = now + self.pause
            wait = math.ceil(max(0.0, self._closed_until - now))
            if not wait:
                self._passed.append(now)
            call = {"at": now, "caller": caller, "retry_after": wait, "answered": None}
            self._log.append(call)
            return call

    def stats(self) -> dict[str, int]:
        """What was seen since the last reset."""
        with self._guard:
            return {"calls": len(self._log), "refused": sum(call["retry_after"] > 0 for call in self._log)}

    def log(self) -> dict[str, Any]:
        """The same, call by call."""
        with self._guard:
            return {"rate": self.rate, "pause": self.pause, "calls": list(self._log)}


class WeatherServer(ThreadingHTTPServer):
    """The API on one address of this machine."""

    daemon_threads = True
    request_queue_size = 1024  # a crowd comes at once; the default of 5 would leave some waiting for TCP to try again

    def __init__(self, port: int, limiter: Limiter, seconds: float) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.limiter = limiter
        self.seconds = seconds

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # who asked may go away before the answer
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: WeatherServer

    def do_GET(self) -> None:
        if self.path == "/stats":
            self._answer(200, self.server.limiter.stats())
        elif self.path == "/log":
            self._answer(200, self.server.limiter.log())
        elif self.path.startswith("/forecast/"):
            self._forecast(unquote(self.path.removeprefix("/forecast/")))
        else:
            self._answer(404, {"error": "no such page"})

    def do_POST(self) -> None:
        if self.path == "/use-up":
            self.server.limiter.use_up()
        else:
            self.server.limiter.reset()
        self._answer(200, self.server.limiter.stats())

    def _forecast(self, city: str) -> None:
        call = self.server.limiter.admit(self.headers.get("X-Caller", ""))
        if call["retry_after"]:
            self._answer(429, {"error": "too many calls"}, {"Retry-After": str(call["retry_after"])})
            return
        time.sleep(self.server.seconds)
        call["answered"] = time.monotonic()
        self._answer(200, {"city": city, "celsius": zlib.crc32(city.encode()) % 40 - 5})

    def _answer(self, status: int, data: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name is http.server's)
        """Say nothing: /stats tells."""


def main() -> None:
    parser = argparse.ArgumentParser(description="A weather API with a rate limit.")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--rate", type=int, default=10, help="calls allowed a second (default: 10)")
    parser.add_argument("--pause", type=float, default=1, help="seconds it is closed to who calls more (default: 1)")
    parser.add_argument("--seconds", type=float, default=0.2, help="how long a forecast takes (default: 0.2)")
    options = parser.parse_args()
    with WeatherServer(options.port, Limiter(options.rate, options.pause), options.seconds) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
