"""Fenced models as mypy sees them. Never run. Pyright is not asked: it cannot know what Django makes of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import assert_type

from tests.bank.models import Account, Till

if TYPE_CHECKING:
    from django_locksmith import Lease
    from django_locksmith.exceptions import StaleFence
    from django_locksmith.fencing import FencedModel, FencedQuerySet


def write(account: Account, till: Till, lease: Lease) -> None:
    account.save(fence=lease)
    account.save(fence=lease.fence, update_fields=["balance"], using="other", force_update=True)
    account.save()
    account.save(fence="7")  # type: ignore[arg-type]
    assert_type(account.fence, int)
    assert_type(account.delete(fence=lease), tuple[int, dict[str, int]])
    assert_type(account.delete("other", True), tuple[int, dict[str, int]])
    assert_type(Account.objects.fenced_update(lease, balance=7), int)
    assert_type(Account.objects.filter(pk=7).fenced_update(lease.fence, balance=7), int)
    assert_type(Account.objects.get(pk=7), Account)
    assert_type(Till.objects.rich().fenced_update(lease), int)
    Account.objects.fenced_update(balance=7)  # type: ignore[call-arg]


async def write_soon(account: Account, lease: Lease) -> None:
    await account.asave(fence=lease, update_fields={"balance"})
    assert_type(await account.adelete(fence=lease.fence), tuple[int, dict[str, int]])
    assert_type(await Account.objects.filter(pk=7).afenced_update(lease, balance=7), int)


def any_fenced(row: FencedModel, rows: FencedQuerySet[Account]) -> int:
    row.save(fence=7)
    assert_type(rows.filter(pk=7).first(), Account | None)
    return rows.fenced_update(7, balance=1)


def refused(error: StaleFence) -> str:
    assert_type((error.fence, error.newer), tuple[int, int | None])
    assert_type((error.model, error.key, error.why), tuple[str, str, str])
    return error.key
