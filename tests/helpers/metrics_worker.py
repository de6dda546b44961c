"""A process whose locks are measured for Prometheus: it takes a lock, says so, and gives it back when it is told to."""

from __future__ import annotations

import os
import sys

import django
from django.conf import settings


def main(work: str, url: str, key: str) -> None:
    settings.configure(LOCKSMITH={"REDIS": url})
    django.setup()
    from prometheus_client import generate_latest

    from django_locksmith import locksmith
    from django_locksmith.contrib import prometheus

    prometheus.install()
    if work == "fork":
        with locksmith(key, template="kind") as lease:
            child = os.fork()
            if child == 0:
                print(generate_latest().decode(), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            assert lease.held
        return
    lease = locksmith(key, template="kind").acquire()
    assert lease is not None
    print("holds", flush=True)
    sys.stdin.readline()
    lease.release()
    print("released", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
