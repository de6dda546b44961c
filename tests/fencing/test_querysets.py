"""Updates of many rows under a fence, what they cost, and the recipes of docs/fencing.md."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from django.core.exceptions import FieldDoesNotExist
from django.db import connections, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from django_locksmith.exceptions import StaleFence
from tests.bank.models import (
    Account,
    Company,
    Coupon,
    Customer,
    Entry,
    Savings,
    Till,
)
from tests.fencing.rows import make, stored
from tests.helpers.callers import in_thread
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fencing.conftest import Bank


# ---- many rows


def test_all_or_nothing(bank: Bank) -> None:
    """Where one of many rows has a newer fence, none is written, and the newest of their fences is named."""
    for fence in (1, 9, 8, 2):
        make(Account, fence, balance=10)
    make(Account, 20, balance=0)
    with pytest.raises(StaleFence) as caught:
        Account.objects.filter(balance__gt=0).fenced_update(5, balance=0)
    assert (caught.value.newer, caught.value.pk) == (9, None)
    assert sorted(Account.objects.values_list("balance", "fence")) == [(0, 20), (10, 1), (10, 2), (10, 8), (10, 9)]
    assert Account.objects.filter(balance__gt=0).fenced_update(9, balance=F("balance") + 1) == 4
    assert sorted(Account.objects.values_list("balance", "fence")) == [(0, 20), *[(11, 9)] * 4]


def test_no_rows(bank: Bank, model: Any) -> None:
    """Where the filter matches nothing, 0 rows are written; that is no error."""
    make(model, 7)
    assert model.objects.filter(balance=99).fenced_update(5, balance=1) == 0
    assert model.objects.none().fenced_update(5, balance=1) == 0


def test_update_across_relations(bank: Bank) -> None:
    """A filter may lead across relations; the fence is compared all the same."""
    owner = Customer.objects.create(name="a")
    make(Account, 5, owner=owner)
    make(Account, 9)
    rows = Account.objects.filter(owner__name="a").order_by("owner__name")
    assert rows.fenced_update(6, balance=1) == 1
    with pytest.raises(StaleFence):
        rows.fenced_update(5, balance=2)
    assert sorted(Account.objects.values_list("balance", "fence")) == [(0, 9), (1, 6)]


def test_update_across_relations_while_a_later_holder_writes(bank: Bank) -> None:
    """Also across relations, an update that has to wait for a newer one is refused when that is committed."""
    account = make(Account, 5, owner=Customer.objects.create(name="a"))

    def update() -> None:
        try:
            Account.objects.filter(owner__name="a").fenced_update(6, balance=3)
        finally:
            connections["bank"].close()

    with transaction.atomic("bank"):
        account.save(fence=7)
        second = in_thread(update)
        poll(bank.somebody_waits)
    with pytest.raises(StaleFence):
        second.result(30)
    assert stored(account) == (0, 7)


def test_update_of_several_tables(bank: Bank) -> None:
    """Fields of the tables that a model inherits from are updated with its own, or none of them."""
    company, savings = make(Company, 7), make(Savings, 7)
    for rows, values in (
        (Company.objects.filter(pk=company.pk), {"name": "a", "balance": 1}),
        (Company.objects.filter(name=""), {"name": "a"}),
        (Savings.objects.filter(pk=savings.pk), {"rate": 2, "balance": 1}),
        (Savings.objects.filter(rate=0), {"rate": 2}),
    ):
        with pytest.raises(StaleFence):
            rows.fenced_update(6, **values)
    assert (Company.objects.get().name, Savings.objects.get().rate) == ("", 0)
    assert Company.objects.filter(name="").fenced_update(8, name="a", balance=1) == 1
    assert Savings.objects.filter(rate=0).fenced_update(8, rate=2, balance=1) == 1
    for row in (Company.objects.get(), Savings.objects.get()):
        assert stored(row) == (1, 8)
    assert (Company.objects.get().name, Savings.objects.get().rate) == ("a", 2)


def test_own_querysets(bank: Bank) -> None:
    """A queryset of one's own that inherits from FencedQuerySet can do both."""
    make(Till, 7, balance=200)
    assert Till.objects.rich().fenced_update(7, balance=300) == 1
    with pytest.raises(StaleFence):
        Till.objects.rich().fenced_update(6, balance=1)


def test_what_cannot_be_updated(bank: Bank) -> None:
    """A fence among the values, an unknown field, and a slice are refused, each with a word on what is wrong."""
    with pytest.raises(TypeError, match="leave `fence=` out"):
        Account.objects.fenced_update(5, fence=6)
    with pytest.raises(FieldDoesNotExist, match="nonsense"):
        Account.objects.fenced_update(5, nonsense=6)
    with pytest.raises(TypeError, match="slice"):
        Account.objects.all()[:3].fenced_update(5, balance=6)


# ---- recipes of docs/fencing.md


def test_claim_before_reading(bank: Bank) -> None:
    """A claim writes nothing but the fence; whoever held the lock before is refused from then on."""
    account = make(Account, 5, balance=1)
    assert Account.objects.filter(pk=account.pk).fenced_update(7) == 1
    assert stored(account) == (1, 7)
    with pytest.raises(StaleFence):
        account.save(fence=6)


def test_one_row_for_all(bank: Bank) -> None:
    """Where one row is fenced first, what else is written in the transaction is undone with it."""
    account = make(Account, 7)

    @transaction.atomic("bank")
    def write() -> None:
        Entry.objects.create(account=account)
        Account.objects.filter(pk=account.pk).fenced_update(6)

    with pytest.raises(StaleFence):
        write()
    assert not Entry.objects.exists()


UPSERT = """
    INSERT INTO bank_coupon (code, balance, fence) VALUES (%s, %s, %s)
    ON CONFLICT (code) DO UPDATE SET balance = excluded.balance, fence = excluded.fence
    WHERE bank_coupon.fence <= excluded.fence
"""


def test_upsert(bank: Bank) -> None:
    """Raw SQL that inserts or updates compares fences, too: the row count says whether it was refused."""
    for fence, balance, written in ((5, 1, 1), (5, 2, 1), (7, 3, 1), (6, 4, 0)):
        with connections["bank"].cursor() as cursor:
            cursor.execute(UPSERT, ["a", balance, fence])
            assert cursor.rowcount == written
    assert stored(Coupon(code="a")) == (3, 7)


def test_insert_unless_there(bank: Bank) -> None:
    """The same on every database: a row without a fence if there is none, and then the update."""
    for fence, balance in ((5, 1), (7, 3)):
        Coupon.objects.bulk_create([Coupon(code="a")], ignore_conflicts=True)
        Coupon.objects.filter(code="a").fenced_update(fence, balance=balance)
    Coupon.objects.bulk_create([Coupon(code="a")], ignore_conflicts=True)
    with pytest.raises(StaleFence):
        Coupon.objects.filter(code="a").fenced_update(6, balance=4)
    assert stored(Coupon(code="a")) == (3, 7)


# ---- what it costs


def statements(work: Callable[[], Any]) -> list[str]:
    """The first words of the statements that are made."""
    with CaptureQueriesContext(connections["bank"]) as asked:
        work()
    return [query["sql"].split()[0] for query in asked.captured_queries]


def test_statements(bank: Bank) -> None:
    """A write to one row is one UPDATE, also inside of a transaction."""
    account = make(Account, 5)
    make(Till, 5)
    rows, tills = Account.objects.filter(pk=account.pk, balance=0), Till.objects.filter(number=1)
    for within in (ExitStack(), transaction.atomic("bank")):
        with within:
            assert statements(lambda: account.save(fence=6)) == ["UPDATE"]
            assert statements(lambda: account.save(fence=6, update_fields=["note"])) == ["UPDATE"]
            assert statements(lambda: rows.fenced_update(6, note="a")) == ["UPDATE"]
            assert statements(lambda: tills.fenced_update(6, balance=1)) == ["UPDATE"]
    many = statements(lambda: Account.objects.filter(balance=0).fenced_update(6, note="a"))
    assert [word for word in many if word not in ("BEGIN", "COMMIT")] == ["UPDATE", "SELECT"]


@pytest.mark.parametrize(
    "several",
    [
        lambda rows: rows.filter(pk=F("balance")),
        lambda rows: rows.exclude(pk=0),
        lambda rows: rows.filter(pk=1) | rows.filter(balance=2),
        lambda rows: rows.filter(pk__in=[1, 2]),
    ],
)
def test_many_are_not_taken_for_one(bank: Bank, several: Callable[[Any], Any]) -> None:
    """A filter that mentions the key and may match several rows is all or nothing, too."""
    for number, fence in ((1, 5), (2, 9)):
        Account(pk=number, balance=number).save(fence=fence)
    with pytest.raises(StaleFence):
        several(Account.objects.all()).fenced_update(6, note="a")
    assert set(Account.objects.values_list("note", flat=True)) == {""}
