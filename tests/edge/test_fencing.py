"""Rows that refuse the write of a former holder: on SQLite, and with `-m postgres` on a real PostgreSQL."""

from __future__ import annotations

import pickle
import signal
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.core import serializers
from django.core.exceptions import FieldDoesNotExist
from django.db import DatabaseError, IntegrityError, connections, models, transaction
from django.db.models import F, signals
from django.template import Context, Engine
from django.test import modify_settings
from django.test.utils import CaptureQueriesContext

from django_locksmith import LockLost, locksmith
from django_locksmith.exceptions import StaleFence
from tests.bank.models import (
    MODELS,
    Account,
    Bare,
    Box,
    Careful,
    Company,
    Coupon,
    Customer,
    Entry,
    Savings,
    Stand,
    Ticket,
    Till,
)
from tests.conftest import in_thread
from tests.helpers.children import Nursery
from tests.helpers.databases import added, empty_tables, make_tables, routed
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from django_locksmith import Locksmith
    from tests.conftest import Deployment
    from tests.helpers.postgres import Postgres


@dataclass
class Bank:
    """Where the accounts of a test are."""

    databases: dict[str, dict[str, Any]]
    server: Postgres | None

    def somebody_waits(self) -> bool:
        """Does a statement wait for a lock? SQLite cannot tell: it lets nobody write beside a writer."""
        return self.server is None or self.server.run("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0] > 0


@pytest.fixture(scope="session")
def on_postgres(postgres: Postgres, django_db_blocker: Any) -> Iterator[dict[str, dict[str, Any]]]:
    """Databases on a PostgreSQL, with the tables: they take longer to make than most tests do."""
    with ExitStack() as stack:
        databases = {alias: stack.enter_context(postgres.database()) for alias in ("bank", "branch")}
        for alias, database in databases.items():
            with django_db_blocker.unblock(), added(alias, database):
                make_tables(alias, MODELS)
        yield databases


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def bank(request: pytest.FixtureRequest, tmp_path: Path, django_db_blocker: Any) -> Iterator[Bank]:
    """A database with empty tables, which other processes may use, too."""
    server = request.getfixturevalue("postgres") if request.param == "postgres" else None
    databases = request.getfixturevalue("on_postgres") if server is not None else files(tmp_path)
    bank = Bank(databases, server)
    with ExitStack() as stack:
        stack.enter_context(modify_settings(INSTALLED_APPS={"append": "tests.bank"}))
        stack.enter_context(routed("bank", "bank"))
        stack.enter_context(django_db_blocker.unblock())
        stack.enter_context(opened(bank, "bank"))
        yield bank


@pytest.fixture
def branch(bank: Bank) -> Iterator[None]:
    """Another database with the same tables."""
    with opened(bank, "branch"):
        yield


def files(folder: Path) -> dict[str, dict[str, Any]]:
    """Databases that are files."""
    options = {"init_command": "PRAGMA synchronous=OFF"}  # nobody needs them after a loss of power
    engine = "django.db.backends.sqlite3"
    return {alias: {"ENGINE": engine, "NAME": str(folder / alias), "OPTIONS": options} for alias in ("bank", "branch")}


@contextmanager
def opened(bank: Bank, alias: str) -> Iterator[None]:
    """The database has this alias, and its tables are empty."""
    with added(alias, bank.databases[alias]):
        (make_tables if bank.server is None else empty_tables)(alias, MODELS)
        yield


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


@pytest.fixture(params=KEYS, ids=lambda model: model.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    """Each of the models."""
    return request.param


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


@pytest.fixture(params=WAYS)
def write(request: pytest.FixtureRequest) -> Callable[[Any, int], Any]:
    """Each of the ways."""
    return WAYS[request.param]


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
    with pytest.raises(LockLost, match=rf"the write to bank.Account {account.pk} with fence 6 was refused: fence 7"):
        account.save(fence=6)
    error = StaleFence(6, 7, "bank.Account", 1, "account:1")
    assert "fence 6 of the lock 'account:1' was refused" in str(error)
    assert str(StaleFence(6)) == (
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
