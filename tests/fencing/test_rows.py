"""Rows that refuse the write of a former holder."""

from __future__ import annotations

import pickle
from contextlib import ExitStack
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.core import serializers
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.test.utils import CaptureQueriesContext

from django_locksmith import LockLost
from django_locksmith.exceptions import StaleFence
from tests.bank.models import (
    Account,
    Bare,
    Box,
    Company,
    Coupon,
    Customer,
    Entry,
    Savings,
    Till,
)
from tests.fencing.rows import KEYS, make, stored
from tests.helpers.callers import in_thread
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fencing.conftest import Bank


# ---- the fence decides


def test_newer_fences_write(bank: Bank, model: Any, write: Callable[[Any, int], Any]) -> None:
    """A write with a newer fence, or again with the same, is stored, and its fence with it."""
    row = make(model)
    for fence, balance in ((5, 10), (5, 20), (7, 30)):
        row.balance = balance
        write(row, fence)
        assert stored(row) == (balance, fence)


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside of a transaction"])
def test_older_fences_are_refused(bank: Bank, model: Any, write: Callable[[Any, int], Any], inside: bool) -> None:
    """A write with an older fence is refused as a whole; a transaction around it stays usable, and can be committed."""
    row = make(model, 7, balance=1)
    note = Customer.objects.create(name="before")
    row.balance = 99
    with ExitStack() as stack:
        if inside:
            stack.enter_context(transaction.atomic("bank"))
            Customer.objects.filter(pk=note.pk).update(name="within")
        with pytest.raises(StaleFence) as caught:
            write(row, 6)
        assert (caught.value.fence, caught.value.newer, caught.value.model) == (6, 7, f"bank.{model.__name__}")
        Customer.objects.filter(pk=note.pk, name="within").update(name="after")
    assert stored(row) == (1, 7)
    assert Customer.objects.get(pk=note.pk).name == ("after" if inside else "before")


def test_what_the_error_says(bank: Bank) -> None:
    """The error names the row, both fences, and the lock where that is known; it is a LockLost, and can be pickled."""
    account = make(Account, 7)
    with pytest.raises(LockLost, match="the write was refused: fence 7 has written since") as caught:
        account.save(fence=6)
    assert f"the write to bank.Account {account.pk} with fence 6 was refused: fence 7" in caught.value.details
    error = StaleFence(6, 7, "bank.Account", 1, "account:1")
    assert "fence 6 of the lock 'account:1' was refused" in error.details
    assert StaleFence(6).details == (
        "the write with fence 6 was refused: a later holder has been there, or the row is gone"
    )
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_refused_instance_is_as_before(bank: Bank) -> None:
    """After a refusal the instance has the fence that it had."""
    account = make(Account, 5)
    Account.objects.update(fence=9)
    with pytest.raises(StaleFence):
        account.save(fence=6)
    assert account.fence == 5
    deferred = Account.objects.defer("fence").get()
    with pytest.raises(StaleFence):
        deferred.save(fence=6)
    assert deferred.get_deferred_fields() == {"fence"}
    account.save(fence=10)
    assert account.fence == 10


def test_later_holder_writes_first(bank: Bank, model: Any, write: Callable[[Any, int], Any]) -> None:
    """A write that has to wait for a newer one, not committed yet, is refused when that is."""
    row = make(model, 5, balance=1)
    late = model.objects.get(pk=row.pk)
    written, over = Event(), Event()

    def newer() -> None:
        try:
            with transaction.atomic("bank"):
                row.balance = 2
                row.save(fence=7)
                written.set()
                assert over.wait(30)
        finally:
            connections["bank"].close()

    def older() -> None:
        try:
            late.balance = 3
            write(late, 6)
        finally:
            connections["bank"].close()

    first = in_thread(newer)
    assert written.wait(10)
    second = in_thread(older)
    poll(bank.somebody_waits)
    over.set()
    first.result(30)
    with pytest.raises(StaleFence):
        second.result(30)
    assert stored(row) == (2, 7)


# ---- without a fence


PLAIN: dict[str, Callable[[Any], Any]] = {
    "save": lambda row: row.save(),
    "save of some fields": lambda row: row.save(update_fields=["balance"]),
    "forced save": lambda row: row.save(force_update=True),
    "asave": lambda row: async_to_sync(row.asave)(),
    "after another fence was set": lambda row: (setattr(row, "fence", 3), row.save()),
    "update_or_create": lambda row: type(row).objects.update_or_create(
        pk=row.pk, defaults={"balance": row.balance}
    ),
    "bulk_update": lambda row: type(row).objects.bulk_update([row], ["balance"]),
    "deferred": lambda row: (
        setattr(only := type(row).objects.only("balance").get(pk=row.pk), "balance", row.balance),
        only.save(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("plain", PLAIN)
def test_plain_writes_leave_the_fence(bank: Bank, model: Any, plain: str) -> None:
    """What is written without a fence is written whoever was there before, and never lowers the fence of the row."""
    row = make(model)
    old = model.objects.get(pk=row.pk)
    row.save(fence=7)
    old.balance = 5
    PLAIN[plain](old)
    assert stored(row) == (5, 7)


def test_plain_save_of_an_unread_row(bank: Bank) -> None:
    """Also a save that replaces a row without having read it leaves its fence."""
    account = make(Account, 7)
    Account(pk=account.pk, balance=5).save()
    assert stored(account) == (5, 7)


def test_fixture_over_a_row(bank: Bank) -> None:
    """A row that `loaddata` replaces keeps its fence."""
    account = make(Account)
    fixture = serializers.serialize("json", [account])
    account.save(fence=7)
    for row in serializers.deserialize("json", fixture.replace('"balance": 0', '"balance": 5')):
        row.save(using="bank")
    assert stored(account) == (5, 7)


def test_fence_by_hand(bank: Bank) -> None:
    """A fence among the fields to be saved is refused with a word on how to write it; `update()` sets it, say to 0."""
    account = make(Account, 7)
    with pytest.raises(ValueError, match=r"save\(fence=\.\.\.\) only"):
        account.save(update_fields=["balance", "fence"])
    with pytest.raises(ValueError, match=r"save\(fence=\.\.\.\) only"):
        Account.objects.update_or_create(pk=account.pk, defaults={"fence": 8})
    Account.objects.update(fence=0)
    account.save(fence=1, update_fields=["note", "fence"])
    assert stored(account) == (0, 1)


def test_refused_in_all_tables(bank: Bank) -> None:
    """Where the fence is in the last of several tables, what was written to the others before is undone."""
    company = make(Company, 7, name="a")
    company.name = "b"
    with transaction.atomic("bank"):
        with pytest.raises(StaleFence):
            company.save(fence=6)
        Customer.objects.create(name="c")
    with pytest.raises(StaleFence):
        company.save(fence=6)
    assert set(Customer.objects.values_list("name", flat=True)) == {"a", "c"}


def test_no_fields(bank: Bank) -> None:
    """A save of no fields writes nothing, as in Django; also under a fence."""
    account = make(Account, 7)
    with CaptureQueriesContext(connections["bank"]) as asked:
        account.save(update_fields=[], fence=6)
        account.save(update_fields=[])
    assert len(asked) == 0
    assert account.fence == 7


def test_nothing_but_a_fence(bank: Bank) -> None:
    """A model may have nothing but a fence."""
    row = Bare.objects.create()
    row.save(fence=7)
    row.save()
    with pytest.raises(StaleFence):
        Bare.objects.fenced_update(6)
    assert Bare.objects.fenced_update(8) == 1
    assert Bare.objects.get().fence == 8


# ---- rows that come and go


def test_insert(bank: Bank, model: Any) -> None:
    """A new row is inserted with its fence, which then refuses older ones."""
    row = make(model, 7, balance=1)
    assert (stored(row), row.fence, row._state.db) == ((1, 7), 7, "bank")
    with pytest.raises(StaleFence):
        row.save(fence=6)
    with pytest.raises(IntegrityError):
        row.save(fence=8, force_insert=True)


@pytest.mark.parametrize("model", [Account, Savings, Company, Coupon, Box, Till], ids=lambda model: model.__name__)
def test_key_chosen_by_hand(bank: Bank, model: Any) -> None:
    """A row with a key of one's own is inserted, or replaces what is there if that has no newer fence."""
    keys = KEYS[model] if model in (Coupon, Box) else {**KEYS[model], "pk": 3}
    for fence in (5, 7):
        model(**keys, balance=fence).save(fence=fence)
    with pytest.raises(StaleFence):
        model(**keys, balance=1).save(fence=6)
    assert list(model.objects.values_list("balance", "fence")) == [(7, 7)]


@pytest.mark.parametrize("how", [{}, {"force_update": True}, {"update_fields": ["balance"]}])
def test_deleted_rows_stay_deleted(bank: Bank, model: Any, how: dict[str, Any]) -> None:
    """A row that was read and is gone is not brought back by a save under a fence; only by a forced insert."""
    row = make(model, 5)
    model.objects.all().delete()
    with pytest.raises(StaleFence) as caught:
        row.save(fence=6, **how)
    assert (caught.value.newer, caught.value.pk) == (None, row.pk)
    assert not model.objects.exists()
    row.save(fence=6, force_insert=True)
    assert stored(row) == (0, 6)


def test_update_of_what_never_was(bank: Bank) -> None:
    """A forced update of a row that has never been there is Django's error, as without a fence."""
    with pytest.raises(DatabaseError, match="did not affect any rows") as caught:
        Account(pk=3).save(fence=6, force_update=True)
    assert not isinstance(caught.value, StaleFence)


def test_made_by_another_meanwhile(bank: Bank) -> None:
    """A row that an older holder makes just when it was found missing is replaced, not refused."""
    made = []

    def make_it(execute: Any, sql: str, *more: Any) -> Any:
        answer = execute(sql, *more)
        if sql.startswith("UPDATE") and not made:
            made.append(Account.objects.create(pk=3, fence=5))
        return answer

    with connections["bank"].execute_wrapper(make_it):
        Account(pk=3, balance=1).save(fence=6)
    assert stored(made[0]) == (1, 6)


def test_insert_without_knowing_of_the_fence(bank: Bank) -> None:
    """Who inserts without the column, as the old release does during a deployment, makes a row without a fence."""
    with connections["bank"].cursor() as cursor:
        cursor.execute("INSERT INTO bank_account (balance, note) VALUES (3, '')")
    account = Account.objects.get()
    account.save(fence=1)
    assert stored(account) == (3, 1)


# ---- delete


DELETES: dict[str, Callable[..., Any]] = {
    "delete": lambda row, **how: row.delete(**how),
    "adelete": lambda row, **how: async_to_sync(row.adelete)(**how),
}


@pytest.mark.parametrize("delete", DELETES)
def test_delete(bank: Bank, model: Any, delete: str) -> None:
    """A row is deleted if no newer fence has written it; a transaction around a refusal stays usable."""
    row = make(model, 7)
    with transaction.atomic("bank"):
        with pytest.raises(StaleFence) as caught:
            DELETES[delete](row, fence=6)
        assert (caught.value.newer, caught.value.pk) == (7, row.pk)
        assert stored(row) == (0, 7)
    count, by_model = DELETES[delete](row, fence=7)
    assert (count, sum(by_model.values())) == (count, count)
    assert count == (1 if not model._meta.concrete_model._meta.parents else 2)
    assert not model.objects.exists()


def test_delete_takes_all_with_it(bank: Bank) -> None:
    """What hangs on a row is deleted with it, or not at all."""
    account = make(Account, 7)
    Entry.objects.create(account=account)
    with pytest.raises(StaleFence):
        account.delete(fence=6)
    assert Entry.objects.count() == 1
    assert account.delete(fence=7) == (2, {"bank.Entry": 1, "bank.Account": 1})
    assert Entry.objects.count() == 0


def test_delete_of_what_is_gone(bank: Bank) -> None:
    """To delete what is gone already deletes nothing; without a key, and without a fence, it is Django's delete."""
    account, same = make(Account, 7), Account.objects.get()
    assert same.delete() == (1, {"bank.Account": 1})
    assert account.delete(fence=6) == (0, {"bank.Account": 0})
    assert account.pk is None
    with pytest.raises(ValueError, match="can't be deleted"):
        account.delete(fence=6)


def test_delete_in_part(bank: Bank) -> None:
    """The row that a row inherits from is kept if one wants so."""
    row = make(Savings, 7)
    assert row.delete(keep_parents=True, fence=7) == (1, {"bank.Savings": 1})
    assert Account.objects.get().fence == 7


def test_delete_while_a_later_holder_writes(bank: Bank) -> None:
    """A deletion that has to wait for a newer write is refused when that is committed."""
    account = make(Account, 5)
    late = Account.objects.get()

    def delete() -> None:
        try:
            late.delete(fence=6)
        finally:
            connections["bank"].close()

    with transaction.atomic("bank"):
        account.save(fence=7)
        second = in_thread(delete)
        poll(bank.somebody_waits)
    with pytest.raises(StaleFence):
        second.result(30)
    assert stored(account) == (0, 7)
