"""The Celery app: `celery -A config worker`, run in the folder of manage.py."""

from __future__ import annotations

import os

from celery import Celery
from celery.schedules import crontab

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("weather")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
# Not among the settings, where it would load Celery into every web server.
app.conf.beat_schedule = {"nightly": {"task": "shop.tasks.restock", "schedule": crontab(hour=3, minute=0)}}
