"""The addresses of the test suite: the admin, and a second site of it."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from django_locksmith.admin import LockAdmin
from django_locksmith.models import Lock

other_site = admin.AdminSite(name="other")
other_site.register(Lock, LockAdmin)

urlpatterns = [path("admin/", admin.site.urls), path("other/", other_site.urls)]
