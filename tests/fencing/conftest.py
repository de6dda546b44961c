"""Where the rows of these tests are: on SQLite, and with `-m postgres` on a real PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from django.test import modify_settings

from tests.bank.models import (
    MODELS,
)
from tests.fencing.rows import KEYS, WAYS
from tests.helpers.databases import added, empty_tables, make_tables, routed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.helpers.postgres import Postgres


@dataclass
class Bank:
    """Where the accounts of a test are."""

    databases: dict[str, dict[str, Any]]
    server: Postgres | None

    def somebody_waits(self) -> bool:
        """Does a statement wait for a lock? SQLite cannot tell: it lets nobody write beside a writer."""
        return self.server is None or self.server.run("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0] > 0


@pytest.fixture(scope="session")
def on_postgres(postgres: Postgres, django_db_blocker: Any) -> Iterator[dict[str, dict[str, Any]]]:
    """Databases on a PostgreSQL, with the tables: they take longer to make than most tests do."""
    with ExitStack() as stack:
        databases = {alias: stack.enter_context(postgres.database()) for alias in ("bank", "branch")}
        for alias, database in databases.items():
            with django_db_blocker.unblock(), added(alias, database):
                make_tables(alias, MODELS)
        yield databases


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def bank(request: pytest.FixtureRequest, tmp_path: Path, django_db_blocker: Any) -> Iterator[Bank]:
    """A database with empty tables, which other processes may use, too."""
    server = request.getfixturevalue("postgres") if request.param == "postgres" else None
    databases = request.getfixturevalue("on_postgres") if server is not None else files(tmp_path)
    bank = Bank(databases, server)
    with ExitStack() as stack:
        stack.enter_context(modify_settings(INSTALLED_APPS={"append": "tests.bank"}))
        stack.enter_context(routed("bank", "bank"))
        stack.enter_context(django_db_blocker.unblock())
        stack.enter_context(opened(bank, "bank"))
        yield bank


@pytest.fixture
def branch(bank: Bank) -> Iterator[None]:
    """Another database with the same tables."""
    with opened(bank, "branch"):
        yield


def files(folder: Path) -> dict[str, dict[str, Any]]:
    """Databases that are files."""
    options = {"init_command": "PRAGMA synchronous=OFF"}  # nobody needs them after a loss of power
    engine = "django.db.backends.sqlite3"
    return {alias: {"ENGINE": engine, "NAME": str(folder / alias), "OPTIONS": options} for alias in ("bank", "branch")}


@contextmanager
def opened(bank: Bank, alias: str) -> Iterator[None]:
    """The database has this alias, and its tables are empty."""
    with added(alias, bank.databases[alias]):
        (make_tables if bank.server is None else empty_tables)(alias, MODELS)
        yield


@pytest.fixture(params=KEYS, ids=lambda model: model.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    """Each of the models."""
    return request.param


@pytest.fixture(params=WAYS)
def write(request: pytest.FixtureRequest) -> Callable[[Any, int], Any]:
    """Each of the ways."""
    return WAYS[request.param]
