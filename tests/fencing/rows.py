"""The models of the tests of fences, and the ways to write a row of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync

from tests.bank.models import (
    Account,
    Box,
    Careful,
    Company,
    Coupon,
    Savings,
    Stand,
    Ticket,
    Till,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db import models


KEYS: dict[type[models.Model], dict[str, Any]] = {
    Account: {},
    Stand: {},
    Savings: {},
    Company: {},
    Coupon: {"code": "a"},
    Careful: {},
    Ticket: {},
    Box: {"room": 1, "number": 2},
    Till: {"number": 1},
}
"""The models, and what a row of theirs is made with."""


def make(model: Any, fence: int = 0, **values: Any) -> Any:
    """A row that was last written with this fence."""
    row = model(**KEYS[model], **values)
    row.save(**({"fence": fence} if fence else {}))
    return row


def stored(row: Any) -> tuple[int, int]:
    """The balance and the fence that are in the database."""
    found = type(row).objects.get(pk=row.pk)
    return found.balance, found.fence


def save_beside_an_old_fence(row: Any, fence: int) -> None:
    row.fence = 1
    row.save(fence=fence)


WAYS: dict[str, Callable[[Any, int], Any]] = {
    "save": lambda row, fence: row.save(fence=fence),
    "save of some fields": lambda row, fence: row.save(fence=fence, update_fields=["balance"]),
    "forced save": lambda row, fence: row.save(fence=fence, force_update=True),
    "save beside an old fence": save_beside_an_old_fence,
    "asave": lambda row, fence: async_to_sync(row.asave)(fence=fence, using="bank"),
    "update": lambda row, fence: type(row).objects.filter(pk=row.pk).fenced_update(fence, balance=row.balance),
    "update of many": lambda row, fence: type(row).objects.fenced_update(fence, balance=row.balance),
    "aupdate": lambda row, fence: async_to_sync(type(row).objects.all().afenced_update)(fence, balance=row.balance),
}
"""The ways to write a balance under a fence."""
