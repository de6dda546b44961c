"""The Django app: it brings the management commands and the system checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class LocksmithConfig(AppConfig):
    name = "django_locksmith"
    verbose_name = "Locks"

    def ready(self) -> None:
        from .checks import check_settings

        checks.register(check_settings)
