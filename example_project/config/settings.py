"""Settings of the example project: one Redis for the cache, the locks and the task queue; SQLite for the shop."""

from __future__ import annotations

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "only for the example"
DEBUG = True  # only for the example
USE_TZ = True
TIME_ZONE = "UTC"

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
WEATHER_API = os.environ.get("WEATHER_API", "http://127.0.0.1:8765")
# The addresses of the servers whom the page's visitors visit, with blanks between them. None: the one that serves it.
SERVERS = os.environ.get("SERVERS", "").split()
VISITORS = int(os.environ.get("VISITORS", "100"))

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_locksmith",
    "shop",
    "weather",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_locksmith.middleware.LocksmithMiddleware",  # for the locks that are taken inside of views
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],  # before those of apps: our page for who finds a lock busy
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"

# Only the shop and the admin have need of it: the weather does without.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE", BASE_DIR / "db.sqlite3"),
        "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL", "timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": REDIS_URL}}
LOCKSMITH = {
    "REDIS": "default",
    "RATE_LIMITS": {"weather": os.environ.get("WEATHER_RATE", "10/s")},  # what the API allows: weather/api.py --rate
    # It counts when calls reach it, and some take longer to than others: for so many seconds more than its own second.
    "RATE_CAUTION": 0.1,
}

CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True

# To be turned away is what this example is about: ninety times at once is no news for the console. All else still is.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "but_turned_away": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", None) not in (409, 503),
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["but_turned_away"]}},
    "loggers": {"django": {"handlers": ["console"], "level": "WARNING"}},
}
