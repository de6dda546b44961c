"""The books as CSV, line by line. Slow on purpose: so is many a real report."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from .models import Charge, Order, Umbrella

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SECONDS = 1
"""How long it takes for each kind of umbrella."""

HEAD = ("umbrella", "price", "left", "orders", "charges")


def lines() -> Iterator[str]:
    """The report, for a WSGI server."""
    yield _line(HEAD)
    for umbrella in Umbrella.objects.all():
        time.sleep(SECONDS)
        yield _line_of(umbrella)


async def alines() -> AsyncIterator[str]:
    """The same for an ASGI server, which would collect what a sync iterator gives, and send it in the end."""
    yield _line(HEAD)
    async for umbrella in Umbrella.objects.all():
        await asyncio.sleep(SECONDS)
        yield await sync_to_async(_line_of)(umbrella)


def _line_of(umbrella: Umbrella) -> str:
    orders = Order.objects.filter(umbrella=umbrella)
    charges = Charge.objects.filter(number__in=orders.values("number"))
    return _line((umbrella.name, umbrella.price, umbrella.left, orders.count(), charges.count()))


def _line(cells: tuple[Any, ...]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
