"""System checks. They ask no server: a check must not fail because Redis is down."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from .connections import check_deployment
from .service import locksmith


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """E001: settings.LOCKSMITH is at fault. E002: what it names as Redis cannot hold locks."""
    try:
        settings = locksmith.settings
    except ImproperlyConfigured as error:
        return [Error(str(error), hint="See the settings of django_locksmith.", id="locksmith.E001")]
    try:
        check_deployment(settings.redis)
    except ImproperlyConfigured as error:
        return [Error(str(error), hint="See LOCKSMITH['REDIS'].", id="locksmith.E002")]
    return []
