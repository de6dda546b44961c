"""Somebody else's API, which takes money from a card. Slow, and not to be taken back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .models import Charge

if TYPE_CHECKING:
    from decimal import Decimal
    from uuid import UUID

SECONDS = 0.3
"""How long it takes."""


def charge(number: UUID, amount: Decimal) -> None:
    """Take the money. This bank does so as often as it is asked.

    Give a real one the order's number as its idempotency key as well: that also covers a server that dies between the
    charge and the order, where no lock can help.
    """
    Charge.objects.create(number=number, amount=amount)
    time.sleep(SECONDS)
