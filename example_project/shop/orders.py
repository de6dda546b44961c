"""Buying an umbrella: what must happen once for an order, however often it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms

from . import bank, stock
from .models import Click, Order, Umbrella

if TYPE_CHECKING:
    from uuid import UUID


class OrderForm(forms.Form):
    """What the customer sends: the number that came with the page, and an umbrella."""

    number = forms.UUIDField()
    umbrella = forms.ModelChoiceField(Umbrella.objects.all())

    def clean(self) -> dict[str, Any]:
        # The lock is for the text that was sent, the order for the number that it means. Written in another way, in
        # capitals say, one number would have two locks.
        cleaned = super().clean() or self.cleaned_data
        if "number" in cleaned and str(cleaned["number"]) != self.data["number"]:
            self.add_error("number", "Write the number as the page did.")
        return cleaned


def place(number: UUID, umbrella: Umbrella) -> Order:
    """The order with this number; if there is none yet, take an umbrella, charge the card, and make it.

    Right for one caller at a time: the view sees to that. Raises `stock.SoldOut`.
    """
    Click.objects.create(number=number)
    found = Order.objects.filter(pk=number).first()
    if found is not None:
        return found
    stock.take_one(umbrella.pk)
    bank.charge(number, umbrella.price)
    # There is one order for a number, whoever asks: the database sees to that. But it cannot take a charge back.
    return Order.objects.get_or_create(pk=number, defaults={"umbrella": umbrella})[0]
