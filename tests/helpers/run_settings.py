"""Settings of the commands that tests/edge/test_run.py starts as processes; where Redis is, the environment says."""

from __future__ import annotations

import json
import os

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["django_locksmith"]
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ["REDIS_URL"],
        "OPTIONS": {"SOCKET_TIMEOUT": 0.5, "SOCKET_CONNECT_TIMEOUT": 0.5},
    }
}
LOCKSMITH = {"REDIS": "default", **json.loads(os.environ.get("LOCKSMITH", "{}"))}
