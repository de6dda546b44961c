"""The admin's page of locks: what it shows, to whom, and what a release by force does and leaves alone."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import threading
import time
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Permission
from django.contrib.messages import get_messages
from django.core.management import call_command
from django.db import connection
from django.test import override_settings
from django.urls import NoReverseMatch, reverse
from django.utils.html import strip_tags

from django_locksmith import LockInfo, Locksmith, LockUnavailable, locksmith, signals
from django_locksmith.admin import LockAdmin
from django_locksmith.admin_page.lock_list import HeldLock, LockList, Row
from django_locksmith.formatting import duration
from django_locksmith.models import Lock
from django_locksmith.records import Holder
from django_locksmith.tokens import HANDED_OVER
from tests.helpers.servers import poll

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from django.test import Client

    from django_locksmith import Lease
    from tests.helpers.deployments import Deployment

pytestmark = pytest.mark.django_db

LIST = "/admin/django_locksmith/lock/"
PART = f"{LIST}part/"
RELEASE = f"{LIST}release/"
HISTORY = f"{LIST}history/"
VIEW, FORCE = "view_lock", "release_lock"
FORCE_BUTTON = "Force release…"
BOX = "_selected_action"
NASTY = [
    "",
    " blank ",
    'it\'s "quoted" <b>bold</b> & co',
    "a/b?c=d#e%2F",
    "two\r\nlines\n",
    "\x00\x1b[31m",
    "\u202eright to left",
    "file-\udcff\udc80.bin",
    "ключ-鍵-🔑",
    "k" * 10_000,
    '["a", "b"]',
]


def hold(key: str, *, host: str = "", label: str = "worker", **options: Any) -> Lease:
    """Take a lock; with `host`, as somebody there would."""
    token = f"{os.urandom(12).hex()}-1|{host}|42|MainThread|1700000000000|{label}" if host else None
    lease = locksmith(key, label=label, **options).acquire(blocking=False, token=token)
    assert lease is not None
    return lease


def held_now() -> list[str]:
    return [info.key for info in locksmith.locks()]


def rows(response: Any) -> list[str]:
    """The rows of the table, each as the text that one reads."""
    found = re.findall(r'<tr role="row".*?</tr>', response.content.decode(), re.DOTALL)
    return [" ".join(html.unescape(strip_tags(row)).split()) for row in found[1:]]


def boxes(response: Any) -> list[str]:
    """What the boxes, or the hidden fields, of the locks carry."""
    return [html.unescape(value) for value in re.findall(rf'name="{BOX}"\s+value="(.*?)"', response.content.decode())]


def said(response: Any) -> list[str]:
    """The messages that the next page will show."""
    return [str(message) for message in get_messages(response.wsgi_request)]


def force(client: Client, values: list[str], **more: str) -> Any:
    return client.post(RELEASE, {BOX: values, **more})


@pytest.fixture
def staff(client: Client, django_user_model: Any) -> Callable[..., Client]:
    """Log in as a member of the staff with these permissions."""

    def log_in(*permissions: str) -> Client:
        user = django_user_model.objects.create_user("grace", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user)
        return client

    return log_in


# ---- the model: a name for permissions, and nothing else


PROJECT = """
SECRET_KEY = "x"
INSTALLED_APPS = {apps}
DATABASES = {databases}
CACHES = {{"default": {{"BACKEND": "django_redis.cache.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}}}}
MIDDLEWARE = []
"""


def manage(folder: Path, *arguments: str) -> str:
    """Run a management command of the project in this folder; what it wrote."""
    path = os.pathsep.join(filter(None, [str(folder), *sys.path]))
    done = subprocess.run(
        [sys.executable, "-m", "django", *arguments, "--settings", "project"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_projects_without_database_or_admin(tmp_path: Path) -> None:
    """A project without a database, and without admin, users and content types, notices nothing of the admin page."""
    (tmp_path / "project.py").write_text(PROJECT.format(apps=["django_locksmith"], databases={}))
    code = "import sys, django_locksmith.models; print('django_locksmith.admin' in sys.modules)"
    assert "no issues" in manage(tmp_path, "check")
    assert manage(tmp_path, "shell", "-c", code).strip().endswith("False")


def test_no_table_and_no_migration(tmp_path: Path) -> None:
    """`migrate` makes permissions and no table; `makemigrations --check` and `dumpdata` have nothing to say."""
    apps = ["django.contrib.auth", "django.contrib.contenttypes", "django_locksmith"]
    database = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db")}}
    (tmp_path / "project.py").write_text(PROJECT.format(apps=apps, databases=database))
    manage(tmp_path, "migrate", "--run-syncdb")
    assert "No changes detected" in manage(tmp_path, "makemigrations", "--check", "--dry-run")
    assert json.loads(manage(tmp_path, "dumpdata", "django_locksmith", "--all")) == []
    code = (
        "from django.contrib.auth.models import Permission; from django.db import connection;"
        "print('TABLES', [name for name in connection.introspection.table_names() if 'lock' in name]);"
        "print('MAY', sorted(Permission.objects.filter(content_type__model='lock').values_list('codename', flat=True)))"
    )
    out = manage(tmp_path, "shell", "-c", code)
    assert "TABLES []" in out
    assert "MAY ['release_lock', 'view_lock']" in out


def test_model_finds_nothing() -> None:
    """Code that asks every model of a project for its rows gets none from this one, and no error."""
    assert list(Lock.objects.all()) == list(Lock._base_manager.all()) == []
    assert "lock" not in " ".join(connection.introspection.table_names())
    out = StringIO()
    call_command("dumpdata", "django_locksmith", stdout=out)
    assert out.getvalue().strip() == "[]"


# ---- who sees it


@pytest.mark.parametrize("url", [LIST, PART, RELEASE, HISTORY])
def test_anonymous(client: Client, url: str) -> None:
    """Who is not logged in is led to the login."""
    for response in (client.get(url), client.post(url)):
        assert response.status_code == 302
        assert response["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("permissions", [(), (FORCE,)])
@pytest.mark.parametrize("url", [LIST, PART, RELEASE, HISTORY])
def test_without_permission(staff: Callable[..., Client], url: str, permissions: tuple[str, ...]) -> None:
    """Staff without the permission to view locks get a 403, and see nothing of them on the index."""
    client = staff(*permissions)
    assert client.get(url).status_code == 403
    assert LIST not in client.get("/admin/").content.decode()


def test_view_only(valkey: Deployment, staff: Callable[..., Client]) -> None:
    """With the permission to view alone one sees the locks, and can neither tick nor release them."""
    hold("a")
    client = staff(VIEW)
    page = client.get(LIST)
    assert len(rows(page)) == 1
    assert FORCE_BUTTON not in page.content.decode()
    assert boxes(page) == []
    (lock,) = locksmith.locks()
    held = str(Row(lock, 120).held_lock)
    assert force(client, [held]).status_code == 403
    assert force(client, [held], confirmed="yes").status_code == 403
    assert held_now() == ["a"]


def test_both_permissions(valkey: Deployment, staff: Callable[..., Client]) -> None:
    """With both permissions one sees and releases, without being a superuser."""
    hold("a")
    client = staff(VIEW, FORCE)
    page = client.get(LIST)
    assert FORCE_BUTTON in page.content.decode()
    assert force(client, boxes(page), confirmed="yes").status_code == 302
    assert held_now() == []


def test_nothing_to_add_change_or_delete(valkey: Deployment, admin_client: Client) -> None:
    """Even a superuser finds no way to add, change or delete a lock as if it were a row."""
    hold("a")
    for view, arguments in (("add", []), ("change", ["a"]), ("delete", ["a"]), ("history", ["a"])):
        with pytest.raises(NoReverseMatch):
            reverse(f"admin:django_locksmith_lock_{view}", args=arguments)
    for url in (f"{LIST}add/", f"{LIST}a/change/", f"{LIST}a/delete/"):
        assert admin_client.get(url).status_code == 404
    assert admin_client.post(LIST, {"action": "delete_selected"}).status_code == 405
    assert "View" in admin_client.get("/admin/").content.decode()
    assert held_now() == ["a"]


# ---- what it shows


def test_list(valkey: Deployment, admin_client: Client) -> None:
    """Each lock has a row: key, holder, state, how long held, how long left, waiters. By key; the time has its zone."""
    hold("b", host="web-2", label="gunicorn", timeout=3600), hold("a", host="web-1", label="x")
    page = admin_client.get(LIST)
    one, other = rows(page)
    assert one.startswith("a web-1:42:MainThread x held ")
    assert other.startswith("b web-2:42:MainThread gunicorn held ")
    assert re.search(r"held \d\.\d s 59 min 5\d s 0$", other)
    shown = " ".join(strip_tags(page.content.decode()).split())
    assert re.search(r"2 locks as of \d\d:\d\d:\d\d CST", shown)


@pytest.mark.parametrize(
    ("sort", "keys"), [("", "abc"), ("key", "abc"), ("held", "cab"), ("left", "bca"), ("waiters", "bac"), ("no", "abc")]
)
def test_order(valkey: Deployment, admin_client: Client, sort: str, keys: str) -> None:
    """By key, or the oldest first, what ends soonest, what most wait for; the menu says which, and links keep it."""
    for key, timeout in {"c": 300, "a": 400, "b": 30}.items():
        hold(key, timeout=timeout)
    with valkey.server.client() as client:
        client.zadd("__locksmith:<queue>b", {"somebody": time.time() * 1000 + 60_000})
    page = admin_client.get(LIST, {"sort": sort})
    assert [row[0] for row in rows(page)] == list(keys)
    assert f'value="{sort if sort not in ("", "no") else "key"}" data-key=' in page.content.decode()
    assert re.findall(r'<option value="(key|held|left|waiters)" data-key="\w+" selected>', page.content.decode()) == [
        sort if sort not in ("", "no") else "key"
    ]


def test_long_keys(valkey: Deployment, admin_client: Client) -> None:
    """Of a long key the list shows the two ends, and the whole when one points at it; the question shows the whole."""
    key = f"begin-{'x' * 200}-end"
    hold(key)
    page = admin_client.get(LIST)
    assert rows(page)[0].startswith(f"begin-{'x' * 42} … {'x' * 11}-end ")
    assert f'<bdi title="{key}">' in page.content.decode()
    assert key in rows(force(admin_client, boxes(page)))[0]


def test_empty_list(valkey: Deployment, admin_client: Client) -> None:
    """Where no lock is held the page says so; where none matches, it leads to all."""
    assert "No lock is held." in admin_client.get(LIST).content.decode()
    hold("a")
    nothing = admin_client.get(LIST, {"q": "b"}).content.decode()
    assert "No lock matches." in nothing
    assert f'<a href="{LIST}">Show all locks</a>' in nothing


def test_waiters(valkey: Deployment, admin_client: Client) -> None:
    """The page says how many wait for a lock."""
    lease = hold("a")
    waiter = threading.Thread(target=lambda: locksmith("a").run(lambda release: None))
    waiter.start()
    try:
        poll(lambda: rows(admin_client.get(LIST))[0].endswith(" 1"))
    finally:
        lease.release()
        waiter.join(10)


def test_states(valkey: Deployment, admin_client: Client) -> None:
    """Held, running out, being handed over, never expiring, set by other software: each is called by its name."""
    with valkey.server.client() as client:
        for key, value, how in (("d", HANDED_OVER, {"px": 60_000}), ("e", "theirs", {}), ("f", "theirs", {"ex": 60})):
            lease = hold(key)
            client.set(f"__locksmith:{key}", value, **how)
            assert lease.fence
        hold("a")
        lease = hold("b")
        # As if it had been held for a minute, and would end in nine seconds.
        client.zadd("__locksmith:<index>", {"__locksmith:b": lease.fence - 60_000_000})
        client.pexpire("__locksmith:b", 9_000)
    shown = rows(admin_client.get(LIST))
    for row, words in zip(
        shown,
        (
            ["held"],
            ["running out"],
            ["being handed over", "the next in the queue"],
            ["never expires", "without end"],
            [],
        ),
        strict=True,
    ):
        assert all(word in row for word in words)
    assert "set by other software" in shown[4]
    assert "theirs" in shown[4]
    # Whom should one take a lock from that is on its way to the next?
    assert [HeldLock.read(value).key for value in boxes(admin_client.get(LIST))] == ["a", "b", "e", "f"]


@pytest.mark.parametrize(
    ("held_for", "remaining", "percent", "state"),
    [
        (0, 120, 100, "held"),
        (60, 60, 50, "held"),
        (115, 5, 4, "running-out"),
        (7200, 110, 92, "held"),  # renewed again and again: full is the lease of the settings
        (7200, 5, 4, "running-out"),
        (1, 9, 90, "held"),  # a short lease is not running out as soon as it begins
        (8, 2, 20, "running-out"),
        (600, 3000, 100, "held"),
        (0, 0, 0, "running-out"),
    ],
)
def test_time_left(held_for: float, remaining: float, percent: int, state: str) -> None:
    """The bar is full at the whole lease, or at that of the settings if the lock is older than that."""
    holder = Holder("t", "host", 1, "thread", 0.0)
    row = Row(LockInfo("a", holder, held_for, remaining, 1, 0), 120)
    assert (row.percent_left, row.state) == (percent, state)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.99, "9.9 s"), (59.9, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (183600, "2 d 3 h")],
)
def test_durations(seconds: float, text: str) -> None:
    """Times are told in two units at most, and never rounded up."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        ({"q": "IMPORT"}, ["import:1", "import:2"]),
        ({"q": "web-1"}, ["import:1", "report"]),
        ({"q": "nightly"}, ["import:2"]),
        ({"host": "web-1"}, ["import:1", "report"]),
        ({"host": "web-1", "q": "rep"}, ["report"]),
        ({"host": "nowhere"}, []),
        ({"state": "held"}, ["import:1", "import:2", "report"]),
        ({"state": "endless"}, []),
        ({"state": "nonsense"}, []),
    ],
)
def test_search_and_filters(valkey: Deployment, admin_client: Client, asked: dict[str, str], keys: list[str]) -> None:
    """One finds locks by key and by holder, whatever the case, and by state and host."""
    hold("import:1", host="web-1")
    hold("import:2", host="web-2", label="nightly")
    hold("report", host="web-1")
    for url in (LIST, PART):
        assert [row.split()[0] for row in rows(admin_client.get(url, asked))] == keys


def test_filters_count(valkey: Deployment, admin_client: Client) -> None:
    """Each choice of a filter says how many locks it would leave, beside what else is asked for."""
    hold("import:1", host="web-1")
    hold("import:2", host="web-2")
    hold("report", host="web-1")
    text = " ".join(strip_tags(admin_client.get(LIST, {"q": "import"}).content.decode()).split())
    for choice in ("All states (2)", "held (2)", "never expires (0)", "All hosts (2)", "web-1 (1)", "web-2 (1)"):
        assert choice in text


def test_search_finds_locks_of_other_software(valkey: Deployment, admin_client: Client) -> None:
    """A lock that other software set is in no index, but is found by its whole key."""
    with valkey.server.client() as client:
        client.set("__locksmith:theirs", "x", ex=60)
    assert rows(admin_client.get(LIST)) == []
    assert rows(admin_client.get(LIST, {"q": "their"})) == []
    (row,) = rows(admin_client.get(LIST, {"q": "theirs"}))
    assert "set by other software" in row
    assert rows(admin_client.get(LIST, {"q": "<index>"})) == []


def test_pages(valkey: Deployment, admin_client: Client) -> None:
    """A page has a hundred locks; the others are one link away, and the search goes along."""
    for number in range(105):
        hold(f"item:{number:03}")
    hold("z")
    first = admin_client.get(LIST, {"q": "item"})
    assert len(rows(first)) == 100
    assert 'href="?q=item&amp;p=2"' in first.content.decode()
    assert "105 locks of 106" in " ".join(strip_tags(first.content.decode()).split())
    for page in ("2", "999"):
        last = [row.split()[0] for row in rows(admin_client.get(LIST, {"q": "item", "p": page}))]
        assert last == [f"item:{number}" for number in range(100, 105)]
    assert len(rows(admin_client.get(LIST, {"p": "nonsense"}))) == 100


def test_page_asks_the_index(valkey: Deployment, admin_client: Client) -> None:
    """Redis is never made to walk through all of its keys."""
    hold("a")
    valkey.forget_commands()
    admin_client.get(LIST)
    admin_client.get(PART, {"q": "a"})
    commands = set(valkey.commands())
    assert "zscan" in commands
    assert not commands & {"keys", "scan", "set", "del", "zadd", "zrem"}


def test_part_is_a_part(valkey: Deployment, admin_client: Client) -> None:
    """What is fetched again and again is only what can change, and never comes from a cache."""
    hold("a")
    response = admin_client.get(PART)
    assert rows(response)[0].startswith("a ")
    assert "<html" not in response.content.decode()
    assert "no-store" in response["Cache-Control"]


def test_other_languages(valkey: Deployment, admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numbers are written in another way, the page writes those for people so, and those for its script not."""
    monkeypatch.setattr(LockAdmin, "refresh_every", 2.5)
    hold("a")
    with override_settings(LANGUAGE_CODE="de", USE_THOUSAND_SEPARATOR=True):
        page = admin_client.get(LIST)
    assert 'data-every="2.5"' in page.content.decode()
    assert re.search(r"\b0,\d s", rows(page)[0])
    assert "Suchen" in page.content.decode()


# ---- trouble


@pytest.mark.parametrize("url", [LIST, PART])
def test_redis_is_down(own_server: Deployment, admin_client: Client, url: str) -> None:
    """Without Redis the page is there, and says that nothing is known."""
    own_server.server.kill()
    response = admin_client.get(url)
    assert response.status_code == 200
    assert "Whether locks are held is unknown. Redis gave no answer" in response.content.decode()
    assert "No lock is held" not in response.content.decode()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"REDIS": "nowhere"}, "&#x27;nowhere&#x27;, which is no alias in CACHES"),
        ({"REDIS": "redis", "TIMEOUTS": 3}, "did you mean &#x27;TIMEOUT&#x27;"),
        ({"REDIS": "ftp://x"}, "URL scheme"),
        ({"REDIS": "redis+cluster://127.0.0.1:1"}, "Whether locks are held is unknown"),
    ],
)
def test_settings_are_at_fault(admin_client: Client, settings: dict[str, Any], text: str) -> None:
    """Where LOCKSMITH is misconfigured the page is there, and names the setting at fault."""
    with override_settings(LOCKSMITH=settings):
        response = admin_client.get(LIST)
    assert response.status_code == 200
    assert text in response.content.decode()


def test_redis_goes_down_before_the_release(own_server: Deployment, admin_client: Client) -> None:
    """When Redis goes down before a release, one is told of each lock what is known of it: that nothing is."""
    hold("a")
    hold("b")
    values = boxes(admin_client.get(LIST))
    own_server.server.kill()
    for more in ({}, {"confirmed": "yes"}):
        response = force(admin_client, values, **more)
        assert response.status_code == 302
    assert said(response)[-2].endswith("This lock may have been released or not: a")
    assert said(response)[-1] == "Not released: b"
    assert not LogEntry.objects.exists()


# ---- release by force


def test_release(valkey: Deployment, admin_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """A release asks first, naming holder, since when and waiters; then takes what was ticked, tells and logs it."""
    lease = hold("a", host="web-1", label="import")
    hold("b")
    hold("c")
    told: list[LockInfo] = []

    def receive(info: LockInfo, **kwargs: Any) -> None:
        told.append(info)

    signals.cleared.connect(receive)
    try:
        ticked = boxes(admin_client.get(LIST))[:2]
        question = force(admin_client, ticked)
        assert question.status_code == 200
        assert held_now() == ["a", "b", "c"], "nothing is released before it is confirmed"
        assert [row.split()[0] for row in rows(question)] == ["a", "b"]
        assert rows(question)[0].startswith(f"a fence {lease.fence} web-1:42:MainThread import ")
        assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", rows(question)[0])
        assert boxes(question) == ticked
        done = force(admin_client, boxes(question), confirmed="yes")
    finally:
        signals.cleared.disconnect(receive)
    assert done.status_code == 302
    assert done["Location"] == LIST
    assert said(done) == ["Released: a", "Released: b"]
    assert held_now() == ["c"]
    assert [info.key for info in told] == ["a", "b"]
    logged = [record.getMessage() for record in caplog.records if record.name == "django_locksmith.admin"]
    assert logged[0] == "admin released a by force; it was held by web-1:42:MainThread (import)"
    first, second = LogEntry.objects.order_by("pk")
    assert (first.object_id, first.object_repr, first.action_flag) == ("a", "a", CHANGE)
    assert first.get_change_message() == "Released by force; it was held by web-1:42:MainThread (import)."
    assert first.user.get_username() == "admin"
    assert second.object_repr == "b"


def test_release_keeps_the_view(valkey: Deployment, admin_client: Client) -> None:
    """After a release one is back where one was: same search, same page."""
    hold("a&b")
    query = "?q=a%26b&p=1"
    page = admin_client.get(LIST + query)
    assert f'action="{RELEASE}?q=a%26b&amp;p=1"' in page.content.decode()
    question = admin_client.post(RELEASE + query, {BOX: boxes(page)})
    assert f'href="{LIST}?q=a%26b&amp;p=1"' in question.content.decode()
    done = admin_client.post(RELEASE + query, {BOX: boxes(page), "confirmed": "yes"})
    assert done["Location"] == LIST + query


def test_release_lets_waiters_go_on(valkey: Deployment, admin_client: Client) -> None:
    """Who waits for the lock gets it at once."""
    hold("a", timeout=300)
    got: list[Lease] = []
    waiter = threading.Thread(target=lambda: got.append(locksmith("a", blocking_timeout=60).acquire()))
    waiter.start()
    poll(lambda: locksmith.locks()[0].waiters == 1)
    force(admin_client, boxes(admin_client.get(LIST)), confirmed="yes")
    waiter.join(10)
    assert got[0].release()


def test_changed_hands(valkey: Deployment, admin_client: Client) -> None:
    """A lock that changed hands since it was shown stays with its new holder, and one is told; nothing is logged."""
    hold("a")
    question = force(admin_client, boxes(admin_client.get(LIST)))
    locksmith.clear("a")
    lease = hold("a")
    done = force(admin_client, boxes(question), confirmed="yes")
    assert said(done) == ["Changed hands meanwhile, left alone: a"]
    assert lease.release()
    assert not LogEntry.objects.exists()


def test_changed_hands_in_the_last_moment(
    valkey: Deployment, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even between the look and the release nobody else's lock is taken."""
    hold("a")
    values = boxes(admin_client.get(LIST))
    later: list[Lease] = []
    clear = locksmith.clear

    def in_between(*locks: Any) -> list[LockInfo]:
        clear("a")
        later.append(hold("a"))
        return clear(*locks)

    monkeypatch.setattr(locksmith, "clear", in_between)
    assert said(force(admin_client, values, confirmed="yes")) == ["Changed hands meanwhile, left alone: a"]
    assert later[0].release()


def test_being_handed_over(valkey: Deployment, admin_client: Client) -> None:
    """A lock that is on its way to the next holder is not taken from that one."""
    hold("a")
    values = boxes(admin_client.get(LIST))
    with valkey.server.client() as client:
        client.set("__locksmith:a", HANDED_OVER, px=60_000)
    assert said(force(admin_client, values, confirmed="yes")) == ["Changed hands meanwhile, left alone: a"]


def test_already_free(valkey: Deployment, admin_client: Client) -> None:
    """A lock that is free by now needs no question, and one is told."""
    lease, _ = hold("a"), hold("b")
    values = boxes(admin_client.get(LIST))
    lease.release()
    question = force(admin_client, values)
    assert [row.split()[0] for row in rows(question)] == ["b"]
    assert "Already free: a" in question.content.decode()
    locksmith.clear("b")
    for more in ({}, {"confirmed": "yes"}):
        response = force(admin_client, values[1:], **more)
        assert response["Location"] == LIST
    assert said(response)[-1] == "Already free: b"


def test_nothing_ticked(valkey: Deployment, admin_client: Client) -> None:
    """Without a tick nothing happens, and one is told what to do."""
    hold("a")
    for more in ({}, {"confirmed": "yes"}):
        response = force(admin_client, [], **more)
        assert response["Location"] == LIST
        assert said(response)[-1] == "Select the locks that are to be released."
    assert held_now() == ["a"]


def test_release_by_get(valkey: Deployment, admin_client: Client) -> None:
    """A link releases nothing: who comes by GET, from a login, say, is led back to the list."""
    hold("a")
    (value,) = boxes(admin_client.get(LIST))
    response = admin_client.get(RELEASE, {BOX: value, "confirmed": "yes"})
    assert response["Location"].startswith(LIST)
    assert said(response) == []
    assert held_now() == ["a"]


def test_release_needs_the_csrf_token(valkey: Deployment, admin_user: Any) -> None:
    """A page of another site releases nothing."""
    from django.test import Client

    hold("a")
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert force(client, boxes(client.get(LIST)), confirmed="yes").status_code == 403
    assert held_now() == ["a"]


@pytest.mark.parametrize(
    "value", ["", "a", "[]", "{}", "null", '["a"]', '["a", 1]', "[" * 100_000, '["<index>", "x"]', '["\\ud800", "x"]']
)
def test_garbage(valkey: Deployment, admin_client: Client, value: str) -> None:
    """What the page never sends is refused: a 400."""
    for more in ({}, {"confirmed": "yes"}):
        assert force(admin_client, [value], **more).status_code == 400


# ---- any text


@pytest.mark.parametrize("key", NASTY)
def test_keys_of_any_kind(valkey: Deployment, admin_client: Client, key: str) -> None:
    """Whatever a key and its holder contain is shown without harm, found again, released, and logged."""
    lease = hold(key, host="web<1>", label=f"l{key}", timeout=300)
    page = admin_client.get(LIST)
    text = page.content.decode()
    assert "<b>bold" not in text
    assert not set(text) & {"\x00", "\x1b", "\u202e", "\udcff"}
    (value,) = boxes(page)
    assert HeldLock.read(value) == (key, lease.token)
    assert value.isascii()
    assert value.isprintable()
    question = force(admin_client, [value])
    assert len(question.content) < 200_000, "a long key does not make a page that nobody can read"
    done = force(admin_client, boxes(question), confirmed="yes")
    assert done.status_code == 302
    assert held_now() == []
    assert len(said(done)) == 1
    entry = LogEntry.objects.get()
    assert entry.object_repr
    assert entry.get_admin_url() is None, "there is no page of the lock to lead to"
    for url in ("/admin/", LIST, HISTORY):
        response = admin_client.get(url)
        assert response.status_code == 200
        assert html.escape(entry.object_repr)[:50] in response.content.decode() or url == LIST


def test_foreign_token_of_any_kind(valkey: Deployment, admin_client: Client) -> None:
    """What other software put into Redis may be no text at all: it is shown, and released."""
    hold("a")
    with valkey.server.client() as client:
        client.set("__locksmith:a", b"\xff\xfe<script>\r\n" + b"x" * 5000, ex=60)
    page = admin_client.get(LIST)
    assert "<script>\\" not in page.content.decode()
    assert said(force(admin_client, boxes(page), confirmed="yes")) == ["Released: a"]
    assert locksmith.info("a") is None


def test_history(valkey: Deployment, admin_client: Client, staff: Callable[..., Client]) -> None:
    """The history says who took which lock from whom, the latest first; without any, it says so."""
    assert "No lock has been released by force." in admin_client.get(HISTORY).content.decode()
    for key in ("a", "b"):
        hold(key, host="web-1")
        force(admin_client, boxes(admin_client.get(LIST)), confirmed="yes")
    latest, first = rows(staff(VIEW).get(HISTORY))
    assert re.fullmatch(
        r"b [-\d]+ [:\d]+ CST admin Released by force; it was held by web-1:42:MainThread \(worker\)\.", latest
    )
    assert first.startswith("a ")


# ---- other sites, other services


def test_another_site(valkey: Deployment, admin_client: Client) -> None:
    """On another admin site the page works the same, and stays there."""
    hold("a")
    where = LIST.replace("/admin/", "/other/")
    page = admin_client.get(where).content.decode()
    assert 'href="/other/"' in page
    assert "/admin/django_locksmith" not in page
    response = admin_client.post(f"{where}release/", {BOX: boxes(admin_client.get(where)), "confirmed": "yes"})
    assert response["Location"] == where
    assert held_now() == []


def test_another_service(valkey: Deployment, admin_user: Any, rf: Any) -> None:
    """A subclass shows the locks of another `Locksmith`."""
    other = Locksmith(prefix="other:")
    hold("a")
    assert other("b").acquire()

    class OtherAdmin(LockAdmin):
        service = other
        list_per_page = 10

    request = rf.get(LIST)
    request.user = admin_user
    view = OtherAdmin(Lock, admin.site).changelist_view(request)
    assert [row.split()[0] for row in rows(view.render())] == ["b"]


def test_lock_list_raises_when_redis_is_down(own_server: Deployment) -> None:
    """Nothing is taken for an empty list when Redis is down."""
    own_server.server.kill()
    with pytest.raises(LockUnavailable):
        LockList(locksmith, {})
