"""The addresses: the weather page, what its script asks for, the page that a visitor gets; the shop; the admin."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from shop import views as shop
from weather import views

urlpatterns = [
    path("", views.page, name="page"),
    path("run/", views.run, name="run"),
    path("forecast/<city>/", views.forecast, name="forecast"),
    path("async/forecast/<city>/", views.aforecast, name="aforecast"),
    path("shop/", shop.shop, name="shop"),
    path("shop/unlocked/", shop.unlocked, name="unlocked"),
    path("shop/receipt/<uuid:number>/", shop.receipt, name="receipt"),
    path("shop/report/", shop.report, name="report"),
    path("admin/", admin.site.urls),
]
