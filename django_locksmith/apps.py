"""The Django app: it brings the management commands and the system checks."""

from __future__ import annotations

from django.apps import AppConfig


class LocksmithConfig(AppConfig):
    name = "django_locksmith"
    verbose_name = "Locksmith"

    def ready(self) -> None:
        from .checks import register_checks

        register_checks()
