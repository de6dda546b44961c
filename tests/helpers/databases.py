"""Databases of one test, beside those of the settings."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from django.test import override_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.models import Model


@contextmanager
def added(alias: str, database: dict[str, Any]) -> Iterator[None]:
    """The database has this alias."""
    # With the defaults that Django fills in for those of the settings.
    connections.settings[alias] = connections.configure_settings({"default": dict(database)})["default"]
    try:
        yield
    finally:
        connections[alias].close()
        del connections[alias], connections.settings[alias]


def make_tables(alias: str, models: list[type[Model]]) -> None:
    """Make the tables of these models, of which no migration knows."""
    with connections[alias].schema_editor() as editor:
        for model in models:
            editor.create_model(model)


def empty_tables(alias: str, models: list[type[Model]]) -> None:
    """Delete all rows of these models; those that point to others come last among them."""
    with transaction.atomic(alias):
        for model in reversed(models):
            model._base_manager.using(alias)._raw_delete(alias)


class _Router:
    def __init__(self, app: str, alias: str) -> None:
        self._app = app
        self._alias = alias

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return self._alias if model._meta.app_label == self._app else None

    db_for_write = db_for_read


@contextmanager
def routed(app: str, alias: str) -> Iterator[None]:
    """The models of this app are in the database of this alias, unless told otherwise."""
    with override_settings(DATABASE_ROUTERS=[_Router(app, alias)]):
        yield
