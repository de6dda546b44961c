"""What a child process does that writes too late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_locksmith import LockLost
from django_locksmith.exceptions import StaleFence

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection


def write(pipe: Connection[Any, Any], locksmith: Any, key: str, timeout: float) -> None:
    """Take the lock of an account, read it, and write it when told to: with the fence, in all ways; then without."""
    from tests.bank.models import Account

    lease = locksmith(key, timeout=timeout).acquire()
    account = Account.objects.get(pk=key)
    account.balance -= 30
    pipe.send(lease.fence)

    pipe.recv()
    rows = Account.objects.filter(pk=key)
    ways: dict[str, Callable[[], Any]] = {
        "save": lambda: account.save(fence=lease.fence),
        "save of some fields": lambda: account.save(fence=lease.fence, update_fields=["balance"]),
        "update": lambda: rows.fenced_update(lease.fence, balance=account.balance),
        "delete": lambda: account.delete(fence=lease.fence),
        "save by the lease": lambda: account.save(fence=lease),
    }
    pipe.send({name: _outcome(way) for name, way in ways.items()})

    pipe.recv()
    account.save()
    pipe.send("saved")
    pipe.recv()


def _outcome(way: Callable[[], Any]) -> str:
    try:
        way()
    except StaleFence:
        return "stale"
    except LockLost:
        return "lost"
    return "written"
