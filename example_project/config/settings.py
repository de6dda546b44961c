"""Settings of the example project: one Redis for the cache, the locks and the task queue."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "only for the example"
DEBUG = True  # only for the example
USE_TZ = True

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
WEATHER_API = os.environ.get("WEATHER_API", "http://127.0.0.1:8765")
# The addresses of the servers whom the page's visitors visit, with blanks between them. None: the one that serves it.
SERVERS = os.environ.get("SERVERS", "").split()
VISITORS = int(os.environ.get("VISITORS", "100"))

INSTALLED_APPS = ["django.contrib.staticfiles", "django_locksmith", "weather"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]
STATIC_URL = "static/"

CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": REDIS_URL}}
LOCKSMITH = {"REDIS": "default"}

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True

# A 503 is what this example is about: ninety of them at once are no news for the console. All else still is.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "but_503": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", None) != 503,
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["but_503"]}},
    "loggers": {"django": {"handlers": ["console"], "level": "WARNING"}},
}
