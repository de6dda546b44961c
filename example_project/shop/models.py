"""What the shop writes down. Also each request and each charge: so that one can see what a double click does."""

from __future__ import annotations

from django.db import models

from django_locksmith.fencing import FencedModel


class Umbrella(FencedModel):
    """A kind of umbrella, and how many are left: written under the lock `stock:<slug>` only, and under its fence."""

    slug = models.SlugField(primary_key=True)
    name = models.CharField(max_length=50)
    note = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=6, decimal_places=2)
    full = models.PositiveIntegerField(help_text="how many are on the shelf after the nightly restock")
    left = models.PositiveIntegerField()

    class Meta:
        ordering = ("price",)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """One umbrella, bought. The form that bought it carried the number."""

    number = models.UUIDField(primary_key=True)
    umbrella = models.ForeignKey(Umbrella, models.PROTECT)
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.number)


class Charge(models.Model):
    """Money that somebody else's API took from the customer's card. It is in *their* database, and asks no lock."""

    number = models.UUIDField(db_index=True)
    amount = models.DecimalField(max_digits=6, decimal_places=2)
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.amount} for {self.number}"


class Click(models.Model):
    """A request with an order's number. A real shop has no need of it."""

    number = models.UUIDField(db_index=True)
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.number} at {self.at:%H:%M:%S}"
