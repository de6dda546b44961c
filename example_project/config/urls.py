"""The addresses: the page, what its script asks for, and the page that a visitor gets."""

from __future__ import annotations

from django.urls import path
from weather import views

urlpatterns = [
    path("", views.page, name="page"),
    path("run/", views.run, name="run"),
    path("forecast/<city>/", views.forecast, name="forecast"),
    path("async/forecast/<city>/", views.aforecast, name="aforecast"),
]
