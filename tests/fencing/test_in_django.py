"""Fenced rows with what Django does around them, and with real locks."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from django.db import IntegrityError, connections, transaction
from django.db.models import F, signals
from django.template import Context, Engine
from django.test.utils import CaptureQueriesContext

from django_locksmith import LockLost, locksmith
from django_locksmith.exceptions import StaleFence
from tests.bank.models import (
    Account,
    Coupon,
    Till,
)
from tests.fencing.rows import make, stored
from tests.helpers.children import Nursery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django_locksmith import Locksmith
    from tests.fencing.conftest import Bank
    from tests.helpers.deployments import Deployment


# ---- Django around it


@pytest.mark.usefixtures("branch")
def test_other_database(bank: Bank) -> None:
    """Where a database is named, the row there is meant, and its fence."""
    account = make(Account, 9)
    account.save(using="branch", fence=5)
    there = Account.objects.using("branch").get()
    assert (there.fence, stored(account)) == (5, (0, 9))
    with pytest.raises(StaleFence):
        account.save(using="branch", fence=4)
    with pytest.raises(StaleFence):
        Account.objects.using("branch").fenced_update(4, balance=1)
    assert Account.objects.using("branch").filter(pk=account.pk).fenced_update(6, balance=1) == 1
    with pytest.raises(StaleFence):
        there.delete(using="branch", fence=5)
    there.delete(using="branch", fence=6)
    assert not Account.objects.using("branch").exists()
    assert stored(account) == (0, 9)


def test_computed_columns(bank: Bank) -> None:
    """Columns that the database computes are as after Django's own save."""
    coupon = make(Coupon, 5, balance=1)
    coupon.balance = F("balance") + 1
    coupon.save(fence=6)
    assert Coupon.objects.get().twice == 4
    coupon.refresh_from_db()
    assert (coupon.balance, coupon.twice) == (2, 4)


class Ears:
    """What the signals of saving said."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, Any]] = []
        self.meanwhile: Callable[[Any], Any] = lambda row: None

    def before(self, instance: Any, update_fields: Any, **named: Any) -> None:
        self.heard.append(("before", instance.fence, update_fields))
        self.meanwhile(instance)

    def after(self, instance: Any, update_fields: Any, **named: Any) -> None:
        self.heard.append(("after", instance.fence, update_fields))


@pytest.fixture
def ears() -> Iterator[Ears]:
    """Receivers of the signals of accounts."""
    ears = Ears()
    signals.pre_save.connect(ears.before, Account)
    signals.post_save.connect(ears.after, Account)
    yield ears
    signals.pre_save.disconnect(ears.before, Account)
    signals.post_save.disconnect(ears.after, Account)


def test_signals(bank: Bank, ears: Ears) -> None:
    """Receivers see the new fence, and it is among the fields; after a refusal there is no `post_save`."""
    account = make(Account, 5)
    account.save(fence=6, update_fields=["note"])
    with pytest.raises(StaleFence):
        account.save(fence=4)
    fields = frozenset({"note", "fence"})
    assert ears.heard == [
        ("before", 5, None),
        ("after", 5, None),
        ("before", 6, fields),
        ("after", 6, fields),
        ("before", 4, None),
    ]


def test_receiver_that_saves(bank: Bank, ears: Ears) -> None:
    """A receiver may save, or read anew, what is just being saved: neither loosens the fence."""
    account = make(Account, 5)
    Account.objects.update(fence=7)

    saved = []

    def meddle(row: Any) -> None:
        ears.meanwhile = lambda row: None
        row.save()
        saved.append(row)
        row.refresh_from_db()

    ears.meanwhile = meddle
    with pytest.raises(StaleFence):
        account.save(fence=6)
    ears.meanwhile = meddle
    account.save(fence=8)
    assert (stored(account), account.fence) == ((0, 8), 8)
    assert saved == [account, account]


def test_receiver_that_fails(bank: Bank, ears: Ears) -> None:
    """A transaction that a receiver has spoilt stays so, also if what the receiver raises looks like a refusal."""
    make(Till, 5)

    def spoil(row: Any) -> None:
        with pytest.raises(IntegrityError):
            Till(number=1).save()
        raise StaleFence(5)

    with transaction.atomic("bank"):
        ears.meanwhile = spoil
        with pytest.raises(StaleFence):
            Account().save(fence=6)
        assert transaction.get_rollback("bank")


def test_error_that_is_not_a_refusal(bank: Bank, ears: Ears) -> None:
    """Another error in a save under a fence spoils the transaction as it does in Django."""
    make(Till, 5)
    with transaction.atomic("bank"):
        with pytest.raises(IntegrityError):
            Till(number=1).save(fence=6)
        assert transaction.get_rollback("bank")
    assert stored(Till.objects.get()) == (0, 5)


def test_templates_cannot_write(bank: Bank) -> None:
    """A template that mentions `save` or `delete` calls neither, as in Django."""
    make(Account, 5)
    template = Engine().from_string("{{ row.save }}{{ row.asave }}{{ row.delete }}{{ row.adelete }}")
    assert template.render(Context({"row": Account.objects.get()})) == ""
    assert Account.objects.count() == 1


@pytest.mark.parametrize(
    ("fence", "error"), [("7", TypeError), (True, TypeError), (7.0, TypeError), (0, ValueError), (2**63, ValueError)]
)
def test_bad_fences(bank: Bank, fence: Any, error: type[Exception]) -> None:
    """What is no fence is refused with what it should be, and nothing is written."""
    account = make(Account, 5)
    for write in (
        lambda: account.save(fence=fence),
        lambda: account.delete(fence=fence),
        lambda: Account.objects.fenced_update(fence, balance=1),
    ):
        with pytest.raises(error, match="fence must be"):
            write()
    assert stored(account) == (0, 5)


def test_arguments_by_name(bank: Bank) -> None:
    """Under a fence, the arguments of save are given by name."""
    with pytest.raises(TypeError, match="by name only"):
        make(Account, 5).save(False, fence=6)


# ---- with locks


def test_leases(bank: Bank, valkey: Deployment) -> None:
    """The lease itself serves as a fence; the error then names the lock."""
    account = make(Account)
    with locksmith("account") as lease:
        account.save(fence=lease)
        assert account.fence == lease.fence
        assert Account.objects.fenced_update(lease, balance=1) == 1
        Account.objects.update(fence=lease.fence + 1)
        with pytest.raises(StaleFence) as caught:
            account.save(fence=lease)
        assert caught.value.key == "account"
        Account.objects.update(fence=0)
        account.delete(fence=lease)


def test_leases_that_are_over(bank: Bank, valkey: Deployment) -> None:
    """A lease that is not held any more writes nothing, whether somebody else has written since or not."""
    account = make(Account)
    with locksmith("account") as lease:
        pass
    for write in (
        lambda: account.save(fence=lease),
        lambda: account.delete(fence=lease),
        lambda: Account.objects.fenced_update(lease, balance=1),
    ):
        with CaptureQueriesContext(connections["bank"]) as asked, pytest.raises(LockLost) as caught:
            write()
        assert not isinstance(caught.value, StaleFence)
        assert len(asked) == 0
    assert stored(account) == (0, 0)


def test_a_hundred_stale_holders(bank: Bank, valkey: Deployment, service: Locksmith) -> None:
    """Of 100 holders that were stopped past their leases, none writes under its fence; without, all of them do."""
    nursery = Nursery(valkey.server.url, DATABASES={"default": bank.databases["bank"]}, INSTALLED_APPS=["tests.bank"])
    outcomes: dict[str, dict[str, int]] = {}
    plain = 0
    for start in range(0, 100, 10):
        pks = range(start + 1, start + 11)
        for pk in pks:
            Account(pk=pk, balance=100).save()
        late = {pk: nursery.child("tests.bank.late.write", str(pk), 0.1) for pk in pks}
        fences = {pk: child.says() for pk, child in late.items()}
        for child in late.values():
            child.signal(signal.SIGSTOP)
        leases = {}
        for pk in pks:
            leases[pk] = lease = service(str(pk)).acquire()
            assert lease is not None
            assert lease.fence > fences[pk]
            account = Account.objects.get(pk=pk)
            account.balance = 500
            account.save(fence=lease)
        for child in late.values():
            child.pipe.send("write")
            child.signal(signal.SIGCONT)
        for pk, child in late.items():
            for way, outcome in child.says().items():
                tally = outcomes.setdefault(way, {})
                tally[outcome] = tally.get(outcome, 0) + 1
            assert stored(Account(pk=pk)) == (500, leases[pk].fence)
            child.pipe.send("write without a fence")
            assert child.says() == "saved"
            balance, fence = stored(Account(pk=pk))
            plain += balance == 70
            assert fence == leases[pk].fence
            child.kill()
            leases[pk].release()
    nursery.close()
    print(f"{bank.databases['bank']['ENGINE']}: stale writes {outcomes}; by a plain save {plain} of 100 went through")
    assert outcomes == {
        "save": {"stale": 100},
        "save of some fields": {"stale": 100},
        "update": {"stale": 100},
        "delete": {"stale": 100},
        "save by the lease": {"lost": 100},
    }
    assert plain == 100
    assert valkey.left_behind() == set()
