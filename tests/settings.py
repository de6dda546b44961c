"""Settings of the test suite. Where Redis is, each test says by the `deployment` fixture."""

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["django_locksmith"]
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    # Nobody listens here: a test that forgets to say where Redis is fails at once.
    "redis": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"},
}
LOCKSMITH = {"REDIS": "redis"}
