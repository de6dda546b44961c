"""Fences that the database checks: rows that refuse the write of a former holder.

    class Account(FencedModel):
        balance = models.IntegerField()

    with locksmith("account:7") as lease:
        account = Account.objects.get(pk=7)
        account.balance -= 30
        account.save(fence=lease)  # StaleFence if a later holder has written

Import it in `models.py`: like every model, these can only be made once Django is loading its apps. Redis is not asked.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections, models, router, transaction
from django.db.models.expressions import Col
from django.db.models.lookups import Exact

from .api.lease import Lease
from .exceptions import StaleFence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from django.db.models.base import ModelBase
    from typing_extensions import Self

_M = TypeVar("_M", bound=models.Model, covariant=True)

_LARGEST = 2**63 - 1  # that the column can hold
_DEFERRED = object()


@dataclass
class _Write:
    """One write under a fence: whose it is, whether it inserts a row that is gone, and how it was refused, if so."""

    fence: int
    key: str
    inserts: bool = False
    refusal: StaleFence | None = None

    def refused(self, model: type[models.Model], newer: int | None, pk: Any = None) -> StaleFence:
        self.refusal = StaleFence(self.fence, newer, model._meta.label, pk, self.key)
        return self.refusal


def _write_under(fence: Lease | int) -> _Write:
    if isinstance(fence, Lease):
        if fence.shared:
            raise TypeError(
                f"the fences of slots say nothing about order among their holders, and cannot guard a row: {fence!r};"
                " take a lock for that"
            )
        fence.ensure_held()
        return _Write(fence.fence, fence.key)
    if isinstance(fence, bool) or not isinstance(fence, int):
        raise TypeError(f"fence must be a lease, or the int that is its fence, not {fence!r}")
    if not 0 < fence <= _LARGEST:
        raise ValueError(f"fence must be from 1 to {_LARGEST}, not {fence!r}; take that of a lease")
    return _Write(fence, "")


class FencedQuerySet(models.QuerySet[_M]):
    """A queryset that updates under a fence. `FencedModel.objects` is its manager; inherit from it for one's own."""

    def fenced_update(self, fence: Lease | int, /, **values: Any) -> int:
        """As `update(**values)`, unless a newer fence has written one of the rows: then none is written.

        A filter that names one row, by `pk=` or another unique field, makes one UPDATE. Others make a transaction, in
        which the UPDATE is followed by a look for rows that it had to leave out. Filters across relations, and models
        whose fields are spread over several tables, also read the primary keys first. Redis is not asked.

        Args:
            fence: the lease, or its fence.
            **values: what to write.

        Returns:
            The number of rows written; 0 if the filter matches none.

        Raises:
            StaleFence: a newer fence has written one of the rows.
            LockLost: at once, if a lease is given that is not held any more.
            TypeError, ValueError: name the argument at fault.
        """
        write = _write_under(fence)
        if "fence" in values:
            raise TypeError("fenced_update writes the fence that it is given first; leave `fence=` out of the values")
        self._for_write = True
        rows = self.filter(fence__lte=write.fence)
        fields = {self.model._meta.get_field(name) for name in ("fence", *values)}
        if not fields.issubset(_own_fields(self.model)) or rows.query.count_active_tables() > 1:
            return self._update_by_keys(write, values)
        if self._names_one_row():
            written = rows.update(fence=write.fence, **values)
            return written or self._raise_if_newer(write)
        with transaction.atomic(using=self.db):
            written = rows.update(fence=write.fence, **values)
            self._raise_if_newer(write)
        return written

    async def afenced_update(self, fence: Lease | int, /, **values: Any) -> int:
        """As `fenced_update`."""
        return await sync_to_async(self.fenced_update)(fence, **values)

    def _names_one_row(self) -> bool:
        where = self.query.where
        return not where.negated and where.connector == "AND" and any(map(_is_unique, where.children))

    def _raise_if_newer(self, write: _Write) -> int:
        # Of what the UPDATE was to match, that which it left out still matches; it has only a newer fence.
        rows = self.using(self.db).filter(fence__gt=write.fence)
        newer = rows.aggregate(newer=models.Max("fence"))["newer"]
        if newer is not None:
            raise write.refused(self.model, newer)
        return 0

    def _update_by_keys(self, write: _Write, values: dict[str, Any]) -> int:
        # Django would look for the rows in a subquery, or before the UPDATE, and compare their fences there: a newer
        # holder that writes between the two would not be seen. So the fence is compared where it is written, in the
        # table that has it; from then on, the rows are locked.
        owner = _table_of_fence(self.model)
        found = list(self.using(self.db).values_list("pk", owner._meta.pk.name))
        keys, owners = {key for key, _ in found}, {key for _, key in found}
        if not found:
            return 0
        with transaction.atomic(using=self.db):
            fenced = owner._base_manager.using(self.db).filter(pk__in=owners)
            written = fenced.filter(fence__lte=write.fence).update(fence=write.fence)
            if written < len(owners):
                newer = fenced.filter(fence__gt=write.fence).aggregate(newer=models.Max("fence"))["newer"]
                if newer is not None:
                    raise write.refused(self.model, newer)
            if values:
                written = self.model._base_manager.using(self.db).filter(pk__in=keys).update(**values)
        return written


if TYPE_CHECKING:

    class FencedManager(FencedQuerySet[_M], models.Manager[_M]):  # type: ignore[misc]  # both may be subscripted
        """The manager of fenced querysets; to inherit from, as from `FencedQuerySet`."""
else:
    FencedManager = models.Manager.from_queryset(FencedQuerySet)


class FencedModel(models.Model):
    """A model whose rows remember the newest fence that wrote them, and refuse older ones.

    Adds the column `fence` (`makemigrations` finds it) and the argument `fence=` to `save`, `delete` and their twins:
    the lease, or its fence. The database compares it in the statement that writes. Raises `StaleFence` if a newer one
    has written; the same one may write again. Also raises `LockLost`, before the database is asked, if a lease is given
    that is not held any more.

    Without `fence=` they are Django's own: they check nothing, and leave the fence in the row as it is.
    """

    # The default in the database is for those who insert without knowing of the column: raw SQL, and the release of the
    # project that still runs while this one is deployed.
    fence = models.BigIntegerField(default=0, db_default=0, editable=False)

    objects: ClassVar[FencedManager[Self]] = FencedManager()

    _fencing: ClassVar[_Write | None] = None  # of an instance, while it is saved under a fence

    class Meta:
        abstract = True

    def save(
        self,
        *args: Any,
        force_insert: bool | tuple[ModelBase, ...] = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
        fence: Lease | int | None = None,
    ) -> None:
        """As Django's. With a `fence`: write the row only if no newer fence has written it.

        An instance that was read from the database is then never inserted again: where its row is gone, nobody knows
        who deleted it, and `StaleFence` says so. To insert it all the same, say `force_insert=True`.

        Args:
            fence: the lease, or its fence; `None` = write as Django does, and check nothing.

        Raises:
            StaleFence: a newer fence has written the row, or the row is gone.
            LockLost: at once, if a lease is given that is not held any more.
        """
        if update_fields is not None:
            update_fields = set(update_fields)
        if fence is not None and (update_fields is None or update_fields):
            if args:
                raise TypeError("with a fence, save() takes arguments by name only")
            if update_fields is not None:
                update_fields |= {"fence"}
            write = _write_under(fence)
            write.inserts = bool(force_insert)
            how: dict[str, Any] = {"force_insert": force_insert, "force_update": force_update}
            self._save_fenced(write, using, update_fields=update_fields, **how)
            return
        if fence is None and update_fields is not None and "fence" in update_fields:
            raise ValueError("the fence of a row is written by save(fence=...) only; leave it out of update_fields")
        outer = self.__dict__.pop("_fencing", None)  # a signal's receiver may save what is just being saved
        try:
            super().save(
                *args,
                force_insert=force_insert,
                force_update=force_update,
                using=using,
                update_fields=update_fields,
            )
        finally:
            if outer is not None:
                self.__dict__["_fencing"] = outer

    async def asave(
        self,
        *args: Any,
        force_insert: bool | tuple[ModelBase, ...] = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
        fence: Lease | int | None = None,
    ) -> None:
        """As `save`."""
        await sync_to_async(self.save)(
            *args,
            force_insert=force_insert,
            force_update=force_update,
            using=using,
            update_fields=update_fields,
            fence=fence,
        )

    def delete(
        self, using: Any | None = None, keep_parents: bool = False, *, fence: Lease | int | None = None
    ) -> tuple[int, dict[str, int]]:
        """As Django's. With a `fence`: delete the row only if no newer fence has written it.

        One UPDATE decides, and keeps the row locked until it and all that hangs on it is deleted, in one transaction.
        Where the row is gone already, nothing is deleted, as in Django.

        Args:
            fence: the lease, or its fence; `None` = delete as Django does, and check nothing.

        Returns:
            As Django does: how many rows were deleted, and how many of each model.

        Raises:
            StaleFence: a newer fence has written the row.
            LockLost: at once, if a lease is given that is not held any more.
        """
        if fence is None or self.pk is None:  # without a key, Django has something to say
            return super().delete(using=using, keep_parents=keep_parents)
        write = _write_under(fence)
        using = using or router.db_for_write(type(self), instance=self)
        owner = _table_of_fence(type(self))
        pk = self._get_pk_val(owner._meta)
        row = owner._base_manager.using(using).filter(pk=pk)
        with transaction.atomic(using=using):
            if row.filter(fence__lte=write.fence).update(fence=write.fence):
                return super().delete(using=using, keep_parents=keep_parents)
            if (newer := row.values_list("fence", flat=True).first()) is not None:
                raise write.refused(type(self), newer, self.pk)
        setattr(self, self._meta.pk.attname, None)
        return 0, {self._meta.label: 0}

    async def adelete(
        self, using: Any | None = None, keep_parents: bool = False, *, fence: Lease | int | None = None
    ) -> tuple[int, dict[str, int]]:
        """As `delete`."""
        return await sync_to_async(self.delete)(using=using, keep_parents=keep_parents, fence=fence)

    def _save_fenced(self, write: _Write, using: str | None, **options: Any) -> None:
        using = using or router.db_for_write(type(self), instance=self)
        place = self.__dict__
        before, outer = place.get("fence", _DEFERRED), place.get("_fencing")
        self.fence, place["_fencing"] = write.fence, write
        try:
            with _usable_afterwards(using, write, several_tables=len(_tables(type(self))) > 1):
                super().save(using=using, **options)
            self.fence = write.fence
        except BaseException:
            if before is _DEFERRED:
                place.pop("fence", None)
            else:
                place["fence"] = before
            raise
        finally:
            place["_fencing"] = outer
            if outer is None:
                del place["_fencing"]

    def _do_update(self, base_qs: Any, using: Any, pk_val: Any, values: Any, *more: Any) -> Any:
        # Django asks for this once for each table that the model's fields are in; one of them has the fence. What else
        # it asks with, and the answer, differ between its versions.
        write = self._fencing
        column = self._meta.get_field("fence")
        fenced = column in base_qs.model._meta.local_concrete_fields
        if fenced:
            # What was read with the row may be old by now, and must not be written over a newer one.
            values = [value for value in values if value[0] != column]
        if write is None:
            return super()._do_update(base_qs, using, pk_val, values, *more)
        rows = base_qs
        if fenced:
            values.append((column, None, write.fence))
            rows = base_qs.filter(fence__lte=write.fence)
        for _ in range(2):  # again if another, older holder made the row just after the first time
            if updated := super()._do_update(rows, using, pk_val, values, *more):
                return updated
            found = base_qs.filter(pk=pk_val).values_list("fence", flat=True).first() if fenced else None
            if found is None or found > write.fence:
                break
        if found is None and (write.inserts or self._state.adding or self._state.db != using):
            return updated  # new here: Django goes on to insert it
        raise write.refused(type(self), found if found is None or found > write.fence else None, self.pk)


def _tables(model: type[models.Model]) -> list[type[models.Model]]:
    """The models whose tables the fields of this one are in."""
    concrete: Any = model._meta.concrete_model  # of a proxy, what it stands for
    return [concrete, *concrete._meta.all_parents]


def _own_fields(model: type[models.Model]) -> set[Any]:
    """The fields in the table of the model itself."""
    return set(_tables(model)[0]._meta.local_concrete_fields)


def _table_of_fence(model: type[models.Model]) -> type[models.Model]:
    """The model whose table has the fence: this one, or one that it inherits from."""
    return model._meta.get_field("fence").model


def _is_unique(condition: Any) -> bool:
    """Is it met by one row at most?"""
    # `filter(pk=F("other"))` is not: it may be met by all of them.
    if not isinstance(condition, Exact) or not isinstance(condition.lhs, Col) or hasattr(condition.rhs, "as_sql"):
        return False
    return bool(condition.lhs.target.unique)


@contextmanager
def _usable_afterwards(using: str, write: _Write, *, several_tables: bool) -> Iterator[None]:
    """If the write is refused, the transaction around it is as it was before, and goes on.

    Django gives a transaction up when a save in it fails: it cannot know what has been written.
    """
    if not connections[using].in_atomic_block:
        yield
    elif several_tables:
        with transaction.atomic(using=using):
            yield
    else:
        try:
            yield
        except StaleFence as error:
            if error is write.refusal:  # and not one that a receiver of signals has raised, after who knows what
                transaction.set_rollback(False, using)  # the one UPDATE wrote nothing
            raise
