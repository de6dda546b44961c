"""The shelf: one at a time for each kind of umbrella, and nobody who has lost the lock unknowingly writes to it."""

from __future__ import annotations

from django_locksmith import locksmith

from .models import Umbrella

PATIENCE = 10
"""Seconds that one waits for one's turn at the shelf."""


class SoldOut(Exception):
    """There is none left of this kind."""


def take_one(slug: str) -> None:
    """Take an umbrella from the shelf. Raises `SoldOut`."""
    # Where the caller has a transaction open, the next one waits for its COMMIT; here, there is none.
    with locksmith(f"stock:{slug}", blocking_timeout=PATIENCE, release="commit") as lease:
        umbrella = Umbrella.objects.get(pk=slug)
        if not umbrella.left:
            raise SoldOut(umbrella.name)
        umbrella.left -= 1
        umbrella.save(fence=lease)  # StaleFence, if a later holder has been here


def fill(slug: str) -> int:
    """Fill the shelf up again; how many it took."""
    with locksmith(f"stock:{slug}", blocking_timeout=PATIENCE, release="commit") as lease:
        umbrella = Umbrella.objects.get(pk=slug)
        missing = max(0, umbrella.full - umbrella.left)
        umbrella.left += missing
        umbrella.save(fence=lease)
        return missing
