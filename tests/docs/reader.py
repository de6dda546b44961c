"""The project of a reader, into which the blocks of the documentation are copied: functions, rows, and an API.

Only what is the reader's own is here. What comes from Django, from us or from other packages, a block has to import.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dramatiq
from celery import Celery
from django.db import connection, models
from django.db.models.signals import class_prepared
from django.test.utils import isolate_apps
from dramatiq.brokers.stub import StubBroker

from django_locksmith.fencing import FencedModel

if TYPE_CHECKING:
    from collections.abc import Iterator


class Project:
    """`calls`: which of its functions were called, and with what."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.celery = Celery("reader", broker="memory://")
        dramatiq.set_broker(StubBroker())

    def names(self, tables: dict[str, type[models.Model]]) -> dict[str, Any]:
        """What a block finds around it."""
        return {
            **{name: self._function(name) for name in ("write_report", "prepare", "save", "bill", "page_the_owner_of")},
            **{name: self._task(name) for name in ("write_report_async", "send_all")},
            **{name: self._function(name, value) for name, value in VALUES.items()},
            **tables,
            "accounts": lambda: [1, 2],
            "api": SimpleNamespace(get=self._function("api.get", {"name": "me"})),
            "app": self.celery,
            "entries": [tables["Entry"]()],
            "user": SimpleNamespace(save=self._function("user.save")),
        }

    def _function(self, name: str, value: Any = None) -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, *args))
            return value

        return function

    def _task(self, name: str) -> Any:
        async def function(*args: Any) -> None:
            self.calls.append((name, *args))

        return function


VALUES = {
    "call_the_api": {"celsius": 7},
    "fetch": "raw",
    "parse": "parsed",
    "fetch_profile": {"name": "me"},
    "forecast": {"celsius": 7},
}


class Requests:
    """The package of that name, as far as the blocks go; `status` and `retry_after` are what the API says next."""

    def __init__(self) -> None:
        self.status = 200
        self.retry_after: str | None = None

    def get(self, url: str, timeout: float, headers: Any = None) -> Any:
        said = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        data = json.loads('{"celsius": 7}')
        return SimpleNamespace(
            status_code=self.status, headers=said, json=lambda: data, text="7", raise_for_status=lambda: None
        )

    def post(self, url: str, timeout: float) -> Any:
        return SimpleNamespace(json=lambda: {"access_token": "x", "expires_in": 3600})


@contextmanager
def tables(*, accounts: bool = True) -> Iterator[dict[str, type[models.Model]]]:
    """The reader's models; they, and those that a block defines meanwhile, get a table, in which row 7 is.

    `accounts`: is `Account` among them?
    """
    made: list[type[models.Model]] = []

    def make(sender: type[models.Model], **kwargs: Any) -> None:
        if sender._meta.abstract or sender._meta.app_label != "django_locksmith":
            return
        sender._meta.db_table = sender.__name__.lower()
        with connection.schema_editor() as editor:
            editor.create_model(sender)
        made.append(sender)
        sender(pk=7).save()

    def drop(model: type[models.Model]) -> None:
        with connection.schema_editor() as editor:
            editor.delete_model(model)

    with isolate_apps("django_locksmith"):
        class_prepared.connect(make)
        try:
            yield _models(accounts=accounts)
        finally:
            class_prepared.disconnect(make)
            for model in made:
                drop(model)


def _models(*, accounts: bool) -> dict[str, type[models.Model]]:
    class Stock(models.Model):
        left = models.IntegerField(default=10)

        class Meta:
            app_label = "django_locksmith"

    class Entry(models.Model):
        class Meta:
            app_label = "django_locksmith"

    known: dict[str, type[models.Model]] = {"Stock": Stock, "Entry": Entry}
    if accounts:

        class Account(FencedModel):
            balance = models.IntegerField(default=100)

            class Meta:
                app_label = "django_locksmith"

        known["Account"] = Account
    return known
