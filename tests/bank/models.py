"""The models."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models

from django_locksmith.fencing import FencedModel, FencedQuerySet


class Customer(models.Model):
    """Has no fence."""

    name = models.CharField(max_length=50, default="")
    active = models.BooleanField(default=True)

    class Meta:
        app_label = "bank"


class Account(FencedModel):
    """The usual case."""

    balance = models.IntegerField(default=0)
    note = models.CharField(max_length=50, default="")
    owner = models.ForeignKey(Customer, models.SET_NULL, null=True)

    class Meta:
        app_label = "bank"


class Entry(models.Model):
    """What is deleted with an account."""

    account = models.ForeignKey(Account, models.CASCADE)

    class Meta:
        app_label = "bank"


class Stand(Account):
    """The same row by another name."""

    class Meta:
        app_label = "bank"
        proxy = True


class Savings(Account):
    """Its fence is in the table of what it inherits from."""

    rate = models.IntegerField(default=0)

    class Meta:
        app_label = "bank"


class Company(FencedModel, Customer):
    """Its fence is in its own table, and more of it in that of what it inherits from."""

    balance = models.IntegerField(default=0)

    class Meta:
        app_label = "bank"


class Coupon(FencedModel):
    """Has a key of its own, and a column that the database computes."""

    code = models.CharField(max_length=10, primary_key=True)
    balance = models.IntegerField(default=0)
    twice: Any = models.GeneratedField(
        expression=models.F("balance") * 2, output_field=models.IntegerField(), db_persist=True
    )

    class Meta:
        app_label = "bank"


class Careful(FencedModel):
    """Looks before it updates."""

    balance = models.IntegerField(default=0)

    class Meta:
        app_label = "bank"
        select_on_save = True


class Ticket(FencedModel):
    """Makes its key itself."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    balance = models.IntegerField(default=0)

    class Meta:
        app_label = "bank"


class Box(FencedModel):
    """Its key is made of two columns."""

    pk = models.CompositePrimaryKey("room", "number")
    room = models.IntegerField()
    number = models.IntegerField()
    balance = models.IntegerField(default=0)

    class Meta:
        app_label = "bank"


class Bare(FencedModel):
    """Has nothing but a fence."""

    class Meta:
        app_label = "bank"


class TillQuerySet(FencedQuerySet["Till"]):
    """A queryset of one's own."""

    def rich(self) -> TillQuerySet:
        return self.filter(balance__gt=100)


class Till(FencedModel):
    """Has a manager of its own, and a column that is unique."""

    number = models.IntegerField(unique=True)
    balance = models.IntegerField(default=0)

    objects = TillQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        app_label = "bank"


MODELS: list[type[models.Model]] = [
    Customer,
    Account,
    Entry,
    Savings,
    Company,
    Coupon,
    Careful,
    Ticket,
    Box,
    Bare,
    Till,
]
