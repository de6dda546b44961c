"""The nightly task. `config/celery.py` says when."""

from __future__ import annotations

from config.celery import app

from django_locksmith.contrib.celery import lock_task

from .models import Umbrella
from .stock import fill


@app.task
@lock_task("nightly", timeout=60, renew=True, on_busy="skip")
def restock() -> dict[str, int]:
    """Fill the shelves. However many servers run a beat, or a crontab with this lock, one is at it at a time.

    A lock does not remember that it was held: who comes after the first is done does it again. That is harmless here,
    for a full shelf stays as it is.
    """
    return {slug: fill(slug) for slug in Umbrella.objects.values_list("slug", flat=True)}
