"""Every code block of README and docs/ runs as it is printed, or has a reason beside it in `blocks.py`."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import logging.config
import os
import re
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.db import connection
from django.template import Context, Engine
from django.test import RequestFactory, override_settings
from django.utils.module_loading import import_string

from django_locksmith import LockInfo, RetryLater, conf, locksmith
from tests.docs import blocks
from tests.docs.reader import Project, Requests, tables
from tests.helpers import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.docs.blocks import Block
    from tests.helpers.deployments import Deployment

Names = dict[str, Any]


# ---- the reader


@pytest.fixture
def project(valkey: Deployment, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A reader's project, on a Redis that is empty; what a block changes in this process is put back."""
    requests = Requests()
    monkeypatch.setitem(sys.modules, "requests", requests)  # type: ignore[arg-type]  # no module, but it has `get`
    if django.VERSION < (6, 0):
        import django_tasks

        monkeypatch.setitem(sys.modules, "django.tasks", django_tasks)
    before = signal.getsignal(signal.SIGTERM)
    aliases = dict.fromkeys(("default", "locks", "billing"), valkey.cache)
    with override_settings(CACHES=aliases, LOCKSMITH={}):
        yield Project()
    signal.signal(signal.SIGTERM, before)


def run_python(block: Block, project: Project) -> Names:
    """What the block has defined."""
    code = compile("\n" * (block.line - 1) + block.text, ROOT / block.page, "exec")
    with tables(accounts="class Account" not in block.text) as models:
        names = project.names(models) | {"__name__": f"django_locksmith.reader_of_line_{block.line}"}
        exec(code, names)  # the very text that a user would copy
        look_after(block, names, project)
    return names


# ---- what a block that only defines something is tried with


def order(names: Names, project: Project) -> None:
    assert names["place_order"](RequestFactory().get("/")) is None


def computed(names: Names, project: Project) -> None:
    assert names["forecast"] == {"celsius": 7}
    assert names["profile"](7) is None
    limited(names["call_the_api"])


def limited(call: Callable[[], Any]) -> None:
    """Seconds, a date, and an API that says nothing of the kind."""
    requests: Any = sys.modules["requests"]
    requests.status = 429
    for said, seconds in (("30", 30), ("Fri, 31 Dec 2100 23:59:59 GMT", 365 * 86400), (None, 60)):
        requests.retry_after = said
        with pytest.raises(RetryLater) as caught:
            call()
        assert caught.value.seconds == seconds


def fetched(names: Names, project: Project) -> None:
    assert names["forecast"]("Oslo") == {"celsius": 7}
    limited(lambda: names["fetch"]("Oslo"))


def viewed(names: Names, project: Project) -> None:
    view, request = names["forecast_view"], RequestFactory().get("/")
    assert view(request, "Oslo").status_code == 200

    def later(city: str) -> Any:
        raise RetryLater(2.5)

    names["forecast"] = later
    assert view(request, "Oslo").headers["Retry-After"] == "3"


def nightly(names: Names, project: Project) -> None:
    names["Command"]().handle()
    assert project.calls == [("bill", 1), ("bill", 2)]


def mailed(names: Names, project: Project) -> None:
    asyncio.run(names["mail"]())
    assert project.calls == [("send_all",)]


def written_later(names: Names, project: Project) -> None:
    asyncio.run(names["write_later"]())
    assert project.calls == [("write_report", 42), ("write_report_async", 42)]


def told(names: Names, project: Project) -> None:
    with locksmith("a", timeout=30) as lease:
        names["tell_somebody"](lease, "no reason")
    assert project.calls == [("page_the_owner_of", "a", "no reason")]


def settings_hold(names: Names, project: Project) -> None:
    with override_settings(LOCKSMITH=names["LOCKSMITH"]):
        assert conf.read_settings().redis == names["LOCKSMITH"]["REDIS"]


def aliases_lead_apart(names: Names, project: Project) -> None:
    with override_settings(CACHES=names["CACHES"], LOCKSMITH={"REDIS": "locks"}):
        assert locksmith.runtime().deployment()
    places = {alias["LOCATION"] for alias in names["CACHES"].values()}
    assert len(places) == 2


def installed(names: Names, project: Project) -> None:
    assert "django_locksmith" in names["INSTALLED_APPS"]


def in_between(names: Names, project: Project) -> None:
    assert import_string(names["MIDDLEWARE"][-1])


def logged(names: Names, project: Project) -> None:
    assert logging.config.DictConfigurator(names["LOGGING"]).config["loggers"]["django_locksmith"]


def measured_by_prometheus(names: Names, project: Project) -> None:
    from django_locksmith.contrib import prometheus

    names["YourConfig"]("reader", import_string("tests.docs")).ready()
    prometheus.uninstall()


def measured_by_opentelemetry(names: Names, project: Project) -> None:
    names["opentelemetry"].uninstall()


def imported(names: Names, project: Project) -> None:
    names["import_account"](7)


def queued(names: Names, project: Project) -> None:
    assert names["import_account"].func.locksmith_lock
    names["Command"]().handle(region="north")


def carted(names: Names, project: Project) -> None:
    request: Any = RequestFactory().post("/")
    request.session = {}
    assert names["check_out"](request, 7) is None


WITH: dict[tuple[str, str], Callable[[Names, Project], None]] = {
    ("README.md", "place_order"): order,
    ("README.md", "call_the_api():"): computed,
    ("README.md", "write_later"): written_later,
    ("README.md", "@shared_task"): imported,
    ("README.md", "class Command"): nightly,
    ("README.md", "async def mail"): mailed,
    ("README.md", "INSTALLED_APPS"): installed,
    ("README.md", "LOCKSMITH ="): settings_hold,
    ("README.md", "CACHES ="): aliases_lead_apart,
    ("docs/admin.md", "INSTALLED_APPS"): installed,
    ("docs/monitoring.md", "class YourConfig"): measured_by_prometheus,
    ("docs/monitoring.md", "opentelemetry.install()"): measured_by_opentelemetry,
    ("docs/monitoring.md", "tell_somebody"): told,
    ("docs/monitoring.md", "LOGGING ="): logged,
    ("docs/single-flight.md", "def fetch(city)"): fetched,
    ("docs/single-flight.md", "forecast_view"): viewed,
    ("docs/tasks.md", "@shared_task(acks_late"): imported,
    ("docs/tasks.md", "django.tasks"): queued,
    ("docs/testing.md", "LOCKSMITH ="): settings_hold,
    ("docs/views.md", "check_out"): carted,
    ("docs/views.md", "MIDDLEWARE ="): in_between,
}
"""Page and a piece of the block; and what is done with what it defines."""


def look_after(block: Block, names: Names, project: Project) -> None:
    for (page, piece), look in WITH.items():
        if page == block.page and piece in block.text:
            look(names, project)


# ---- the tests


@pytest.mark.parametrize("block", blocks.here("python"), ids=str)
def test_docs_python(block: Block, project: Project) -> None:
    """A block of Python runs by itself, in a project that has the names which are the reader's own."""
    run_python(block, project)
    assert locksmith.locks() == []


def test_docs_find_only_what_is_the_readers(project: Project) -> None:
    """What surrounds a block comes from no library, so that its imports are all written out."""
    with tables() as models:
        for name, value in project.names(models).items():
            assert not hasattr(builtins, name)
            module = inspect.getmodule(value if inspect.isroutine(value) or inspect.isclass(value) else type(value))
            assert module
            assert module.__name__.split(".")[0] in ("tests", "types", "builtins") or name == "app", name


COMMAND = re.compile(r"(?:[\d*]+ ){4}[\d*]+ +cd /srv/app && \.venv/bin/python manage\.py |python manage\.py ")
LINES = [
    (f"{block}+{number}", line)
    for block in blocks.here("sh", "crontab")
    for number, line in enumerate(block.text.splitlines())
    if line and not line.startswith("#")
]


@pytest.mark.parametrize("line", [line for _, line in LINES], ids=[name for name, _ in LINES])
def test_docs_commands(line: str, valkey: Deployment, tmp_path: Path) -> None:
    """A line of a shell or a crontab calls commands with options that exist, and ends as it should."""
    for script in ("backup.sh", "import.sh", "nightly.sh"):
        (tmp_path / script).write_text("#!/bin/sh\necho done\n")
        (tmp_path / script).chmod(0o755)
    start = COMMAND.match(line)
    assert start, f"no command of manage.py: {line}"
    words = shlex.split(line[start.end() :], comments=True)
    lease = locksmith("report:42", timeout=60).take()
    process = subprocess.Popen(
        [sys.executable, "-m", "django", *words],
        cwd=tmp_path,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.helpers.run_settings", "PYTHONPATH": str(ROOT)}
        | {"REDIS_URL": valkey.server.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if "--watch" in words:
        assert process.stdout
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
    out, err = process.communicate("y\n", timeout=60)
    assert process.returncode in ends_of(words), (out, err)
    if words[0] == "locksmith_run":
        assert (out, err) == ("done\n", "")
    held: list[LockInfo] = locksmith.locks()
    taken = words[0] == "locksmith_clear" and process.returncode == 0
    assert [info.key for info in held] == ([] if taken else ["report:42"])
    if not taken:
        lease.release()


def ends_of(words: list[str]) -> tuple[int, ...]:
    # The lock that the example has is younger than what is looked for; and nobody has the host or the token of it.
    return (1,) if words[0] == "locksmith_clear" and {"--owner", "--token"} & set(words) else (0,)


@pytest.mark.parametrize("block", blocks.here("sql"), ids=str)
def test_docs_sql(block: Block, transactional_db: None) -> None:
    """SQL as it is printed writes under a newer fence, and not under an older one."""
    for fence, written in ((1, 1), (2**62, 0)):
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE account (id integer PRIMARY KEY, balance integer, fence bigint)")
            cursor.execute("INSERT INTO account VALUES (7, 100, %s)", [fence])
            cursor.execute(block.text.partition("--")[0])
            cursor.execute("SELECT count(*) FROM account WHERE balance = 70")
            assert cursor.fetchone() == (written,)
            cursor.execute("DROP TABLE account")


@pytest.mark.parametrize("block", blocks.here("django"), ids=str)
def test_docs_templates(block: Block) -> None:
    """A template as it is printed fits into a base template, and leaves our pages a place."""
    base = "<main>{% block content %}{% endblock %}</main>"
    page = '{% extends "answer.html" %}{% block main %}our page{% endblock %}'
    loader = (
        "django.template.loaders.locmem.Loader",
        {"base.html": base, "answer.html": block.text, "page.html": page},
    )
    assert Engine(loaders=[loader]).get_template("page.html").render(Context()) == "<main>our page</main>"


def test_docs_are_all_run() -> None:
    """Each block is run here, or has a reason; each reason is for a block that is there."""
    known = ("python", "sh", "crontab", "sql", "django")
    unknown = [
        str(block) for block in blocks.all_blocks() if block.language not in known and not blocks.left_out(block)
    ]
    assert not unknown, "no test knows this kind of block, and no reason stands beside it"
    used = {key for key in blocks.LEFT_OUT if any(key[0] == b.page and key[1] in b.text for b in blocks.all_blocks())}
    assert used == set(blocks.LEFT_OUT)
    tried = {key for key in WITH if any(key[0] == b.page and key[1] in b.text for b in blocks.all_blocks())}
    assert tried == set(WITH)
    run = len(blocks.here(*known))
    print(f"{run} blocks are run, {len(blocks.all_blocks()) - run} left out, each with its reason")


def test_docs_have_no_block_that_is_not_seen() -> None:
    """Every fence of every page belongs to a block that was found."""
    for page in blocks.pages():
        fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.MULTILINE)
        found = [block for block in blocks.all_blocks() if block.page == page.relative_to(ROOT).as_posix()]
        assert len(fences) == 2 * len(found), page


LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
HOME = "https://github.com/django-locksmith/django-locksmith/blob/main/"


def test_docs_links_lead_somewhere() -> None:
    """Links within the project lead to files that are there; those of the README, which PyPI shows too, are whole."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert LINK.findall(readme) == []
    ours = re.findall(re.escape(HOME) + r"([^)#\s]+)", readme)
    assert len(ours) > 20
    assert all((ROOT / path).exists() for path in ours)
    for page in blocks.pages()[1:]:
        for path, _ in LINK.findall(page.read_text(encoding="utf-8")):
            assert not path or (page.parent / path).exists(), (page, path)
