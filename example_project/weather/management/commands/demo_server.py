"""One server of the demo, started by it."""

from __future__ import annotations

import socket
import sys
from threading import Thread
from typing import TYPE_CHECKING, Any

from django.core.management import BaseCommand

if TYPE_CHECKING:
    from argparse import ArgumentParser

    import uvicorn


class Command(BaseCommand):
    help = "Part of the demo, which starts it: serve this project on an open socket, until the standard input ends."
    requires_system_checks: list[str] = []  # noqa: RUF012  (Django's own type)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("socket", type=int, help="number of the open file")

    def handle(self, *args: Any, **options: Any) -> None:
        import uvicorn  # only the demo needs it

        config = uvicorn.Config(
            "config.asgi:application", lifespan="off", log_level="error", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        Thread(target=_end_with_the_demo, args=[server], daemon=True).start()
        with socket.socket(fileno=options["socket"]) as listener:
            server.run(sockets=[listener])


def _end_with_the_demo(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()  # nobody writes there; the end comes when the demo is gone
    server.should_exit = True
