"""The Celery app: `celery -A config worker`, run in the folder of manage.py."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("weather")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
