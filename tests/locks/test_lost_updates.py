"""Read, think, write, by many processes on a real PostgreSQL, each request a transaction: what gets lost?"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.helpers.shoppers import COLUMNS

if TYPE_CHECKING:
    from tests.helpers.deployments import Deployment
    from tests.helpers.postgres import Postgres

pytestmark = pytest.mark.postgres

PROCESSES, REQUESTS = 8, 100


def sold_by(path: str, valkey: Deployment, postgres: Postgres) -> int:
    """What stands in the row after so many requests of this view."""
    import psycopg

    with postgres.database() as database, ExitStack() as crew:
        place = psycopg.connect(host=database["HOST"], user=database["USER"], dbname=database["NAME"], autocommit=True)
        row = crew.enter_context(place)
        row.execute(COLUMNS)
        row.execute("INSERT INTO stock VALUES (1, 0)")
        command = [
            sys.executable,
            "-m",
            "tests.helpers.shoppers",
            json.dumps(database),
            valkey.server.url,
            path,
            str(REQUESTS),
        ]
        shoppers = [
            crew.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(PROCESSES)
        ]
        for shopper in shoppers:
            assert shopper.stdout is not None
            assert shopper.stdout.readline() == "ready\n"
        for shopper in shoppers:
            assert shopper.stdin is not None
            shopper.stdin.write("go\n")
        answered = [int(shopper.communicate(timeout=120)[0]) for shopper in shoppers]
        assert answered == [REQUESTS] * PROCESSES
        (sold,) = row.execute("SELECT sold FROM stock").fetchone() or (None,)
    return int(sold)


def test_no_update_is_lost(valkey: Deployment, postgres: Postgres) -> None:
    """Under ATOMIC_REQUESTS, `@lock_view` loses no update; a decorator that releases as the view returns loses some."""
    everything = PROCESSES * REQUESTS
    kept = {path: sold_by(path, valkey, postgres) for path in ("by-lock-view", "by-plain-decorator")}
    print({path: f"{everything - sold} of {everything} updates lost" for path, sold in kept.items()})
    assert kept["by-lock-view"] == everything
    assert kept["by-plain-decorator"] < everything
