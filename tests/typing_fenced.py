"""Fenced models for those who have no plugin for Django's models. Never run: pyright reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from typing_extensions import assert_type

from django_locksmith.fencing import FencedModel

if TYPE_CHECKING:
    from django_locksmith import Lease


class Purse(FencedModel):
    owner: models.CharField[str, str] = models.CharField(max_length=100)


def write(purse: Purse, lease: Lease) -> None:
    purse.save(fence=lease)
    assert_type(Purse.objects.fenced_update(lease, owner="me"), int)
    assert_type(Purse.objects.get(pk=7), Purse)
    assert_type(Purse.objects.filter(pk=7).fenced_update(lease.fence, owner="me"), int)
    assert_type(Purse.objects.filter(pk=7).order_by("owner").first(), Purse | None)


async def write_soon(purse: Purse, lease: Lease) -> None:
    await purse.asave(fence=lease)
    assert_type(await Purse.objects.filter(pk=7).afenced_update(lease, owner="me"), int)
