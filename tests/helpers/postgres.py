"""A real PostgreSQL, started and thrown away by the tests that use it. Reached by a socket in its own folder only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Iterator

_USER = "locksmith"
_OPTIONS = {
    "listen_addresses": "",
    # The data is thrown away: nothing of it has to reach the disk.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "200",
}


def _driver() -> Any:
    try:
        import psycopg
    except ImportError:
        pytest.fail("these tests reach PostgreSQL by psycopg: pip install -e '.[test,postgres]'", pytrace=False)
    return psycopg


def _folder_of_programs() -> Path:
    """Where `initdb` and `postgres` are: on the PATH, where pg_config says, or where Debian keeps each version's."""
    places = [Path(found).parent for name in ("initdb", "postgres") if (found := shutil.which(name))]
    if pg_config := shutil.which("pg_config"):
        told = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True)
        places.append(Path(told.stdout.strip()))
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    places += sorted(debian, key=lambda place: float(place.parent.name), reverse=True)
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    pytest.fail("these tests start a PostgreSQL of their own, and there is none: apt-get install postgresql")


def _who_runs_it() -> dict[str, Any]:
    """Arguments of `subprocess`: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    pytest.fail("PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as")


class Postgres:
    """One server process, whose data is gone when it ends."""

    def __init__(self) -> None:
        self._driver = _driver()
        self._numbers = count(1)
        programs, who = _folder_of_programs(), _who_runs_it()
        self.folder = Path(tempfile.mkdtemp(prefix="locksmith-pg-"))
        if who:
            os.chown(self.folder, who["user"], who["group"])
        # Its messages and the order of its texts must not depend on the machine.
        who |= {"cwd": self.folder, "env": {**os.environ, "LC_ALL": "C", "TZ": "UTC"}}
        data = str(self.folder / "data")
        initdb = [programs / "initdb", "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        made = subprocess.run(initdb, capture_output=True, text=True, **who)
        if made.returncode:
            shutil.rmtree(self.folder, ignore_errors=True)
            pytest.fail(f"initdb failed:\n{made.stdout}{made.stderr}", pytrace=False)
        options = [f"-c{name}={value}" for name, value in _OPTIONS.items()]
        self._log = self.folder / "log"
        with self._log.open("wb") as log:
            command = [programs / "postgres", "-D", data, "-k", str(self.folder), *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **who)
        poll(self._answers, within=60)

    def _answers(self) -> bool:
        assert self._process.poll() is None, f"PostgreSQL ended at its start:\n{self._log.read_text()}"
        try:
            self.run("SELECT 1")
        except self._driver.OperationalError:
            return False
        return True

    def run(self, statement: str, *arguments: Any) -> list[Any]:
        """Run one statement, outside of all transactions; its rows, if it has any."""
        with self._driver.connect(host=str(self.folder), user=_USER, dbname="postgres", autocommit=True) as connection:
            cursor = connection.execute(statement, arguments)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self) -> Iterator[dict[str, Any]]:
        """An empty database: an entry for DATABASES. Child processes may use it, too."""
        name = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": str(self.folder),
                "USER": _USER,
                "NAME": name,
            }
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGQUIT)  # at once: it takes its own processes with it
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def running() -> Iterator[Postgres]:
    server = Postgres()
    try:
        yield server
    finally:
        server.stop()
