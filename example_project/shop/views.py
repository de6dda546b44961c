"""The shop: a form that may be clicked twice, the same one without a lock, the receipt, and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from django_locksmith.decorators import lock_view

from . import report as books
from .models import Charge, Click, Order, Umbrella
from .orders import OrderForm, place
from .stock import SoldOut

if TYPE_CHECKING:
    from django.http import HttpRequest


@require_http_methods(["GET", "POST"])
@never_cache
@lock_view("order:{post:number}", blocking_timeout=10)
def shop(request: HttpRequest) -> HttpResponse:
    """GET: the forms. POST: buy. The second of two clicks waits for the first, and finds its order."""
    return _buy(request) if request.method == "POST" else _forms(request)


@require_http_methods(["GET", "POST"])
@never_cache
def unlocked(request: HttpRequest) -> HttpResponse:
    """The same with nothing but a look into the database, which both clicks do before either has written."""
    return _buy(request) if request.method == "POST" else redirect("shop")


@require_GET
@never_cache
def receipt(request: HttpRequest, number: UUID) -> HttpResponse:
    """What became of an order, and of the card."""
    order = get_object_or_404(Order.objects.select_related("umbrella"), pk=number)
    charges, clicks = (model.objects.filter(number=number).count() for model in (Charge, Click))
    return render(request, "shop/receipt.html", {"order": order, "charges": charges, "clicks": clicks})


@require_GET
@lock_view("report", methods=["GET"], renew=True)
def report(request: HttpRequest) -> StreamingHttpResponse:
    """A download. The lock is held until it has been sent, or whoever wanted it has gone away."""
    lines = books.alines() if isinstance(request, ASGIRequest) else books.lines()
    return StreamingHttpResponse(
        lines, content_type="text/csv", headers={"Content-Disposition": 'attachment; filename="umbrellas.csv"'}
    )


def _forms(request: HttpRequest) -> HttpResponse:
    """Each form has a number of its own, which is good for one order."""
    context = {"umbrellas": Umbrella.objects.all(), "number": uuid4(), "unlocked_number": uuid4()}
    return render(request, "shop/shop.html", context)


def _buy(request: HttpRequest) -> HttpResponse:
    form = OrderForm(request.POST)
    if not form.is_valid():
        return render(request, "shop/sorry.html", {"errors": form.errors.as_data()}, status=400)
    umbrella: Umbrella = form.cleaned_data["umbrella"]
    try:
        order = place(form.cleaned_data["number"], umbrella)
    except SoldOut:
        return render(request, "shop/sorry.html", {"umbrella": umbrella}, status=409)
    return redirect("receipt", order.pk)
