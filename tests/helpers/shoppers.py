"""A process that makes requests of the two views below, each a transaction, for tests/locks/test_lost_updates.py.

    python -m tests.helpers.shoppers DATABASE REDIS_URL PATH REQUESTS

DATABASE is JSON. It says "ready", begins when it is told to, and says how many of its requests were answered by a 200.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import django
from django.conf import settings

KEY = "stock"
COLUMNS = "CREATE TABLE stock (id integer PRIMARY KEY, sold integer NOT NULL)"


def sell(request: Any) -> Any:
    """Read, think, write: what loses updates wherever two do it at a time."""
    from django.db import connection
    from django.http import HttpResponse

    with connection.cursor() as cursor:
        cursor.execute("SELECT sold FROM stock WHERE id = 1")
        (sold,) = cursor.fetchone()
        cursor.execute("UPDATE stock SET sold = %s WHERE id = 1", [sold + 1])
    return HttpResponse()


def main(database: str, redis_url: str, path: str, requests: str) -> None:
    settings.configure(
        DATABASES={"default": {**json.loads(database), "ATOMIC_REQUESTS": True}},
        CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": redis_url}},
        LOCKSMITH={"REDIS": "default"},
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["django_locksmith"],
    )
    django.setup()
    from django.test import Client
    from django.urls import path as url

    from django_locksmith import locksmith
    from django_locksmith.decorators import lock_view

    globals()["urlpatterns"] = [
        url("by-lock-view/", lock_view(KEY, blocking_timeout=120)(sell)),
        url("by-plain-decorator/", locksmith(KEY, blocking_timeout=120)(sell)),
    ]
    client = Client()
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(client.post(f"/{path}/").status_code == 200 for _ in range(int(requests))), flush=True)


if __name__ == "__main__":
    sys.modules["tests.helpers.shoppers"] = sys.modules["__main__"]
    main(*sys.argv[1:])
